//! Arguments that ask who is there.

use clap::ValueHint;
use fpty::client::control::Question;
use fpty::proto::is_name;

/// What is asked, instead of a session.
#[derive(Debug, Default, clap::Args)]
pub struct AskingArguments {
    /// List one's own sessions there (root: all)
    #[arg(short, long, conflicts_with_all = ["kill", "command", "ssh", "raw", "tty", "no_tty"])]
    pub list: bool,

    /// With --list: as JSON
    #[arg(long, requires = "list")]
    pub json: bool,

    /// End the session ID: the beginning will do
    #[arg(short, long, value_name = "ID", value_parser = id, value_hint = ValueHint::Other,
        conflicts_with_all = ["command", "ssh", "raw", "tty", "no_tty"])]
    pub kill: Option<String>,
}

fn id(typed: &str) -> Result<String, String> {
    match is_name(typed.as_bytes()) {
        true => Ok(typed.to_owned()),
        false => Err(String::from("neither a session's id nor its name")),
    }
}

impl AskingArguments {
    /// The question; `None`: a session is wanted.
    pub fn question(&self) -> Option<Question> {
        match &self.kill {
            Some(id) => Some(Question::Kill(id.clone())),
            None => self.list.then_some(Question::List { json: self.json }),
        }
    }
}
