//! The command's arguments. The man page and the completions are made from
//! this definition, too (crates/fpty-documents).

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, ValueHint};
use fpty::client::config::{self, ExecRequest, RequestTty};
use fpty::client::control::ControlRequest;
use fpty::client::{self, ClientConfig, SessionChoice};
use fpty::proto::session_key::parse_argument;
use fpty::proto::{MAX_SESSION_NAME, Protocol, is_session_name};

/// Attach to a terminal inside of a uWSGI instance, jail or container
#[derive(Debug, Parser)]
#[command(
    name = "fpty",
    bin_name = "fpty",
    version,
    after_help = "\
Exit status: the program's own; 128+N where signal N ended it; 126 or 127 where
it could not be executed; 254 where the session did not end by itself; 255 where
none was started. At the beginning of a line: ~. disconnects, ~? says more."
)]
pub struct Arguments {
    /// The socket: a path, @NAME, HOST:PORT, :PORT
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
    #[arg(short = 'E', long = "env", value_name = "NAME[=VALUE]", value_parser = OsStringValueParser::new().try_map(|typed| config::variable(&typed)),
        value_hint = ValueHint::Other)]
    pub environment: Vec<(OsString, Option<OsString>)>,

    /// Ctrl-C, Ctrl-\ and Ctrl-Z raise no signals here
    #[arg(long)]
    pub no_isig: bool,

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

    /// Which session.
    #[command(flatten)]
    pub session: SessionArguments,

    /// Print only errors
    #[arg(short, long)]
    pub quiet: bool,

    /// Print how it ended as JSON, too, on the last line
    #[arg(long)]
    pub status_json: bool,
}

/// The character that begins an escape, if there are escapes.
#[derive(Clone, Copy, Debug)]
pub struct Escape(Option<u8>);

fn id(typed: &str) -> Result<String, &'static str> {
    let is_one = is_session_name(typed.as_bytes());
    is_one.then(|| typed.to_owned()).ok_or("neither a session's id nor its name")
}

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

    /// Control request to send instead of opening a session; `None`: a session is wanted.
    pub fn control_request(&self) -> Option<ControlRequest> {
        ControlRequest::of_options(self.kill.as_ref(), self.list, self.json)
    }

    /// Configuration of the client.
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
        Ok(ClientConfig {
            name: "fpty:",
            exec_request,
            request_tty: RequestTty::of_switches(self.tty, self.no_tty, self.ssh),
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

/// Which session, and how.
#[derive(Debug, Default, clap::Args)]
pub struct SessionArguments {
    /// Give the session a name
    #[arg(short, long, value_name = "NAME", value_parser = name, value_hint = ValueHint::Other,
        conflicts_with = "raw")]
    pub name: Option<String>,

    /// Attach to [ID|NAME], or to the session detached last
    #[arg(short, long, conflicts_with_all = ["name", "raw"])]
    pub attach: bool,

    /// Attach to the session NAME, or begin it
    #[arg(short = 'A', long, value_name = "NAME", value_parser = name,
        value_hint = ValueHint::Other, conflicts_with_all = ["name", "attach", "raw"])]
    pub join: Option<String>,

    /// Replace the client that is attached
    #[arg(long)]
    pub steal: bool,

    /// Only view the session
    #[arg(long, requires = "attach", conflicts_with = "steal")]
    pub read_only: bool,

    /// Do not reconnect when the connection breaks
    #[arg(long)]
    pub no_reconnect: bool,
}

/// A name: letters, digits, `.`, `_` and `-`.
fn name(typed: &str) -> Result<String, String> {
    match is_session_name(typed.as_bytes()) {
        true => Ok(typed.to_owned()),
        false => Err(format!(
            "not a name: letters, digits, '.', '_' and '-', at most {MAX_SESSION_NAME}"
        )),
    }
}

impl SessionArguments {
    /// Which session, and where: of the words that were typed, the first of
    /// which may stand in the environment instead.
    ///
    /// # Errors
    /// The words are no session and address: the reason.
    pub fn resolve(
        &self,
        first: OsString,
        more: &mut Vec<OsString>,
        usual: Option<OsString>,
    ) -> Result<(SessionChoice, OsString), String> {
        if !self.attach {
            let which = match (&self.name, &self.join) {
                (Some(name), _) => SessionChoice::NewNamed(name.clone()),
                (None, Some(name)) => SessionChoice::AttachOrNew(name.clone()),
                (None, None) => SessionChoice::New,
            };
            if self.steal && self.join.is_none() {
                return Err(String::from("--steal goes with -a or -A"));
            }
            if self.join.is_some() && !more.is_empty() {
                return Err(String::from("-A begins what the server has configured, no command"));
            }
            return Ok((which, first));
        }
        let (session, address) = match more.len() {
            // One word: the address, unless that is known and this is none.
            0 => match usual.filter(|usual| *usual != first && !is_address(&first)) {
                Some(usual) => (first, usual),
                None => (OsString::new(), first),
            },
            1 => (first, more.remove(0)),
            _ => return Err(String::from("-a takes a session and an address")),
        };
        let is_one = |it: &String| it.is_empty() || parse_argument(it).is_some();
        let session = session.into_string().ok().filter(is_one);
        let session = session.ok_or("neither a session's id nor its name")?;
        Ok((SessionChoice::Attach(session), address))
    }
}

/// Whether a word is an address rather than a session.
fn is_address(word: &OsStr) -> bool {
    let bytes = word.as_encoded_bytes();
    bytes.iter().any(|byte| matches!(byte, b'/' | b':' | b'@')) || Path::new(word).exists()
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

    fn resolve(
        arguments: &SessionArguments,
        words: &[&str],
        usual: Option<&str>,
    ) -> Result<(SessionChoice, OsString), String> {
        let mut more = words[1..].iter().map(OsString::from).collect();
        arguments.resolve(words[0].into(), &mut more, usual.map(OsString::from))
    }

    #[test]
    fn the_word_before_the_address_is_the_session() {
        let back = SessionArguments { attach: true, ..Default::default() };
        let left = |session: &str, address: &str| {
            Ok((SessionChoice::Attach(session.to_owned()), OsString::from(address)))
        };
        assert_eq!(resolve(&back, &["k3x", "/s"], None), left("k3x", "/s"));
        assert_eq!(resolve(&back, &["/s"], None), left("", "/s"));
        assert_eq!(resolve(&back, &["k3x"], None), left("", "k3x"));
        assert_eq!(resolve(&back, &["k3x"], Some("/s")), left("k3x", "/s"));
        // What the environment says.
        assert_eq!(resolve(&back, &["s"], Some("s")), left("", "s"));
        assert_eq!(resolve(&back, &["/t"], Some("/s")), left("", "/t"));
        let word = format!("k3x9q2aa+{}", "0f".repeat(16));
        assert_eq!(resolve(&back, &[&word, ":7000"], None), left(&word, ":7000"));
        assert!(resolve(&back, &["a+0f", "/s"], None).is_err());
        assert!(resolve(&back, &["a b", "/s"], None).is_err());
        assert!(resolve(&back, &["a", "/s", "ls"], None).is_err());
    }

    #[test]
    fn names_are_letters_digits_and_three_more() {
        for good in ["x", "build-1.2_x", &"n".repeat(64)] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "\u{e9}", "a\n", &"n".repeat(65)] {
            assert!(name(bad).is_err(), "{bad}");
        }
        let steal = SessionArguments { steal: true, ..Default::default() };
        assert!(resolve(&steal, &["/s"], None).is_err());
    }
}
