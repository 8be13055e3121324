//! Arguments that say which session it is to be.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::ValueHint;
use fpty::client::SessionChoice;
use fpty::proto::session_key::parse_argument;
use fpty::proto::{MAX_SESSION_NAME, is_session_name};

/// Which session, and how.
#[derive(Debug, Default, clap::Args)]
pub struct SessionArguments {
    /// Give the session a name
    #[arg(short, long, value_name = "NAME", value_parser = name, value_hint = ValueHint::Other,
        conflicts_with = "raw")]
    pub name: Option<String>,

    /// Come back: to [ID|NAME], or to the one left last
    #[arg(short, long, conflicts_with_all = ["name", "raw"])]
    pub attach: bool,

    /// Come back to the session NAME, or begin it
    #[arg(short = 'A', long, value_name = "NAME", value_parser = name,
        value_hint = ValueHint::Other, conflicts_with_all = ["name", "attach", "raw"])]
    pub join: Option<String>,

    /// Coming back: whoever is there has to go
    #[arg(long)]
    pub steal: bool,

    /// Coming back: only watch
    #[arg(long, requires = "attach", conflicts_with = "steal")]
    pub read_only: bool,

    /// A connection that breaks is not taken up again
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
    /// What is wrong with it, in words.
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
                Some(usual) => (Some(first), usual),
                None => (None, first),
            },
            1 => (Some(first), more.remove(0)),
            _ => return Err(String::from("-a takes a session and an address")),
        };
        let session = session.unwrap_or_default();
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
