//! The command's arguments. The man page and the completions are made from
//! this definition, too (crates/fpty-documents).

#[path = "cli/control.rs"]
mod control;
#[path = "cli/session.rs"]
mod session;

use std::ffi::OsString;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, ValueHint};
use control::ControlArguments;
use fpty::client::request::{self, ExecRequest, RequestTty};
use fpty::client::{self, ClientConfig};
use fpty::proto::Protocol;
use session::SessionArguments;

/// Attach to a terminal inside of a uWSGI instance, jail or container
#[derive(Debug, Parser)]
#[command(
    name = "fpty",
    bin_name = "fpty",
    version,
    after_help = "\
Exit status: the program's own; 128+N where signal N ended it; 126 or 127 where
it could not be executed; 254 where the end was not its own; 255 where no
session came about. At the beginning of a line: ~. leaves, ~? says more."
)]
pub struct Arguments {
    /// Its socket: a path, @NAME, HOST:PORT, :PORT
    #[arg(env = "FPTY_ADDRESS", hide_env_values = true, value_hint = ValueHint::AnyPath)]
    pub address: Option<OsString>,

    /// Run this: one word is a command line, several a program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_hint = ValueHint::Other)]
    pub command: Vec<OsString>,

    /// With a terminal, whatever input and output are
    #[arg(short = 't', long = "tty", overrides_with = "no_tty")]
    pub tty: bool,

    /// Without a terminal: three streams
    #[arg(short = 'T', long = "no-tty", overrides_with = "tty")]
    pub no_tty: bool,

    /// Do what sshd was asked for: for its ForceCommand
    #[arg(long, conflicts_with = "command")]
    pub ssh: bool,

    /// Speak raw mode, not uwsgi mode
    #[arg(short, long, conflicts_with_all = ["command", "ssh", "tty", "no_tty"])]
    pub raw: bool,

    /// Escape character, or none
    #[arg(short, long, value_name = "CHAR", default_value = "~", value_parser = escape,
        value_hint = ValueHint::Other)]
    pub escape: Escape,

    // A value is bytes, whatever they mean here; `None`: it has none here.
    /// Send a variable, where the server accepts it
    #[arg(short = 'E', long = "env", value_name = "NAME[=VALUE]", value_parser = OsStringValueParser::new().try_map(|typed| request::variable(&typed)),
        value_hint = ValueHint::Other)]
    pub environment: Vec<(OsString, Option<OsString>)>,

    /// Ctrl-C, Ctrl-\ and Ctrl-Z raise no signals here
    #[arg(long)]
    pub no_isig: bool,

    /// Who is there.
    #[command(flatten)]
    pub control: ControlArguments,
    /// Which session.
    #[command(flatten)]
    pub session: SessionArguments,

    /// Say only what went wrong
    #[arg(short, long)]
    pub quiet: bool,

    /// Say how it ended as JSON, too, on the last line
    #[arg(long)]
    pub status_json: bool,
}

/// The character that begins an escape, if there are escapes.
#[derive(Clone, Copy, Debug)]
pub struct Escape(Option<u8>);

fn escape(typed: &str) -> Result<Escape, &'static str> {
    client::escape::character(typed).map(Escape)
}

impl Arguments {
    /// Reads the command line.
    ///
    /// # Errors
    /// The text to print, and the status to exit with.
    pub fn read() -> Result<Self, (String, i32)> {
        Self::try_parse().map_err(|error| {
            if !error.use_stderr() {
                return (error.render().to_string(), 0);
            }
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            let line = line.strip_prefix("error: ").unwrap_or(line);
            let tip = text.lines().find_map(|line| line.trim_start().strip_prefix("tip: "));
            // There is one more kind, which is of no use here.
            let tip = tip.filter(|tip| tip.starts_with("a similar"));
            let tip = tip.unwrap_or("fpty --help says what there is");
            (format!("fpty: {line} ({tip})\n"), 2)
        })
    }

    /// What the client is to do.
    ///
    /// # Errors
    /// As of [`Arguments::read`].
    pub fn client(self) -> Result<ClientConfig, (String, i32)> {
        let is_given = |address: &OsString| !address.is_empty();
        let address = self.address.filter(is_given).ok_or_else(|| {
            let line = "fpty: no address: give a server's socket, or set FPTY_ADDRESS\n";
            (String::from(line), 2)
        })?;
        let usual = std::env::var_os("FPTY_ADDRESS").filter(is_given);
        let mut command = self.command;
        let (session, address) = self
            .session
            .resolve(address, &mut command, usual)
            .map_err(|why| (format!("fpty: {why} (fpty --help says what there is)\n"), 2))?;
        let set = |(name, value)| Some((name, value?));
        let exec_request =
            if self.ssh { ExecRequest::from_sshd() } else { ExecRequest::from_words(command) };
        let request_tty = match (self.tty, self.no_tty, self.ssh) {
            (true, ..) => RequestTty::Force,
            (_, true, _) => RequestTty::No,
            (.., true) => RequestTty::FromSshd,
            _ => RequestTty::Auto,
        };
        Ok(ClientConfig {
            name: "fpty:",
            exec_request,
            request_tty,
            address,
            protocol: if self.raw { Protocol::Raw } else { Protocol::Uwsgi },
            isig: !self.no_isig,
            escape: self.escape.0,
            quiet: self.quiet,
            status_json: self.status_json,
            session,
            steal: self.session.steal,
            read_only: self.session.read_only,
            reconnect: !self.session.no_reconnect,
            environment: self.environment.into_iter().filter_map(set).collect(),
            never_ignored: &[],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound_and_its_help_fits_a_screen() {
        Arguments::command().debug_assert();
        let help = Arguments::command().term_width(80).render_help().to_string();
        assert!(help.lines().count() < 40, "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
    }

    #[test]
    fn nonsense_is_refused() {
        for arguments in [
            ["fpty", "-e", "xy"],
            ["fpty", "-e", ""],
            ["fpty", "-e", "."],
            ["fpty", "-E", "1A=x"],
            ["fpty", "-E", "=x"],
            ["fpty", "--bogus", "x"],
            ["fpty", "--json", "x"],
            ["fpty", "-l", "-r"],
            ["fpty", "-k", "*"],
            ["fpty", "-n", "a b"],
            ["fpty", "--read-only", "x"],
            ["fpty", "-r", "-t"],
        ] {
            assert!(Arguments::try_parse_from(arguments).is_err(), "{arguments:?}");
        }
    }
}
