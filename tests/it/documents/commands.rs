//! Every command of the documents is exercised: run here as it stands, or by
//! a script of `make test`. A command that the table does not know fails.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::documents::{self, root};
use crate::harness::servers::{C_BINARY, fpty};
use crate::harness::terminal::Terminal;
use crate::harness::{
    DEADLINE, Flavor, Server, Setup, Wire, comes_true, executable, on_every_server_in_turn,
    wait_until,
};

/// How a command is exercised.
#[derive(Clone, Copy, Debug)]
enum How {
    /// By a script, which has the command under this text.
    By(&'static str, &'static str),
    /// The command starts a server, here.
    Serves,
    /// The command starts a server whose ini file needs root and a user, here.
    ServesAsRoot,
    /// The command attaches to what the command before it started, or to a server with
    /// both modes, here.
    Attaches,
    /// As `Attaches`, by a program that not every machine has.
    AttachesWith(&'static str),
    /// The command talks to such a server by a program that not every machine has, and
    /// prints this.
    Prints(&'static str, &'static str),
}
use How::{Attaches, AttachesWith, By, Prints, Serves, ServesAsRoot};

const CHECK_MAKE: &str = "tools/check-make";
const BUILD_WAYS: &str = "tools/check-build-ways";
const SOCAT: &str = "/usr/bin/socat";

/// The commands, in an order in which they can be run.
const COMMANDS: &[(&str, How)] = &[
    // README.md
    ("make run", By(CHECK_MAKE, "make run")),
    ("make test", By(".ci/run", "step make test")),
    ("uwsgi --plugin ./libforkptyrouter.so --forkpty-urouter /tmp/fpty.socket", Serves),
    ("./fpty /tmp/fpty.socket", Attaches),
    ("uwsgi --plugin ./pty_plugin.so --pty-uconnect /tmp/fpty.socket", Attaches),
    ("uwsgi --plugin ./libforkptyrouter.so --ini examples/forkpty-router.ini", ServesAsRoot),
    ("./fpty /tmp/uwsgi.socket", Attaches),
    ("./fpty -r /tmp/raw.socket", Attaches),
    ("uwsgi --plugin ./libforkptyrouter.so --forkpty-router /tmp/fpty.socket", Serves),
    ("uwsgi --plugin ./pty_plugin.so --pty-connect /tmp/fpty.socket", Attaches),
    ("echo 'hostname; exit' | ./fpty /tmp/uwsgi.socket", Attaches),
    // docs/attach.md
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
    ("socat -,raw,echo=0 UNIX-CONNECT:/tmp/raw.socket", AttachesWith(SOCAT)),
    (
        "echo 'hostname; exit' | uwsgi --plugin ./pty_plugin.so --pty-connect /tmp/raw.socket",
        Attaches,
    ),
    ("./fpty --list /tmp/uwsgi.socket", Prints("/bin/sh", "ID  USER  PEER")),
    // docs/commands.md
    ("uwsgi --plugin ./libforkptyrouter.so --ini examples/commands.ini", Serves),
    ("./fpty /tmp/fpty.socket 'echo $((6 * 7))'", Prints("/bin/sh", "42\n")),
    ("./fpty /tmp/fpty.socket ls -d '/etc'", Prints("/bin/sh", "/etc\n")),
    ("./fpty /tmp/fpty.socket -- tar c /etc/hostname | tar t", Prints("/bin/sh", "etc/hostname\n")),
    (
        "./fpty /tmp/fpty.socket 'cat; echo and more' < /etc/hostname",
        Prints("/bin/sh", "and more\n"),
    ),
    (
        "uwsgi --plugin ./pty_plugin.so --pty-uconnect /tmp/fpty.socket \
         --pty-command 'echo $((6 * 7))'",
        Prints("/bin/sh", "42\n"),
    ),
    // docs/protocol.md
    (
        "printf '\\0\\062\\0\\144\\0\\204\\0\\145\\0\\022\\0\\0stty size; exit 0\\n' \
         | socat -t 5 - UNIX-CONNECT:/tmp/uwsgi.socket",
        Prints(SOCAT, "50 132\r\n"),
    ),
    // docs/options-pty.md, docs/options-statistics.md
    (
        "uwsgi --plugin ./pty_plugin.so --master --pty-socket /tmp/pty.socket \
         --pty-exec 'exec /bin/sh -i' --socket /tmp/app.socket",
        Serves,
    ),
    ("./fpty -r /tmp/pty.socket", Attaches),
    ("uwsgi --plugin ./pty_plugin.so --pty-connect /tmp/pty.socket", Attaches),
    (
        "uwsgi --plugin ./libforkptyrouter.so --forkpty-urouter /tmp/fpty.socket \
         --forkptyrouter-stats /tmp/stats.socket",
        Serves,
    ),
    ("uwsgi --connect-and-read /tmp/stats.socket", Prints("/bin/sh", "\"active_sessions\":")),
    // docs/performance.md
    ("make bench", By(CHECK_MAKE, "make bench BENCH=")),
    // docs/build.md
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
    // CONTRIBUTING.md
    ("make lint", By(".ci/run", "step make lint")),
    (
        "FORKPTY_SERVER=pypi-2.0.31-nolang tools/test quick --test it detach::",
        By("tests/it/harness/servers.rs", "var(\"FORKPTY_SERVER\")"),
    ),
    ("cargo test -p fpty", By("tools/test", "cargo test --locked --workspace")),
];

#[test]
fn every_documented_command_is_known() {
    let texts = documents::all();
    let mut found: Vec<&str> = Vec::new();
    for document in &texts {
        for command in document.commands() {
            assert!(
                COMMANDS.iter().any(|(known, _)| *known == command),
                "{} has a command that no test runs: {command}",
                document.name
            );
            found.push(command);
        }
    }
    for (known, how) in COMMANDS {
        assert!(found.contains(known), "no document has this command any more: {known}");
        if let By(script, part) = how {
            let script_text = fs::read_to_string(root().join(script)).unwrap();
            assert!(script_text.contains(part), "{script} does not have {part:?}");
        }
    }
}

/// The folder that the commands are typed in, and `/tmp`: a folder of
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
            if entry.file_name() == "fpty" {
                continue;
            }
            symlink(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        symlink(fpty(), folder.path().join("fpty")).unwrap();
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
            // A folder has tests of its own.
            let Ok(text) = fs::read_to_string(entry.path()) else { continue };
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
        executable::write(&script, format!("#!/bin/sh\nexec {line}\n"));
        Setup::bare(title, &script).current_dir(self.folder.path()).env("PATH", &self.path).launch()
    }

    /// A command as a shell would run it here.
    fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(self.here(line)).env("PATH", &self.path).env("TERM", "xterm");
        command.env("LC_ALL", "C").current_dir(self.folder.path());
        command
    }

    /// Types a client's command in a terminal, types into what it attaches
    /// to, and leaves.
    #[track_caller]
    fn attach(&self, line: &str) {
        let mut terminal = Terminal::run(self.shell(line), 24, 80);
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

    /// Runs a command that prints something and ends.
    #[track_caller]
    fn prints(&self, line: &str, text: &str) {
        let output = self.shell(line).stdin(Stdio::null()).output().unwrap();
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed);
        assert!(output.status.success() && printed.contains(text), "{line}: {printed}");
    }

    /// Starts a server by a command and waits until all of its sockets answer.
    #[track_caller]
    fn start(&self, title: &str, line: &str) -> Server {
        eprintln!("$ {line}");
        let server = self.serve(title, line);
        for socket in self.sockets_of(line) {
            let there = || UnixStream::connect(&socket).is_ok();
            assert!(comes_true(DEADLINE, there), "{socket}: {}", server.log());
        }
        server
    }

    fn sockets_of(&self, line: &str) -> Vec<String> {
        let words = line.split([' ', ':']).filter(|word| word.ends_with(".socket"));
        let sockets: Vec<String> = words.map(|word| self.here(word)).collect();
        // An ini file has the first one.
        if sockets.is_empty() { vec![self.here("/tmp/fpty.socket")] } else { sockets }
    }

    fn socket_of(&self, line: &str) -> String {
        self.sockets_of(line).swap_remove(0)
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

/// For those that attach: both modes.
const BOTH: &str = "uwsgi --plugin ./libforkptyrouter.so --forkpty-router /tmp/raw.socket \
                    --forkpty-urouter /tmp/uwsgi.socket";

#[test]
fn the_documented_commands_serve_and_attach() {
    on_every_server_in_turn(|flavor| {
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
                AttachesWith(program) | Prints(program, _) if !Path::new(program).exists() => {
                    eprintln!("skipped, as there is no {program}: {line}");
                }
                AttachesWith(_) | Attaches | Prints(..) => {
                    if UnixStream::connect(place.socket_of(line)).is_err() {
                        drop(running.take());
                        running = Some(place.start(&flavor.name, BOTH));
                    }
                    eprintln!("$ {line}");
                    match how {
                        Prints(_, text) => place.prints(line, text),
                        _ => place.attach(line),
                    }
                }
            }
        }
    });
}

/// The first tour: what is typed, and what is seen.
const TOUR: &[(&str, &str)] = &[
    ("hostname; id -un", "USER\r\n"),
    ("tty", "/dev/pts/"),
    ("stty size", "24 80\r\n"),
    ("sleep 100", "^C"),
    ("~?", "~.   disconnect"),
    ("exit 3", "=3\r\n"),
];

#[test]
fn the_first_tour_shows_what_it_says() {
    let text = documents::read("README.md");
    let rows = text.section("A first tour").lines().filter(|line| line.starts_with("| ")).skip(2);
    let rows: Vec<&str> = rows.collect();
    assert_eq!(rows.len(), TOUR.len());
    for (row, (typed, _)) in rows.iter().zip(TOUR) {
        assert!(row.contains(&format!("`{typed}`")), "{row}: {typed}");
    }
    let me = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
    on_every_server_in_turn(|flavor| {
        let place = Place::new(flavor);
        let line = "uwsgi --plugin ./libforkptyrouter.so --forkpty-urouter /tmp/fpty.socket";
        let server = place.start(&flavor.name, line);
        let mut terminal = Terminal::run(place.shell("./fpty /tmp/fpty.socket; echo =$?"), 24, 80);
        wait_until("the client has its terminal", || terminal.is_raw());
        for (typed, seen) in TOUR {
            let enter = if typed.starts_with('~') { "\r" } else { "" };
            terminal.wire.send(format!("{enter}{typed}\r"));
            if typed.starts_with("sleep") {
                // A key that comes as the shell is about to start it is lost.
                let runs = || server.session_processes().iter().any(|p| p.name == "sleep");
                wait_until("the job runs", runs);
                terminal.wire.send("\x03");
            }
            terminal.wire.read_until(&seen.replace("USER", &me));
        }
        terminal.wait();
    });
}
