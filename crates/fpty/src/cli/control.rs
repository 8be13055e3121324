//! Arguments that ask who is there.

use clap::ValueHint;
use fpty::client::control::ControlRequest;
use fpty::proto::is_session_name;

/// What is asked, instead of a session.
#[derive(Debug, Default, clap::Args)]
pub struct ControlArguments {
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
    match is_session_name(typed.as_bytes()) {
        true => Ok(typed.to_owned()),
        false => Err(String::from("neither a session's id nor its name")),
    }
}

impl ControlArguments {
    /// The question; `None`: a session is wanted.
    pub fn control_request(&self) -> Option<ControlRequest> {
        match &self.kill {
            Some(id) => Some(ControlRequest::Kill(id.clone())),
            None => self.list.then_some(ControlRequest::List { json: self.json }),
        }
    }
}
