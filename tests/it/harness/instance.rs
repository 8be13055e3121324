//! One session, from its beginning to its end, in each way in which it can begin
//! and end. What is told of it by all who tell of sessions: `reports.rs`.
//!
//! A case plans an instance ([`Plan`]) with a socket for each way to begin, begins
//! sessions there ([`Instance::begin`]), has them end ([`End::comes`]), and compares:
//! [`Instance::agrees`] with nobody told of otherwise than by the others, and
//! [`Instance::tells`] with how this one has to be told of.

use std::cell::RefCell;
use std::collections::HashSet;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

pub use super::live_session::{Client, ClientReport, LiveSession};
use super::ports::free_address;
use super::process::{self, Process};
use super::{Flavor, Server, Setup, servers, wait_until};

/// The program of all sessions: it says its number, obeys a line at a time, and
/// where no more can come it stays, for somebody to end it.
const PROGRAM: &str = "stty raw -echo 2>/dev/null; echo \"ready $$ \"; \
                       while read -r line; do eval \"$line\"; done; exec sleep 1000";

/// In what way a session begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `fpty -r`.
    Raw,
    /// Plain uwsgi mode, as clients speak it that know no other.
    Uwsgi,
    /// The extended mode; the terminal is its client's, where it can be.
    HandedOver,
    /// The extended mode, a command on a terminal that is relayed.
    Relayed,
    /// The configured program on three streams, which are relayed.
    Streams,
    /// A command on the client's own pipes.
    Passed,
}

impl Mode {
    pub const ALL: [Self; 6] =
        [Self::Raw, Self::Uwsgi, Self::HandedOver, Self::Relayed, Self::Streams, Self::Passed];

    /// As it is told of.
    pub fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Uwsgi => "uwsgi",
            _ => "extended",
        }
    }

    /// Whether the mode has a terminal.
    pub fn has_terminal(self) -> bool {
        !matches!(self, Self::Streams | Self::Passed)
    }

    /// Rules of the mode's socket beside its address.
    fn rules(self) -> &'static str {
        match self {
            Self::Relayed => "handover=false",
            Self::Streams => "idle_commands=1h",
            _ => "",
        }
    }
}

/// End of a session, or what happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The program ends, with status 7.
    Exit,
    /// SIGKILL ends its program.
    Signal,
    /// The client disconnects, and says so where it can.
    Leave,
    /// The client is killed.
    Lose,
    /// `fpty --kill`.
    Operator,
    /// A rule of its socket ends it: nothing is done.
    Limit,
    /// The gateways are killed.
    KillGateway,
    /// The supervisor is killed.
    KillSupervisor,
    /// The supervisor is killed, and the gateways when there is another supervisor.
    KillSupervisorThenGateway,
    /// The supervisor and the gateways are killed, before either knows of the other.
    KillBoth,
    /// The instance is reloaded.
    Reload,
    /// The instance stops.
    Stop,
}

/// A socket, and how sessions begin there.
#[derive(Clone, Debug)]
pub struct Socket {
    pub name: String,
    /// The address that clients connect to.
    pub address: String,
    pub mode: Mode,
}

/// An instance to be: it is audited, it has statistics and a socket `u` for
/// whoever asks.
pub struct Plan {
    setup: Setup,
    gateways: usize,
    over_tcp: bool,
    recorded: bool,
    doors: Vec<Socket>,
}

impl Plan {
    pub fn new(flavor: &Flavor) -> Self {
        let setup = Setup::new(flavor)
            .script(PROGRAM)
            .switch("stats-http")
            .switch("chmod-socket=666")
            .option("forkptyrouter-stats", "{dir}/stats")
            .option("forkptyrouter-audit", "json")
            .option("forkptyrouter-hangup-grace", "1")
            .option("forkptyrouter-allow-command", "true")
            .option("forkpty-urouter", "{dir}/u");
        Self { setup, gateways: 1, over_tcp: false, recorded: false, doors: Vec::new() }
    }

    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.setup = self.setup.option(name, value);
        self
    }

    pub fn switch(mut self, name: &str) -> Self {
        self.setup = self.setup.switch(name);
        self
    }

    /// So many gateways.
    pub fn gateways(mut self, gateways: usize) -> Self {
        self.gateways = gateways;
        self.option("forkptyrouter-processes", &gateways.to_string())
    }

    /// The sockets that are planned from here on are TCP's.
    pub fn over_tcp(mut self) -> Self {
        self.over_tcp = true;
        self
    }

    /// Sessions with a terminal are recorded, in `r`.
    pub fn recorded(mut self) -> Self {
        self.recorded = true;
        self.option("forkptyrouter-record", "{dir}/r")
    }

    /// A socket of this name, with these rules (`max=1,max_time=1`), or with none.
    pub fn door(mut self, name: &str, mode: Mode, rules: &str) -> Self {
        let address = match self.over_tcp {
            true => free_address(),
            false => self.setup.path(name),
        };
        let option = if mode == Mode::Raw { "forkpty-router" } else { "forkpty-urouter" };
        // A rule that is given takes the place of what the mode needs.
        let own = Some(mode.rules()).filter(|own| {
            let key = own.split('=').next().unwrap_or_default();
            !key.is_empty() && !rules.contains(key)
        });
        let all: Vec<&str> =
            own.into_iter().chain([rules]).filter(|some| !some.is_empty()).collect();
        self.doors.push(Socket { name: name.to_owned(), address: address.clone(), mode });
        match all.is_empty() {
            true => self.option(option, &address),
            false => {
                self.option(&format!("{option}2"), &format!("addr={address},{}", all.join(",")))
            }
        }
    }

    /// Starts it, and waits until all of it serves.
    #[track_caller]
    pub fn start(self) -> Instance {
        let Self { setup, gateways, recorded, doors, .. } = self;
        let server = setup.start();
        wait_until("all gateways serve", || server.count_in_log("sessions at once") == gateways);
        Instance {
            server,
            gateways,
            recorded,
            doors,
            audit: RefCell::default(),
            forgotten: RefCell::default(),
            refused_before: RefCell::default(),
        }
    }
}

/// The instance.
pub struct Instance {
    pub server: Server,
    pub(super) gateways: usize,
    pub(super) recorded: bool,
    doors: Vec<Socket>,
    /// The lines of the audit that were parsed, and how much of the log that is.
    pub(super) audit: RefCell<(usize, Vec<Value>)>,
    /// Sessions that no counter knows of any more: they had ended at a reload.
    pub(super) forgotten: RefCell<HashSet<String>>,
    /// So many lines of refusals there were then.
    pub(super) refused_before: RefCell<usize>,
}

impl Instance {
    fn door(&self, name: &str) -> &Socket {
        let found = self.doors.iter().find(|door| door.name == name);
        found.unwrap_or_else(|| panic!("no door {name}"))
    }

    /// `fpty`, with these words, for what concerns no session.
    pub fn fpty(&self, words: &[&str]) -> Command {
        let mut fpty = Command::new(servers::fpty());
        fpty.args(words).arg(self.server.path("u")).env("TERM", "xterm").env("NO_COLOR", "1");
        fpty
    }

    /// A client comes to a socket.
    #[track_caller]
    pub fn comes(&self, door: &str) -> Client {
        Client::comes(&self.server, self.door(door), &[])
    }

    /// A client attaches to this session, with these words for `fpty` beside.
    #[track_caller]
    pub fn comes_to(&self, door: &str, id: &str, words: &[&str]) -> Client {
        Client::comes(&self.server, self.door(door), &[words, &["-a", id]].concat())
    }

    /// Begins a session at a socket.
    #[track_caller]
    pub fn begin(&self, door: &str) -> LiveSession {
        self.begin_with(door, &[])
    }

    /// Begins a session, with these words for `fpty`.
    #[track_caller]
    pub fn begin_with(&self, door: &str, words: &[&str]) -> LiveSession {
        let door = self.door(door);
        let mut client = Client::comes(&self.server, door, words);
        let (id, pid) = loop {
            client.shown().read_until("ready ");
            let pid = client.shown().read_until(" ").trim().parse().expect("a process");
            let start = self.start_of(pid);
            // On a busy machine a client may be taken for one that knows no extended
            // mode, and asks again.
            if start["mode"] == door.mode.word() {
                break (start["id"].as_str().expect("an id").to_owned(), pid);
            }
        };
        // What is recorded is not, and over TCP nothing is.
        let is_handed_over =
            door.mode == Mode::HandedOver && !self.recorded && !door.address.contains(':');
        if is_handed_over {
            wait_until("it is handed over", || {
                let all = self.statistics();
                let is_it = |one: &Value| one["id"] == id.as_str() && one["handed_over"] == true;
                all["sessions"].as_array().is_some_and(|all| all.iter().any(is_it))
            });
        }
        let (what, mode) = (format!("{:?} at {}", door.mode, door.name), door.mode);
        LiveSession { what, id, mode, pid, is_handed_over, client }
    }

    /// The audit's first line of the session with this program.
    #[track_caller]
    fn start_of(&self, pid: i32) -> Value {
        let mut found = None;
        wait_until(&format!("the audit tells of process {pid}"), || {
            let is_it = |line: &Value| line["event"] == "session-start" && line["pid"] == pid;
            found = self.audit().iter().rfind(|line| is_it(line)).cloned();
            found.is_some()
        });
        found.expect("just seen")
    }

    /// Comes to a socket, and gets no session: what it is told.
    #[track_caller]
    pub fn refused_client(&self, door: &str) -> ClientReport {
        self.comes(door).told(door)
    }

    /// The gateways, as last spawned.
    #[track_caller]
    pub fn all_gateways(&self) -> Vec<i32> {
        let log = self.server.log();
        let of = |number: usize| {
            let spawned = format!("spawned uWSGI forkptyrouter {number} (pid: ");
            let (_, rest) = log.rsplit_once(&spawned).expect("the log names it");
            rest.split(')').next().expect("a number").parse().expect("a number")
        };
        (1..=self.gateways).map(of).collect()
    }

    /// The supervisor's pid, if it runs.
    pub fn supervisor(&self) -> Option<i32> {
        self.server.supervisor()
    }

    /// Waits until that has so many terminals.
    #[track_caller]
    pub fn wait_until_kept(&self, count: usize) {
        wait_until(&format!("{count} terminals are kept"), || {
            self.server.supervised_terminals() == count
        });
    }

    /// Where nothing was to be kept there is none.
    #[track_caller]
    fn kill_supervisor(&self) {
        let Some(pid) = self.supervisor() else { return };
        process::signal(pid, Signal::SIGKILL);
        wait_until("it is gone", || Process::of(pid).is_none_or(|it| it.is_zombie()));
    }

    /// Kills the gateways, and has no other ones come while this happens.
    #[track_caller]
    pub fn without_gateways<T>(&self, body: impl FnOnce() -> T) -> T {
        let (master, mut outcome) = (self.server.master(), None);
        self.replace_gateways(|gateways| {
            process::signal(master, Signal::SIGSTOP);
            kill_all(gateways);
            outcome = Some(body());
            process::signal(master, Signal::SIGCONT);
        });
        outcome.expect("it was done")
    }

    /// Kills one of the gateways, and waits until another one serves instead.
    #[track_caller]
    pub fn kill_gateway(&self, pid: i32) {
        let served = self.server.count_in_log("sessions at once");
        process::signal(pid, Signal::SIGKILL);
        wait_until("there is another gateway", || !self.all_gateways().contains(&pid));
        wait_until("it serves", || self.server.count_in_log("sessions at once") > served);
    }

    /// Does something, and waits until there are other gateways, which serve.
    #[track_caller]
    fn replace_gateways(&self, how: impl FnOnce(&[i32])) {
        let before = self.all_gateways();
        let served = self.server.count_in_log("sessions at once");
        how(&before);
        wait_until("there are other gateways", || {
            self.all_gateways().iter().all(|pid| !before.contains(pid))
        });
        wait_until("they serve", || {
            self.server.count_in_log("sessions at once") >= served + self.gateways
        });
    }

    /// Stops, as an operator has it.
    #[track_caller]
    fn stops(&self) {
        let master = self.server.master();
        process::signal(master, Signal::SIGINT);
        wait_until("it stops", || Process::of(master).is_none_or(|it| it.is_zombie()));
    }

    /// Notes which sessions no counter knows of any more.
    fn forget_the_ended(&self) {
        let audit = self.audit();
        let ended = audit.iter().filter(|line| line["event"] == "session-end");
        let ids = ended.filter_map(|line| line["id"].as_str().map(str::to_owned));
        self.forgotten.borrow_mut().extend(ids);
    }
}

impl End {
    /// Has it happen to all of these. Those that a gateway takes along or a reload
    /// (`dying`) have to be told of before anything else is.
    #[track_caller]
    pub fn comes(self, house: &Instance, lives: &mut [LiveSession], dying: &[String]) {
        match self {
            Self::Exit => lives.iter().for_each(|life| life.types("exit 7")),
            Self::Signal => {
                lives.iter().for_each(|life| process::signal(life.pid, Signal::SIGKILL));
            }
            Self::Leave => lives.iter_mut().for_each(LiveSession::leaves),
            Self::Lose => lives.iter_mut().for_each(LiveSession::loses_its_client),
            Self::Operator => {
                for life in lives {
                    let ended = house.fpty(&["--kill", &life.id]).output().expect("fpty runs");
                    assert!(ended.status.success(), "{}: {ended:?}", life.what);
                }
            }
            Self::Limit => {}
            Self::KillGateway => house.replace_gateways(kill_all),
            Self::KillSupervisor => house.kill_supervisor(),
            Self::KillSupervisorThenGateway => {
                let kept = lives.iter().filter(|life| life.is_handed_over).count();
                house.kill_supervisor();
                house.wait_until_kept(kept);
                house.replace_gateways(kill_all);
            }
            Self::KillBoth => house.replace_gateways(|gateways| {
                gateways.iter().for_each(|pid| process::signal(*pid, Signal::SIGSTOP));
                house.kill_supervisor();
                kill_all(gateways);
            }),
            Self::Reload => {
                *house.refused_before.borrow_mut() = house.refused();
                let master = house.server.master();
                house.replace_gateways(|_| process::signal(master, Signal::SIGHUP));
            }
            Self::Stop => house.stops(),
        }
        wait_until("those that cannot go on are told of", || {
            let told = house.audit();
            let is_told = |id: &String| {
                told.iter().any(|line| line["event"] == "session-end" && line["id"] == id.as_str())
            };
            dying.iter().all(is_told)
        });
        if self == Self::Reload {
            house.forget_the_ended();
        }
    }
}

fn kill_all(gateways: &[i32]) {
    gateways.iter().for_each(|pid| process::signal(*pid, Signal::SIGKILL));
}
