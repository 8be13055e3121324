//! An instance without uWSGI whose sessions can be detached, and people who run `fpty`
//! there.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::attach_client::AttachClient;
use super::client::Pipes;
use super::person::Person;
use super::{Flavor, Server, Setup, process, servers, wait_until};

/// How a shell is started that says nothing of this machine.
pub const SHELL: &str = "PS1='$ ' exec bash --norc --noprofile -i";

/// `fpty` with these arguments.
pub fn fpty(arguments: &[&str]) -> Command {
    let mut fpty = Command::new(servers::fpty());
    fpty.args(arguments).env("LC_ALL", "C.UTF-8");
    fpty
}

/// A gateway at the UNIX socket `u` whose sessions run a shell script, with a file of its
/// own in `$T`.
pub fn setup(flavor: &Flavor, script: &str) -> Setup {
    let setup = Setup::new(flavor).script(script).option("forkpty-urouter", "{dir}/u");
    let file = setup.path("file");
    setup.env("T", &file)
}

/// The instance.
pub struct Detachable {
    pub server: Server,
    /// The address that people connect to.
    pub address: String,
}

impl Detachable {
    /// An instance that hands terminals over.
    #[track_caller]
    pub fn new(flavor: &Flavor, script: &str) -> Self {
        Self::of(flavor, script, true)
    }

    /// An instance that hands terminals over, or relays.
    #[track_caller]
    pub fn of(flavor: &Flavor, script: &str, hands_over: bool) -> Self {
        let setup = setup(flavor, script).option("forkptyrouter-detach", "9");
        Self::start(setup.option("forkptyrouter-handover", &hands_over.to_string()))
    }

    /// One of these options.
    #[track_caller]
    pub fn start(setup: Setup) -> Self {
        let server = setup.start();
        let address = server.path("u");
        Self { server, address }
    }

    /// A person on a terminal of this size who runs `fpty` with these arguments before
    /// the address.
    pub fn connect(&self, arguments: &[&str], size: (u16, u16)) -> Person {
        Person::runs(fpty(&[arguments, &[&self.address]].concat()), size)
    }

    /// Attaches a person to the session that was detached last.
    pub fn attach(&self, arguments: &[&str], size: (u16, u16)) -> Person {
        self.connect(&[arguments, &["-a"]].concat(), size)
    }

    /// The list of sessions, as `fpty --list --json` says it.
    #[track_caller]
    pub fn list(&self) -> Vec<Value> {
        let listed = Pipes::reading(fpty(&["--list", "--json", &self.address]), Stdio::null());
        let listed = listed.finish();
        serde_json::from_slice(&listed.stdout).unwrap_or_else(|error| panic!("{error}: {listed:?}"))
    }

    /// The only session.
    #[track_caller]
    pub fn session(&self) -> Value {
        let mut all = self.list();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// The id of the only session.
    #[track_caller]
    pub fn id(&self) -> String {
        self.session()["id"].as_str().expect("an id").to_owned()
    }

    /// Waits until the client has the terminal: it is offered a moment after the start,
    /// and relayed until then.
    #[track_caller]
    pub fn wait_for_handover(&self, person: &Person) {
        wait_until("the client has the terminal", || {
            let open = process::descriptors(person.client());
            let count = |name: &str| open.iter().filter(|(_, to)| to.ends_with(name)).count();
            // The program's pidfd comes with it; the client has one of the server itself.
            count("ptmx") > 0 && count("anon_inode:[pidfd]") > 1
        });
    }

    /// Kills the client, and waits until the gateway has seen it.
    #[track_caller]
    pub fn lose(&self, person: Person) {
        person.vanishes();
        wait_until("the client is lost", || {
            let all = self.list();
            !all.is_empty() && all.iter().all(|one| one["attached"] == false)
        });
    }

    /// Waits until no session has this program any more.
    #[track_caller]
    pub fn wait_for_end_of(&self, program: &str) {
        wait_until(&format!("{program} ends"), || {
            self.server.session_processes().iter().all(|process| process.name != program)
        });
    }

    /// The ring of the only session, as its next client gets it, which is lost then.
    #[track_caller]
    pub fn ring(&self) -> OwnedFd {
        let client = AttachClient::comes(&self.server, &self.id(), &[]).takes();
        let ring = client.ring.as_ref().expect("a ring").try_clone().expect("a copy");
        drop(client);
        wait_until("that client is lost", || self.session()["attached"] == false);
        ring
    }
}

/// Leaves by `~d`, at the beginning of a line; returns the word to come back with.
#[track_caller]
pub fn detach(mut person: Person, address: &str) -> String {
    person.send("~d");
    assert_eq!(person.status(), 0);
    let shown = person.shown();
    let (_, rest) = shown.rsplit_once("detached: ").unwrap_or_else(|| panic!("{shown:?}"));
    let (id, rest) = rest.split_once(" (come back with: fpty -a ").expect("a way back");
    let (word, rest) = rest.split_once(' ').expect("a word");
    assert!(word.starts_with(id) && rest.starts_with(&format!("{address})")), "{shown:?}");
    word.to_owned()
}
