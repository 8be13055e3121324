//! What an option's value may be.

use std::ffi::CString;
use std::ops::RangeInclusive;

use fpty::error::{Error, Result};

/// A whole number within a range.
pub fn number(option: &str, value: &str, range: RangeInclusive<u32>) -> Result<u32> {
    value.trim().parse::<u32>().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        Error::new(format!(
            "option {option} = {value}: not a whole number from {} to {}",
            range.start(),
            range.end()
        ))
    })
}

/// The words that uWSGI itself takes for true and false; a switch without a
/// value is on.
pub fn switch(option: &str, value: &str) -> Result<bool> {
    match value.trim().to_ascii_lowercase().as_str() {
        "" | "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err(Error::new(format!("option {option} = {value}: neither true nor false"))),
    }
}

/// A text that is not empty.
pub fn text(option: &str, value: &str) -> Result<String> {
    let value = value.trim();
    if value.is_empty() {
        return Err(Error::new(format!("option {option}: the value is empty")));
    }
    Ok(value.to_owned())
}

/// A text for a system call.
pub fn c_text(option: &str, value: &str) -> Result<CString> {
    CString::new(text(option, value)?)
        .map_err(|_| Error::new(format!("option {option}: the value holds a NUL byte")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_taken_whole_or_refused() {
        assert_eq!(number("rows", " 40 ", 0..=65535).ok(), Some(40));
        for nonsense in ["abc", "", "-1", "70000", "4O", "1.5", "0x10", "99999999999999999999"] {
            let error = number("forkptyrouter-rows", nonsense, 0..=65535).expect_err(nonsense);
            let text = error.to_string();
            assert!(text.contains("forkptyrouter-rows") && text.contains(nonsense), "{text}");
        }
    }

    #[test]
    fn a_switch_knows_the_words_of_uwsgi() {
        assert_eq!(switch("x", "").ok(), Some(true));
        assert_eq!(switch("x", "TRUE").ok(), Some(true));
        assert_eq!(switch("x", "no").ok(), Some(false));
        assert!(switch("x", "maybe").is_err());
    }

    #[test]
    fn a_text_is_not_empty() {
        assert_eq!(c_text("x", " /bin/sh ").ok(), CString::new("/bin/sh").ok());
        assert!(text("x", "  ").is_err());
        assert!(c_text("x", "a\0b").is_err());
    }
}
