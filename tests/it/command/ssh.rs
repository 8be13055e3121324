//! Behind a real sshd: whoever logs in works in the instance. Each case is
//! compared with the same sshd without `ForceCommand`.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::Signal;

use crate::harness::documents::root;
use crate::harness::ports::free_port;
use crate::harness::process::{Process, signal};
use crate::harness::terminal::Terminal;
use crate::harness::{
    DEADLINE, Server, Setup, assert_same, comes_true, in_process, noise, on_one_server, servers,
    side_by_side, wait_until,
};

const SSHD: &str = "/usr/sbin/sshd";

/// An sshd with two ports: behind one of them everything goes to an address.
struct Sshd {
    folder: tempfile::TempDir,
    child: Child,
    /// The port of the instance, and the plain one.
    ports: [u16; 2],
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sshd {
    /// `None` where there is none, or we are not root.
    fn start(address: &str) -> Option<Self> {
        if !Path::new(SSHD).exists() || !nix::unistd::getuid().is_root() {
            eprintln!("skipped: there is no sshd here, or no root to run it");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("ssh").tempdir_in("/tmp").expect("a folder");
        let at = folder.path().display().to_string();
        for key in ["host_key", "user_key"] {
            let file = folder.path().join(key);
            let made = Command::new("ssh-keygen")
                .args(["-q", "-N", "", "-t", "ed25519", "-f"])
                .arg(file)
                .status();
            assert!(made.expect("ssh-keygen runs").success());
        }
        let _ = fs::create_dir_all("/run/sshd");
        let ports = [free_port(), free_port()];
        let fpty = servers::fpty().display().to_string();
        // The example, with paths and ports of our own.
        let text = fs::read_to_string(root().join("examples/ssh-forcecommand/sshd_config"));
        let text = text
            .expect("the example")
            .replace("/tmp/ssh/", &format!("{at}/"))
            .replace("Port 2222", &format!("Port {}\nPort {}", ports[0], ports[1]))
            .replace("/usr/local/bin/fpty", &fpty)
            .replace("/tmp/jail/run/ssh.socket", address)
            .replace("ForceCommand", &format!("Match LocalPort {}\nForceCommand", ports[0]))
            // Not below Match.
            .replace("\nPermitUserRC no", "");
        fs::write(folder.path().join("config"), text).expect("a file");
        let log = fs::File::create(folder.path().join("log")).expect("a file");
        let child = Command::new(SSHD)
            .args(["-D", "-e", "-f", &format!("{at}/config")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("sshd runs");
        let sshd = Self { folder, child, ports };
        let there = || ports.iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok());
        assert!(comes_true(DEADLINE, there), "{}", sshd.log());
        Some(sshd)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Options for one of the ports.
    fn options(&self, port: usize) -> Vec<String> {
        let key = self.file("user_key").display().to_string();
        let hosts = self.file("known").display().to_string();
        [
            "-F".into(),
            "none".into(),
            format!("-oPort={}", self.ports[port]),
            format!("-oIdentityFile={key}"),
            "-oIdentitiesOnly=yes".into(),
            format!("-oUserKnownHostsFile={hosts}"),
            "-oStrictHostKeyChecking=no".into(),
            "-oLogLevel=ERROR".into(),
        ]
        .to_vec()
    }

    /// An ssh client; its output must not be the tests' own, as ssh makes that
    /// non-blocking for all who write there.
    fn ssh(&self, port: usize, arguments: &[&str]) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(self.options(port));
        // Options come before the host.
        let (options, words): (Vec<&str>, Vec<&str>) =
            arguments.iter().partition(|word| word.starts_with('-') && !word.contains(' '));
        ssh.args(options).arg("root@127.0.0.1").args(words);
        ssh.stdin(Stdio::null());
        ssh
    }

    /// `scp`, `sftp` or `rsync`, with the options that they pass to ssh.
    fn with(&self, program: &str, port: usize, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        let options = self.options(port);
        match program {
            "rsync" => {
                command.arg("-e").arg(format!("ssh {}", options.join(" ")));
            }
            "git" => {
                command.env("GIT_SSH_COMMAND", format!("ssh {}", options.join(" ")));
                command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_COUNT", "1");
                command.env("GIT_CONFIG_KEY_0", "safe.directory").env("GIT_CONFIG_VALUE_0", "*");
            }
            _ => {
                command.args(options);
            }
        }
        command.args(arguments).stdin(Stdio::null()).output().expect("it runs")
    }

    #[track_caller]
    fn must(&self, program: &str, port: usize, arguments: &[&str]) -> Output {
        let output = self.with(program, port, arguments);
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}\n{}", self.log());
        output
    }
}

/// A case with an instance behind an sshd.
fn behind_sshd(case: impl Fn(&Server, &Sshd) + Sync) {
    on_one_server(|flavor| {
        let server = Setup::new(flavor)
            .option("forkpty-urouter", "{dir}/u")
            .option("forkptyrouter-allow-command", "true")
            .start();
        let Some(sshd) = Sshd::start(&server.path("u")) else { return };
        case(&server, &sshd);
        // But for whoever looks after terminals that were handed over.
        let is_left = |process: &Process| process.name != "fpty-supervisor";
        let nothing = || !server.session_processes().iter().any(is_left);
        wait_until("nothing is left in the instance", nothing);
    });
}

#[test]
fn commands_behave_as_without_forcecommand() {
    behind_sshd(|_, sshd| {
        let lines = [
            "exit 7",
            "echo out; echo err >&2",
            "kill -9 $$",
            "printf '%s\\n' \"a  b\" 'c\\d' $((6 * 7))",
            "cat; echo after",
            "no-such-program",
            "exec >&-; exit 3",
            "yes | head -c 100000",
            "false | true",
            "tty",
        ];
        side_by_side(lines, |line| {
            let ran = |port| sshd.ssh(port, &[line]).output().expect("ssh runs");
            let (ours, plain) = (ran(0), ran(1));
            assert_same(&ours.stdout, &plain.stdout);
            let status = if line.starts_with("kill") { Some(137) } else { plain.status.code() };
            assert_eq!(ours.status.code(), status, "{line}: {ours:?} {plain:?}");
            // The shells have different names, and say so.
            if line.contains("err") {
                assert_same(&ours.stderr, &plain.stderr);
            }
            if line.starts_with("kill") {
                assert_same(&ours.stderr, b"fpty: killed by SIGKILL\n");
            }
        });
    });
}

#[test]
fn a_session_has_the_terminal_that_ssh_asked_for() {
    behind_sshd(|_, sshd| {
        let mut terminal = Terminal::run(sshd.ssh(0, &[]), 31, 77);
        terminal.wire.read_until("$ ");
        terminal.wire.send("stty size; echo \"<$TERM>\"\r");
        terminal.wire.read_until("31 77\r\n");
        terminal.resize(40, 90);
        terminal.wire.send("while [ \"$(stty size)\" != '40 90' ]; do :; done; echo re''sized\r");
        terminal.wire.read_until("resized");
        terminal.wire.send("exit 5\r");
        assert_eq!(terminal.wait().code(), Some(5));
        // A script, without one.
        let mut script = sshd.ssh(0, &["-T"]);
        let input = tempfile::NamedTempFile::new().expect("a file");
        fs::write(input.path(), "tty; echo done; exit 6\n").expect("a file");
        let output = script.stdin(input.reopen().expect("it")).output().expect("ssh runs");
        assert_eq!(
            (output.status.code(), &output.stdout[..]),
            (Some(6), &b"not a tty\ndone\n"[..])
        );
        let mut editor = Terminal::run(sshd.ssh(0, &["-t", "vi -u NONE -c ':set ruler'"]), 24, 80);
        editor.wire.read_until("0,0-1");
        editor.wire.send(":q!\r");
        assert_eq!(editor.wait().code(), Some(0));
    });
}

#[test]
fn short_commands_in_a_row_and_at_once_are_served() {
    behind_sshd(|_, sshd| {
        for _ in 0..10 {
            let ran = sshd.ssh(0, &["true"]).output().expect("ssh runs");
            assert!(ran.status.success(), "{ran:?}");
        }
        std::thread::scope(|scope| {
            for number in 0..10 {
                scope.spawn(move || {
                    let line = format!("echo {number}; exit {number}");
                    let output = sshd.ssh(0, &[&line]).output().expect("ssh runs");
                    assert_eq!(output.status.code(), Some(number), "{output:?}");
                    assert_eq!(output.stdout, format!("{number}\n").into_bytes());
                });
            }
        });
    });
}

#[test]
fn files_go_both_ways_by_scp_sftp_and_rsync() {
    behind_sshd(|server, sshd| {
        let bytes = noise(3, 4_000_000);
        let here = sshd.folder.path().display().to_string();
        let there = server.path("there");
        fs::create_dir(&there).expect("a folder");
        fs::create_dir(sshd.file("folder")).expect("a folder");
        let name = "a name 'with' \"quotes\"";
        fs::write(sshd.file("folder").join(name), &bytes).expect("a file");
        fs::write(sshd.file("folder/empty"), b"").expect("a file");
        for old in [&[][..], &["-O"]] {
            let to = format!("root@127.0.0.1:{there}/");
            sshd.must("scp", 0, &[old, &["-r", &format!("{here}/folder"), &to]].concat());
            let copy = Path::new(&there).join("folder").join(name);
            assert_same(&fs::read(&copy).expect("the copy"), &bytes);
            let from = format!("root@127.0.0.1:{there}/folder");
            sshd.must("scp", 0, &[old, &["-r", &from, &format!("{here}/back")]].concat());
            assert_same(&fs::read(sshd.file("back").join(name)).expect("it"), &bytes);
            fs::remove_dir_all(Path::new(&there).join("folder")).expect("it");
            fs::remove_dir_all(sshd.file("back")).expect("it");
        }
        let batch = sshd.file("batch");
        fs::write(&batch, format!("put -r {here}/folder {there}/sftp\nls {there}/sftp\n")).unwrap();
        let batch = batch.display().to_string();
        let said = sshd.must("sftp", 0, &["-b", &batch, "root@127.0.0.1"]);
        assert!(String::from_utf8_lossy(&said.stdout).contains("empty"), "{said:?}");
        let to = format!("root@127.0.0.1:{there}/rsync");
        let folder = format!("{here}/folder/");
        sshd.must("rsync", 0, &["-a", &folder, &to]);
        let copy = fs::read(Path::new(&there).join("rsync").join(name)).expect("the copy");
        assert_same(&copy, &bytes);
        let again = sshd.must("rsync", 0, &["-ai", &folder, &to]);
        assert!(again.stdout.is_empty(), "nothing is to be sent: {again:?}");
        sshd.must("rsync", 0, &["-a", &format!("{to}/"), &format!("{here}/back")]);
        assert_same(&fs::read(sshd.file("back").join(name)).expect("it"), &bytes);
        // A stream.
        let copy = sshd.file("copy");
        let mut cat = sshd.ssh(0, &["cat"]);
        cat.stdin(fs::File::open(sshd.file("folder").join(name)).expect("it"));
        cat.stdout(fs::File::create(&copy).expect("a file"));
        let ran = cat.output().expect("ssh runs");
        assert!(ran.status.success(), "{ran:?}");
        assert_same(&fs::read(&copy).expect("it"), &bytes);
    });
}

#[test]
fn git_clones_and_pushes() {
    behind_sshd(|server, sshd| {
        let there = server.path("repository");
        let clone = sshd.file("clone").display().to_string();
        let url = format!("ssh://root@127.0.0.1:{}{there}", sshd.ports[0]);
        let run = |arguments: &[&str]| {
            let mut git = Command::new("git");
            git.args(arguments).env("GIT_CONFIG_GLOBAL", "/dev/null");
            assert!(git.status().expect("git runs").success(), "{arguments:?}");
        };
        run(&["init", "-q", "--bare", &there]);
        sshd.must("git", 0, &["clone", "-q", &url, &clone]);
        fs::write(sshd.file("clone/file"), noise(5, 500_000)).expect("a file");
        run(&["-C", &clone, "add", "file"]);
        let who = ["-c", "user.name=x", "-c", "user.email=x@example.org"];
        run(&[&["-C", &clone], &who[..], &["commit", "-q", "-m", "one"]].concat());
        sshd.must("git", 0, &["-C", &clone, "push", "-q", "origin", "HEAD:main"]);
        let again = sshd.file("again").display().to_string();
        sshd.must("git", 0, &["clone", "-q", "-b", "main", &url, &again]);
        assert_same(
            &fs::read(sshd.file("again/file")).expect("it"),
            &fs::read(sshd.file("clone/file")).expect("it"),
        );
    });
}

#[test]
fn a_broken_connection_ends_its_command() {
    behind_sshd(|server, sshd| {
        let sleeps = || server.session_processes().iter().any(|process| process.name == "sleep");
        let mut ssh = sshd.ssh(0, &["sleep 1000"]);
        ssh.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut ssh = ssh.spawn().expect("ssh runs");
        wait_until("it sleeps", sleeps);
        ssh.kill().expect("it runs");
        ssh.wait().expect("it ends");
        wait_until("the command is gone", || !sleeps());
        let terminal = Terminal::run(sshd.ssh(0, &["-t", "sleep 1000; :"]), 24, 80);
        wait_until("it sleeps", sleeps);
        signal(terminal.leader(), Signal::SIGKILL);
        wait_until("the command is gone", || !sleeps());
    });
}

#[test]
fn a_job_in_the_background_is_waited_for_as_by_sshd() {
    behind_sshd(|server, sshd| {
        let line = "sleep 1000 < /dev/null > /dev/null 2>&1 & echo started";
        let output = sshd.ssh(0, &[line]).output().expect("ssh runs");
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"started\n"[..]));
        let left = server.session_processes();
        assert_eq!(left.len(), 1, "{left:?}");
        signal(left[0].pid, Signal::SIGKILL);
    });
}

#[test]
fn a_missing_sftp_server_is_named() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .option("forkpty-urouter", "{dir}/u")
            .option("forkptyrouter-allow-command", "true")
            .option("forkptyrouter-sftp-server", "/no/such/server")
            .start();
        let mut fpty = Command::new(servers::fpty());
        fpty.args(["--ssh", &server.path("u")])
            .env("SSH_ORIGINAL_COMMAND", "internal-sftp -l INFO");
        let output = fpty.stdin(Stdio::null()).output().expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(127), "{error}");
        assert!(error.starts_with("fpty: no SFTP server here: "), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    });
}

/// The example: namespaces and a root of its own.
#[test]
fn the_example_is_a_jail() {
    on_one_server(|flavor| {
        let jail = tempfile::Builder::new().prefix("jail").tempdir_in("/tmp").expect("a folder");
        let at = jail.path().display().to_string();
        let example = root().join("examples/ssh-forcecommand");
        let copy = |name: &str| {
            let text = fs::read_to_string(example.join(name)).expect("the example");
            let file = jail.path().join(name);
            fs::write(&file, text.replace("/tmp/jail", &at)).expect("a file");
            fs::set_permissions(&file, fs::metadata(example.join(name)).unwrap().permissions())
                .expect("it");
            file
        };
        let (start, ini) = (copy("start-jail"), copy("jail.ini"));
        let socket = format!("{at}/run/ssh.socket");
        let Some(sshd) = Sshd::start(&socket) else { return };
        if !Command::new("unshare").args(["-mup", "-f", "true"]).status().unwrap().success() {
            eprintln!("skipped: no namespaces here");
            return;
        }
        let server = Setup::bare(&flavor.name, &start)
            .argument(&flavor.binary.display().to_string())
            .option("plugins-dir", &flavor.plugins.display().to_string())
            .option("plugin", "forkptyrouter")
            .option("ini", &ini.display().to_string())
            .killed_at_end()
            .launch();
        let there = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
        assert!(comes_true(DEADLINE, there), "{}", server.log());
        let output = sshd.ssh(0, &["hostname; cd /; echo *; exit 7"]).output().expect("ssh runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        assert!(text.starts_with("customer\nbin dev etc home"), "{text}");
        sshd.must("scp", 0, &["/etc/passwd", "root@127.0.0.1:/home/copy"]);
        assert_same(
            &fs::read(jail.path().join("home/copy")).expect("the copy"),
            &fs::read("/etc/passwd").expect("it"),
        );
        let mut terminal = Terminal::run(sshd.ssh(0, &[]), 24, 80);
        terminal.wire.read_until("$ ");
        terminal.wire.send("tty; exit 9\r");
        terminal.wire.read_until("/dev/pts/0\r\n");
        assert_eq!(terminal.wait().code(), Some(9));
    });
}
