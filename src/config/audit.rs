//! How the lines of an audit look (`forkptyrouter-audit`).

use std::ffi::OsStr;

use fpty::error::{Error, Result};

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    /// `{"event":"session-end","peer":{"pid":4711}}`
    Json,
    /// `event="session-end" peer.pid=4711`
    KeyVal,
}

/// Reads the option's value; `None`: there are to be no lines.
///
/// # Errors
/// It is neither.
pub fn of(option: &str, typed: &OsStr) -> Result<Option<Audit>> {
    match typed.to_string_lossy().trim() {
        "json" => Ok(Some(Audit::Json)),
        "keyval" => Ok(Some(Audit::KeyVal)),
        "off" => Ok(None),
        other => {
            Err(Error::new(format!("option {option} = {other}: neither json nor keyval nor off")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_words_and_no_other() {
        let read = |typed: &str| of("forkptyrouter-audit", typed.as_ref()).ok();
        assert_eq!(read("json"), Some(Some(Audit::Json)));
        assert_eq!(read(" keyval "), Some(Some(Audit::KeyVal)));
        assert_eq!(read("off"), Some(None));
        for nonsense in ["", "JSON", "true", "json,keyval"] {
            assert_eq!(read(nonsense), None);
        }
    }
}
