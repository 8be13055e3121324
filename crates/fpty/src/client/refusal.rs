//! The line by which a router refuses a session in plain uwsgi mode or raw mode, found
//! in its output.

use super::outcome::End;
use crate::error::{Error, Result};
use crate::proto;

/// How a router begins that refuses a session and speaks plainly.
pub(super) const REFUSAL_PREFIX: &[u8] = b"forkptyrouter: session refused: ";

/// The longest such line, in bytes.
pub(super) const MAX_REFUSAL: usize = 4096;

/// Whether this is all that such a router says.
pub(super) fn is_refusal(bytes: &[u8]) -> bool {
    let line = bytes.strip_suffix(b"\r\n").unwrap_or_default();
    line.starts_with(REFUSAL_PREFIX) && !line.contains(&b'\n')
}

/// Whether what such a router said last is that it had started its program
/// before our request arrived.
pub(super) fn is_too_late(last_bytes: &[u8]) -> bool {
    let text = last_bytes.strip_suffix(b"\r\n").unwrap_or_default();
    let line = text.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    line.strip_prefix(REFUSAL_PREFIX).is_some_and(|why| why.starts_with(proto::TOO_LATE.as_bytes()))
}

/// Whether it may become that: a line that is not endless.
pub fn may_be_refusal(bytes: &[u8]) -> bool {
    let length = bytes.len().min(REFUSAL_PREFIX.len());
    let ends_at = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    bytes[..length] == REFUSAL_PREFIX[..length]
        && bytes.len() <= MAX_REFUSAL
        && ends_at == bytes.len()
}

/// How it ended with a server that has said no more than this, and speaks plainly.
///
/// # Errors
/// It has said nothing.
pub fn end_in_plain_mode(said: &[u8]) -> Result<End> {
    match said {
        [] => Err(Error::new("the server closed the connection without a word")),
        said if is_refusal(said) => Ok(refused(said)),
        _ => Ok(End::NotExtended),
    }
}

/// The end by such a line.
pub(super) fn refused(bytes: &[u8]) -> End {
    let why = bytes.strip_prefix(REFUSAL_PREFIX).unwrap_or(bytes).trim_ascii_end();
    End::Refused(proto::bounded_text(why))
}
