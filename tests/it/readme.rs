//! Every command of README.md is exercised: run here as it stands, or by a
//! script of `make test`. A command that the table does not know fails.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::servers::C_BINARY;
use crate::harness::terminal::Terminal;
use crate::harness::{
    DEADLINE, Flavor, Server, Setup, Wire, comes_true, on_every_server, wait_until,
};

/// How a command is exercised.
#[derive(Clone, Copy, Debug)]
enum How {
    /// By a script, which has the command under this text.
    By(&'static str, &'static str),
    /// It starts a server, here.
    Serves,
    /// It starts a server whose ini file needs root and a user, here.
    ServesAsRoot,
    /// It attaches to what the command before it started, or to a server with
    /// both modes, here.
    Attaches,
    /// The same for a program that not every machine has.
    AttachesWith(&'static str),
}
use How::{Attaches, AttachesWith, By, Serves, ServesAsRoot};

const CHECK_MAKE: &str = "tools/check-make";
const BUILD_WAYS: &str = "tools/check-build-ways";

/// The commands, as README has them.
const COMMANDS: &[(&str, How)] = &[
    ("make run", By(CHECK_MAKE, "make run")),
    ("make test", By(".ci/run", "step make test")),
    ("make bench", By(CHECK_MAKE, "make bench BENCH=")),
    ("uwsgi --plugin ./libforkptyrouter.so --forkpty-router /tmp/fpty.socket", Serves),
    ("uwsgi --plugin ./pty_plugin.so --pty-connect /tmp/fpty.socket", Attaches),
    ("uwsgi --plugin ./libforkptyrouter.so --ini examples/forkpty-router.ini", ServesAsRoot),
    ("uwsgi --plugin ./pty_plugin.so --pty-connect /tmp/raw.socket", Attaches),
    ("uwsgi --plugin ./pty_plugin.so --pty-uconnect /tmp/uwsgi.socket", Attaches),
    (
        "uwsgi-core --plugins-dir /usr/lib/uwsgi/plugins --plugin pty --pty-connect /tmp/raw.socket",
        AttachesWith(C_BINARY),
    ),
    (
        "uwsgi-core --plugins-dir /usr/lib/uwsgi/plugins --plugin pty --pty-uconnect /tmp/uwsgi.socket",
        AttachesWith(C_BINARY),
    ),
    ("python3 examples/client.py /tmp/raw.socket", Attaches),
    ("socat -,raw,echo=0 UNIX-CONNECT:/tmp/raw.socket", AttachesWith("/usr/bin/socat")),
    (
        "echo 'hostname; exit' | uwsgi --plugin ./pty_plugin.so --pty-connect /tmp/raw.socket",
        Attaches,
    ),
    (
        "uwsgi --plugin ./pty_plugin.so --master --pty-socket /tmp/pty.socket \
         --pty-exec 'exec /bin/sh -i' --socket /tmp/app.socket",
        Serves,
    ),
    ("uwsgi --plugin ./pty_plugin.so --pty-connect /tmp/pty.socket", Attaches),
    (
        "make install PLUGINDIR=/usr/local/lib/uwsgi/plugins",
        By(CHECK_MAKE, "make install PLUGINDIR=/usr/local/lib/uwsgi/plugins"),
    ),
    (
        "uwsgi --plugins-dir /usr/local/lib/uwsgi/plugins --plugin forkptyrouter \
         --forkpty-router /tmp/fpty.socket",
        Serves,
    ),
    (
        "PYTHON=python3 uwsgi --build-plugin /path/to/forkptyrouter",
        By(BUILD_WAYS, "\"$1\" --build-plugin \"$root\""),
    ),
    (
        "PYTHON=python3 uwsgi --build-plugin /path/to/forkptyrouter/pty",
        By(BUILD_WAYS, "\"$1\" --build-plugin \"$root/pty\""),
    ),
    (
        "python3 uwsgiconfig.py --plugin /path/to/forkptyrouter nolang",
        By(BUILD_WAYS, "uwsgiconfig.py --plugin \"$root\" nolang"),
    ),
    (
        "python3 uwsgiconfig.py --plugin /path/to/forkptyrouter/pty nolang",
        By(BUILD_WAYS, "uwsgiconfig.py --plugin \"$root/pty\" nolang"),
    ),
    (
        "UWSGI_EMBED_PLUGINS=pty=/path/to/forkptyrouter/pty,forkptyrouter=/path/to/forkptyrouter \
         make PYTHON=python3",
        By(BUILD_WAYS, "plugins=forkptyrouter=$root,pty=$root/pty"),
    ),
    (
        "rm -r plugins/pty plugins/forkptyrouter",
        By(BUILD_WAYS, "rm -rf plugins/pty plugins/forkptyrouter"),
    ),
    (
        "ln -s /path/to/forkptyrouter plugins/forkptyrouter",
        By(BUILD_WAYS, "ln -s \"$root\" plugins/forkptyrouter"),
    ),
    (
        "ln -s /path/to/forkptyrouter/pty plugins/pty",
        By(BUILD_WAYS, "ln -s \"$root/pty\" plugins/pty"),
    ),
    (
        "UWSGI_EMBED_PLUGINS=pty,forkptyrouter make PYTHON=python3",
        By(BUILD_WAYS, "UWSGI_EMBED_PLUGINS=$plugins make PYTHON="),
    ),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

/// The blocks of one kind, each with the text before it.
fn blocks<'a>(text: &'a str, kind: &str) -> Vec<(&'a str, &'a str)> {
    let opening = format!("```{kind}\n");
    text.match_indices(&opening)
        .map(|(at, _)| {
            let body = &text[at + opening.len()..];
            let end = body.find("```").expect("a block ends");
            (&text[..at], &body[..end])
        })
        .collect()
}

/// The commands of README: the lines of its shell blocks, and those in the
/// table of what attaches.
fn commands(text: &str) -> Vec<&str> {
    let mut found: Vec<&str> =
        blocks(text, "sh").into_iter().flat_map(|(_, body)| body.lines()).collect();
    let attach = text.split("\n## Attach\n").nth(1).expect("the section Attach");
    for row in attach.lines().skip_while(|line| !line.starts_with('|')) {
        if !row.starts_with('|') {
            break;
        }
        for cell in row.split('|').map(str::trim) {
            let command = cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`'));
            found.extend(command.filter(|command| command.contains(' ')));
        }
    }
    found
}

#[test]
fn every_command_is_known() {
    let text = readme();
    let found = commands(&text);
    for command in &found {
        assert!(
            COMMANDS.iter().any(|(known, _)| known == command),
            "README.md has a command that no test runs: {command}"
        );
    }
    for (known, how) in COMMANDS {
        assert!(found.contains(known), "README.md does not have this command any more: {known}");
        if let By(script, part) = how {
            let script_text = fs::read_to_string(root().join(script)).unwrap();
            assert!(script_text.contains(part), "{script} does not have {part:?}");
        }
    }
    let other = text.matches("```").count() / 2;
    let counted = ["sh", "ini"].iter().map(|kind| blocks(&text, kind).len()).sum::<usize>();
    assert_eq!(counted, other, "README.md has blocks of another kind");
}

#[test]
fn the_configurations_are_those_in_examples() {
    let text = readme();
    let mut shown: Vec<&str> = Vec::new();
    for (before, body) in blocks(&text, "ini") {
        let paragraph = before.trim_end().rsplit("\n\n").next().unwrap_or_default();
        let Some((_, rest)) = paragraph.split_once("](examples/") else {
            assert!(!body.contains("[uwsgi]"), "a configuration without its file: {body}");
            continue;
        };
        let name = rest.split(')').next().unwrap_or_default();
        let file = fs::read_to_string(root().join("examples").join(name)).unwrap();
        let settings: Vec<&str> = file.lines().filter(|line| !line.starts_with(';')).collect();
        assert_eq!(settings, body.lines().collect::<Vec<_>>(), "{name}");
        shown.push(name);
    }
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".ini") || shown.contains(&name.as_str()), "{name} is not shown");
    }
}

/// The folder that README's commands are typed in, and `/tmp`: a folder of
/// the test's own takes its place, as others run at the same time.
struct Place {
    folder: tempfile::TempDir,
    path: String,
    plugins: String,
}

impl Place {
    fn new(flavor: &Flavor) -> Self {
        let folder = tempfile::Builder::new().prefix("rm").tempdir_in("/tmp").unwrap();
        // The instances give up root before they bind.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        for entry in fs::read_dir(&flavor.plugins).unwrap().flatten() {
            symlink(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let place = Self {
            path: format!(
                "{}:{}",
                flavor.binary.parent().unwrap().display(),
                std::env::var("PATH").unwrap_or_default()
            ),
            plugins: flavor.plugins.display().to_string(),
            folder,
        };
        fs::create_dir(place.file("examples")).unwrap();
        for entry in fs::read_dir(root().join("examples")).unwrap().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap();
            let name = entry.file_name().into_string().unwrap();
            fs::write(place.file("examples").join(name), place.here(&text)).unwrap();
        }
        place
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A text with the paths of this place in it.
    fn here(&self, text: &str) -> String {
        // In this order: the clone may lie below /tmp itself.
        text.replace("/tmp/", &format!("{}/", self.folder.path().display()))
            .replace("/usr/local/lib/uwsgi/plugins", &self.plugins)
    }

    fn serve(&self, title: &str, line: &str) -> Server {
        let line = self.here(line);
        let script = self.file("serve");
        fs::write(&script, format!("#!/bin/sh\nexec {line}\n")).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        Setup::bare(title, &script).current_dir(self.folder.path()).env("PATH", &self.path).launch()
    }

    /// Types a client's command in a terminal, types into what it attaches
    /// to, and leaves.
    #[track_caller]
    fn attach(&self, line: &str) {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(self.here(line)).env("PATH", &self.path).env("TERM", "xterm");
        command.env("LC_ALL", "C").current_dir(self.folder.path());
        let mut terminal = Terminal::run(command, 24, 80);
        if line.contains(" | ") {
            let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
            terminal.wire.read_until(&format!("{}\r", name.trim_end()));
        } else {
            // What is typed earlier may be flushed.
            wait_until("the client has its terminal", || terminal.is_raw());
            terminal.wire.send("echo \"<$((6 * 7))>\"\r");
            terminal.wire.read_until("<42>\r\n");
            // The shared shell stays.
            terminal.wire.send(if line.contains("/pty.socket") { "\r~." } else { "exit\r" });
        }
        let status = terminal.wait();
        assert!(status.success(), "{line}: {status}");
    }

    /// Starts a server by a command and waits until it answers.
    #[track_caller]
    fn start(&self, title: &str, line: &str) -> Server {
        eprintln!("$ {line}");
        let server = self.serve(title, line);
        let socket = self.socket_of(line);
        let there = || UnixStream::connect(&socket).is_ok();
        assert!(comes_true(DEADLINE, there), "{socket}: {}", server.log());
        server
    }

    fn socket_of(&self, line: &str) -> String {
        // The one of the ini file is the same.
        let mut words = line.split([' ', ':']);
        self.here(words.find(|word| word.ends_with(".socket")).unwrap_or("/tmp/fpty.socket"))
    }
}

fn add_kratos() {
    let there = || nix::unistd::User::from_name("kratos").unwrap().is_some();
    // Another test may be about to do it.
    if !there() {
        let _ = Command::new("useradd").args(["-r", "kratos"]).status();
    }
    wait_until("there is a user kratos", there);
}

/// For the section Attach: both modes.
const BOTH: &str = "uwsgi --plugin ./libforkptyrouter.so --forkpty-router /tmp/raw.socket \
                    --forkpty-urouter /tmp/uwsgi.socket";

#[test]
fn the_commands_serve_and_attach() {
    on_every_server(|flavor| {
        let place = Place::new(flavor);
        let mut running: Option<Server> = None;
        for (line, how) in COMMANDS {
            match how {
                By(..) => {}
                Serves => {
                    drop(running.take());
                    running = Some(place.start(&flavor.name, line));
                }
                ServesAsRoot if !nix::unistd::getuid().is_root() => {
                    eprintln!("skipped, as it needs root: {line}");
                }
                ServesAsRoot => {
                    drop(running.take());
                    add_kratos();
                    let server = place.start(&flavor.name, line);
                    let mut client = Wire::connect(&place.socket_of(line));
                    assert_eq!(client.shell("hostname; id -un"), "iaminajail\r\nkratos\r\n");
                    running = Some(server);
                }
                AttachesWith(program) if !Path::new(program).exists() => {
                    eprintln!("skipped, as there is no {program}: {line}");
                }
                AttachesWith(_) | Attaches => {
                    if UnixStream::connect(place.socket_of(line)).is_err() {
                        drop(running.take());
                        running = Some(place.start(&flavor.name, BOTH));
                    }
                    eprintln!("$ {line}");
                    place.attach(line);
                }
            }
        }
    });
}
