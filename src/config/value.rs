//! What an option's value may be.

use std::ffi::{CString, OsStr, OsString};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fpty::error::{Error, Result};

/// A whole number within a range.
pub fn number(option: &str, value: &OsStr, range: RangeInclusive<u32>) -> Result<u32> {
    let value = value.to_string_lossy();
    value.trim().parse::<u32>().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        Error::new(format!(
            "option {option} = {value}: not a whole number from {} to {}",
            range.start(),
            range.end()
        ))
    })
}

/// A time: seconds, or a number with s, m, h or d after it; 0 is none.
///
/// # Errors
/// Says the option and the value.
pub fn time(option: &str, value: &OsStr) -> Result<Option<Duration>> {
    let value = value.to_string_lossy();
    let typed = value.trim();
    let (digits, unit) = match typed.as_bytes().last() {
        Some(b's') => (&typed[..typed.len() - 1], 1),
        Some(b'm') => (&typed[..typed.len() - 1], 60),
        Some(b'h') => (&typed[..typed.len() - 1], 3600),
        Some(b'd') => (&typed[..typed.len() - 1], 86_400),
        _ => (typed, 1),
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = digits.parse::<u64>().ok().filter(|_| is_number);
    let seconds = seconds.and_then(|number| number.checked_mul(unit));
    match seconds.filter(|seconds| *seconds <= MOST_SECONDS) {
        Some(0) => Ok(None),
        Some(seconds) => Ok(Some(Duration::from_secs(seconds))),
        None => Err(Error::new(format!("option {option} = {value}: not a time (90, 15m, 8h, 7d)"))),
    }
}

/// What the server's own numbers hold, an int.
const MOST_SECONDS: u64 = i32::MAX.unsigned_abs() as u64;

/// The words that uWSGI itself takes for true and false; a switch without a
/// value is on.
pub fn switch(option: &str, value: &OsStr) -> Result<bool> {
    let value = value.to_string_lossy();
    match value.trim().to_ascii_lowercase().as_str() {
        "" | "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err(Error::new(format!("option {option} = {value}: neither true nor false"))),
    }
}

/// An address or a list, which is not empty: its bytes as they were typed, of
/// which any but NUL may stand in a path.
pub fn bytes(option: &str, value: &OsStr) -> Result<OsString> {
    if value.as_bytes().trim_ascii().is_empty() {
        return Err(Error::new(format!("option {option}: the value is empty")));
    }
    Ok(value.to_owned())
}

/// A command: likewise, but for blanks around it.
pub fn command(option: &str, value: &OsStr) -> Result<CString> {
    CString::new(bytes(option, value)?.as_bytes().trim_ascii())
        .map_err(|_| Error::new(format!("option {option}: the value holds a NUL byte")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_taken_whole_or_refused() {
        assert_eq!(number("rows", " 40 ".as_ref(), 0..=65535).ok(), Some(40));
        for nonsense in ["abc", "", "-1", "70000", "4O", "1.5", "0x10", "99999999999999999999"] {
            let error =
                number("forkptyrouter-rows", nonsense.as_ref(), 0..=65535).expect_err(nonsense);
            let text = error.to_string();
            assert!(text.contains("forkptyrouter-rows") && text.contains(nonsense), "{text}");
        }
    }

    #[test]
    fn a_time_has_a_unit_or_is_in_seconds() {
        let read = |typed: &str| time("forkptyrouter-timeout", typed.as_ref());
        for (typed, seconds) in
            [("90", 90), (" 15m ", 900), ("8h", 28_800), ("7d", 604_800), ("5s", 5)]
        {
            assert_eq!(read(typed).ok(), Some(Some(Duration::from_secs(seconds))), "{typed}");
        }
        assert_eq!(read("0").ok(), Some(None));
        for nonsense in ["", "m", "1.5h", "-1", "+1", "1 h", "1w", "99999999999d", "soon"] {
            let error = read(nonsense).expect_err(nonsense).to_string();
            assert!(error.contains("forkptyrouter-timeout"), "{error}");
        }
    }

    #[test]
    fn a_switch_knows_the_words_of_uwsgi() {
        assert_eq!(switch("x", "".as_ref()).ok(), Some(true));
        assert_eq!(switch("x", "TRUE".as_ref()).ok(), Some(true));
        assert_eq!(switch("x", "no".as_ref()).ok(), Some(false));
        assert!(switch("x", "maybe".as_ref()).is_err());
    }

    #[test]
    fn bytes_are_bytes_and_not_none() {
        assert_eq!(command("x", " /bin/sh ".as_ref()).ok(), CString::new("/bin/sh").ok());
        assert!(bytes("x", "  ".as_ref()).is_err());
        assert!(command("x", "a\0b".as_ref()).is_err());
        let latin = OsStr::from_bytes(b"/tmp/\xe9\xa0 ");
        assert_eq!(bytes("x", latin).ok().as_deref(), Some(latin));
        assert_eq!(command("x", latin).ok(), CString::new(&b"/tmp/\xe9\xa0"[..]).ok());
        let nonsense = number("x", OsStr::from_bytes(b"\xff"), 0..=1).expect_err("no number");
        assert!(nonsense.to_string().contains('\u{fffd}'));
    }
}
