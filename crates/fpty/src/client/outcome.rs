//! How a session ended: the exit status, the line for the person, and the
//! JSON for scripts.

use nix::sys::signal::Signal;
use serde_json::json;

use super::{Client, LOST};
use crate::proto::session_key::of_word;
use crate::proto::{Ended, Ending};
use crate::sys::peer_process::Peer;
use crate::sys::{accounts, stdio};
use crate::text::is_control;

/// Exit status when no session came about.
const NOT_ATTACHED: i32 = 255;

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The server ended it; how, it cannot say.
    Normal,
    /// The server said how.
    Told(Ended),
    /// A signal ended the program that was to be expected: its number.
    Signalled(u8),
    /// The server refused, and speaks plainly: why.
    Refused(String),
    /// No session came about: why.
    NotAttached(String),
    /// The server knows no extended mode, or had begun without us, and nothing
    /// else will do.
    SpeaksPlainly,
    /// The server had begun without us, and says so. Whether all that was typed
    /// is still known, so that it can be asked again: none of it was executed.
    CameTooLate {
        /// See above.
        again: bool,
    },
    /// The person left by `~.`.
    Left,
    /// The connection broke: how.
    Lost(String),
    /// It broke, and was not taken up again.
    NotTakenUp {
        /// Why not.
        why: String,
        /// What to come back with, where that may be possible.
        word: Option<String>,
    },
    /// A signal ended us.
    Signal(Signal),
    /// Nobody reads our output.
    OutputClosed,
    /// Our output takes no more: why.
    OutputFailed(String),
}

impl End {
    /// The status to exit with, as a shell has it.
    fn status(&self) -> i32 {
        match self {
            End::Normal | End::Left => 0,
            End::Told(ended) => ended.status().into(),
            End::Signalled(number) => 128 + i32::from(*number),
            End::Refused(_)
            | End::NotAttached(_)
            | End::SpeaksPlainly
            | End::CameTooLate { .. } => NOT_ATTACHED,
            End::Lost(_) | End::NotTakenUp { .. } | End::OutputFailed(_) => LOST,
            End::Signal(signal) => 128 + *signal as i32,
            End::OutputClosed => 128 + Signal::SIGPIPE as i32,
        }
    }

    /// Whether no program has run.
    pub fn is_without_a_program(&self) -> bool {
        let never_ran =
            |ended: &Ended| matches!(ended.ending, Ending::ExecFailed | Ending::Refused);
        match self {
            End::Told(ended) => never_ran(ended),
            _ => self.status() == NOT_ATTACHED,
        }
    }

    /// What a script is told.
    fn kind(&self) -> &'static str {
        match self {
            End::Normal => "exit",
            End::Told(ended) => match ended.ending {
                Ending::Exit => "exit",
                Ending::Signal => "signal",
                Ending::ExecFailed => "exec-failed",
                Ending::Refused => "refused",
                Ending::Idle | Ending::Limit => "timeout",
                Ending::Stopped => "stopped",
                Ending::Operator => "operator",
                Ending::Lost => "lost",
                Ending::Detached => "detached",
            },
            End::Signalled(_) => "signal",
            End::Refused(_)
            | End::NotAttached(_)
            | End::SpeaksPlainly
            | End::CameTooLate { .. } => "refused",
            End::Lost(_) | End::NotTakenUp { .. } => "lost",
            End::Left | End::Signal(_) | End::OutputClosed | End::OutputFailed(_) => "left",
        }
    }

    /// What a person is told; `None`: nothing.
    fn text(&self, address: &str) -> Option<String> {
        match self {
            End::Told(Ended { ending: Ending::Detached, value: 0, text }) => {
                let id = of_word(text).filter(|_| !text.starts_with('-')).map(|(id, _)| id);
                Some(match (id, way_back(text, address)) {
                    (Some(id), Some(way)) => format!("detached: {id} ({way})"),
                    (Some(_), None) => format!("detached: {text}"),
                    (None, _) => String::from("detached"),
                })
            }
            End::Refused(why) => Some(format!("session refused: {why}")),
            End::Normal | End::Signalled(_) | End::OutputClosed => None,
            End::Told(ended) => told(ended),
            End::NotAttached(why) => Some(why.clone()),
            End::SpeaksPlainly => Some(format!(
                "{address} is no router that runs commands or keeps sessions, or it had started its own \
                 program before our request arrived: it does not speak the extended mode; nothing \
                 that was asked for was run"
            )),
            End::CameTooLate { .. } => Some(format!(
                "{address} had started its program before our request arrived (a slow line?): that \
                 session is over, and nothing that was typed was executed"
            )),
            End::Left => Some(format!("left {address}")),
            End::Lost(why) => Some(format!("connection to {address} lost: {why}")),
            End::NotTakenUp { why, word } => {
                let why = with_name(why);
                let way = word.as_ref().and_then(|word| way_back(word, address));
                let way = way.map(|way| format!(" ({way})")).unwrap_or_default();
                Some(format!("connection to {address} lost, and not taken up again: {why}{way}"))
            }
            End::Signal(signal) => Some(format!("ended by {signal}")),
            End::OutputFailed(why) => Some(format!("cannot write to {why}")),
        }
    }
}

fn told(ended: &Ended) -> Option<String> {
    let text = &ended.text;
    match ended.ending {
        Ending::Exit => None,
        Ending::Signal if text.is_empty() => Some(format!("killed by {}", name_of(ended.value))),
        Ending::Signal => Some(format!("killed by {} ({text})", name_of(ended.value))),
        Ending::Refused => Some(format!("session refused: {}", with_name(text))),
        Ending::Lost => Some(format!("session lost: {text}")),
        Ending::ExecFailed | Ending::Idle | Ending::Limit | Ending::Stopped | Ending::Operator => {
            Some(text.clone())
        }
        Ending::Detached => Some(with_name(text)),
    }
}

/// What brings a person back, made to be pasted into a shell; `None`: it cannot be.
fn way_back(word: &str, address: &str) -> Option<String> {
    let is_one = of_word(word).is_some() && !word.starts_with('-');
    let address = quoted(address).filter(|_| is_one)?;
    Some(format!("come back with: fpty -a {word} {address}"))
}

/// A text that begins with a user's number (`user 1000 ...`), with the name
/// instead that this machine knows: a router looks none up while others wait.
fn with_name(text: &str) -> String {
    let number = |text: &str| {
        let (number, rest) = text.strip_prefix("user ")?.split_once(' ')?;
        Some(format!("{} {rest}", accounts::name_of(number.parse().ok()?)?))
    };
    number(text).unwrap_or_else(|| text.to_owned())
}

/// Why a connection was lost that has ended; `None`: it was not, as one that speaks plainly
/// has no other end.
pub fn why_lost(peer: &Peer, is_extended: bool) -> Option<String> {
    match peer.failure() {
        // A process that lives, and closes a UNIX socket before it has read all input,
        // resets it, too.
        Some(why) if !peer.is_known() => Some(why),
        _ if peer.has_ended() => Some(String::from("the server is gone")),
        _ => is_extended.then(|| String::from("it ended without a word")),
    }
}

/// An address as a shell has to be told it; `None`: it cannot be typed.
fn quoted(address: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,+@%[]".contains(c);
    match address.is_empty() || address.chars().any(|c| is_control(c) || c == '\u{fffd}') {
        true => None,
        false if address.chars().all(is_plain) => Some(address.to_owned()),
        false => Some(format!("'{}'", address.replace('\'', "'\\''"))),
    }
}

/// A signal's name; of those for free use its number (signal(7)).
fn name_of(number: u8) -> String {
    Signal::try_from(i32::from(number))
        .map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

/// What is said of it, where anything is.
fn line(config: &Client, end: &End) -> Option<String> {
    let went_wrong =
        !matches!(end, End::Left | End::Told(Ended { ending: Ending::Detached, value: 0, .. }));
    end.text(&config.address.to_string_lossy()).filter(|_| went_wrong || !config.quiet)
}

/// Whether it is said to a person's eyes alone.
pub fn is_for_a_person(config: &Client) -> bool {
    !config.status_json && stdio::columns_of_output().is_some()
}

/// Whether anything is said of it.
pub fn speaks(config: &Client, end: &End) -> bool {
    config.status_json || line(config, end).is_some()
}

/// Says how it ended, and returns the status to exit with.
pub fn tell(config: &Client, end: &End) -> i32 {
    let text = end.text(&config.address.to_string_lossy());
    if let Some(line) = line(config, end) {
        stdio::say(&format!("{} {line}", config.name));
    }
    let status = end.status();
    if config.status_json {
        stdio::say(&json(end, status, text.as_deref().unwrap_or_default()));
    }
    status
}

/// One object: `kind`, `status`, `signal` (a name or null), `text`.
fn json(end: &End, status: i32, text: &str) -> String {
    let signal = match end {
        End::Told(ended) if ended.ending == Ending::Signal => Some(name_of(ended.value)),
        End::Signalled(number) => Some(name_of(*number)),
        End::Signal(signal) => Some(signal.as_str().to_owned()),
        _ => None,
    };
    let kind = end.kind();
    let object = json!({ "kind": kind, "status": status, "signal": signal, "text": text });
    object.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(ending: Ending, value: u8, text: &str) -> End {
        End::Told(Ended { ending, value, text: text.to_owned() })
    }

    #[test]
    fn a_program_that_crashed() {
        let end = ended(Ending::Signal, 11, "core dumped");
        assert_eq!(end.status(), 139);
        assert_eq!(end.text("/s").as_deref(), Some("killed by SIGSEGV (core dumped)"));
        let line = json(&end, end.status(), "killed by SIGSEGV (core dumped)");
        assert_eq!(
            line,
            r#"{"kind":"signal","signal":"SIGSEGV","status":139,"text":"killed by SIGSEGV (core dumped)"}"#
        );
        assert_eq!(ended(Ending::Signal, 34, "").text("").as_deref(), Some("killed by signal 34"));
    }

    #[test]
    fn who_has_left_is_told_how_to_come_back() {
        let end = ended(Ending::Detached, 0, "k3x9q2aa");
        assert_eq!(end.status(), 0);
        let text = "detached: k3x9q2aa (come back with: fpty -a k3x9q2aa /s)";
        assert_eq!(end.text("/s").as_deref(), Some(text));
        let end = ended(Ending::Detached, 1, "root has attached");
        assert_eq!((end.status(), end.text("/s").as_deref()), (LOST, Some("root has attached")));
    }

    #[test]
    fn only_the_programs_own_end_looks_like_it() {
        for ending in [Ending::Idle, Ending::Limit, Ending::Stopped, Ending::Operator, Ending::Lost]
        {
            assert_eq!(ended(ending, 0, "x").status(), LOST);
        }
        assert_eq!(ended(Ending::Refused, 0, "x").status(), NOT_ATTACHED);
        assert_eq!(End::Lost(String::new()).status(), LOST);
        assert_eq!(ended(Ending::ExecFailed, 127, "x").status(), 127);
        assert_eq!(ended(Ending::Exit, 3, "").text(""), None);
    }
}
