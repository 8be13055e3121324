//! The client in a terminal that a person has: tmux, with its screen as the
//! person sees it.

use std::process::Command;

use crate::harness::client::{MODES, Mode, both, client_of};
use crate::harness::{Server, Setup, on_every_server, wait_until};

/// A tmux server of its own, in the folder of the server under test.
struct Tmux {
    socket: String,
}

impl Tmux {
    /// Runs a command in a window of this size.
    fn run(server: &Server, command: &Command, cols: u16, rows: u16) -> Self {
        let tmux = Self { socket: server.path("tmux") };
        let mut words: Vec<String> = vec!["-f", "/dev/null", "new-session", "-d", "-x"]
            .into_iter()
            .map(str::to_owned)
            .collect();
        words.extend([cols.to_string(), "-y".into(), rows.to_string(), "--".into()]);
        words.push(command.get_program().to_string_lossy().into_owned());
        words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
        tmux.call(&words.iter().map(String::as_str).collect::<Vec<_>>());
        tmux
    }

    fn call(&self, words: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.env_remove("TMUX").args(["-S", &self.socket]).args(words);
        let output = command.output().expect("tmux runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.call(&["capture-pane", "-p"])
    }

    #[track_caller]
    fn wait_for_line(&self, line: &str) {
        wait_until(&format!("the screen shows the line {line:?}"), || {
            let shown = self.screen().lines().any(|shown| shown.trim_end() == line);
            if !shown && std::thread::panicking() {
                eprintln!("{}", self.screen());
            }
            shown
        });
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the screen:\n{}", self.screen());
        }
        self.call(&["kill-server"]);
    }
}

#[test]
fn a_person_in_tmux_sees_the_session() {
    if !Command::new("tmux").arg("-V").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: there is no tmux");
        return;
    }
    on_every_server(|flavor| {
        let server = both(Setup::new(flavor)).start();
        for mode in MODES {
            let tmux = Tmux::run(&server, &client_of(flavor, &server, mode), 91, 31);
            tmux.wait_for_line("$");
            tmux.call(&["send-keys", "printf '\\033[2J\\033[H%s\\n' cle''ared", "Enter"]);
            tmux.wait_for_line("cleared");
            if mode == Mode::Uwsgi {
                tmux.call(&["send-keys", "stty size", "Enter"]);
                tmux.wait_for_line("31 91");
                tmux.call(&["resize-window", "-x", "70", "-y", "20"]);
                wait_until("the other end has the new size", || {
                    tmux.call(&["send-keys", "stty size", "Enter"]);
                    tmux.screen().lines().any(|line| line == "20 70")
                });
                tmux.call(&["send-keys", "cat", "Enter"]);
                let runs = || server.session_processes().iter().any(|job| job.name == "cat");
                wait_until("cat runs", runs);
                tmux.call(&["send-keys", "C-c"]);
                wait_until("Ctrl-C ends it", || !runs());
                tmux.call(&["send-keys", "echo li''ves", "Enter"]);
                tmux.wait_for_line("lives");
            }
            tmux.call(&["send-keys", "exit", "Enter"]);
            wait_until("the client has ended", || tmux.call(&["list-panes"]).is_empty());
        }
    });
}
