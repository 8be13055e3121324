//! The value of an option, as typed, and how it is parsed.

use std::borrow::Cow;
use std::ffi::{CString, OsStr, OsString};
use std::ops::RangeInclusive;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use super::keyval_syntax;
use fpty::error::{Error, Result};

/// The value of an option, or of a key at a socket, as typed. Errors name both.
#[derive(Clone, Debug)]
pub struct OptionValue<'a> {
    /// `forkptyrouter-rows`, or `forkpty-urouter2: rows`.
    pub name: String,
    /// The bytes of the value.
    pub value: Cow<'a, OsStr>,
    /// The value's words, for a list.
    pub words: Vec<Vec<u8>>,
    /// The value of one socket, which replaces the global one.
    is_of_socket: bool,
}

impl<'a> OptionValue<'a> {
    /// The value of an option.
    pub fn of_option(name: &str, value: &'a OsStr) -> Self {
        let words = value.as_bytes().split(|byte| b";, ".contains(byte)).map(<[u8]>::to_vec);
        let words = words.collect();
        Self { name: name.to_owned(), value: Cow::Borrowed(value), words, is_of_socket: false }
    }

    /// The value of a key at a socket, as it stands there.
    pub fn of_key(option: &str, key: &str, value: &[u8]) -> Self {
        Self {
            name: format!("{option}: {key}"),
            value: Cow::Owned(OsString::from_vec(keyval_syntax::plain(value))),
            words: keyval_syntax::list(value),
            is_of_socket: true,
        }
    }

    /// The value as text, without blanks around it.
    pub fn text(&self) -> String {
        text(self.value.as_bytes())
    }

    /// The error of an invalid value.
    pub fn invalid(&self, why: &str) -> Error {
        self.invalid_word(&self.text(), why)
    }

    fn invalid_word(&self, word: &str, why: &str) -> Error {
        Error::new(format!("option {} = {word}: {why}", self.name))
    }

    /// The error of a value that is not shown.
    pub fn invalid_without_value(&self, why: &str) -> Error {
        Error::new(format!("option {}: {why}", self.name))
    }

    /// Parses the value; `why` is the error's reason.
    ///
    /// # Errors
    /// `parse` returns `None`.
    pub fn parse<T>(&self, (parse, why): (impl FnOnce(&str) -> Option<T>, &str)) -> Result<T> {
        parse(&self.text()).ok_or_else(|| self.invalid(why))
    }

    /// Parses each word; `why` is the error's reason.
    ///
    /// # Errors
    /// `parse` returns `None` for a word.
    pub fn parse_words<T>(&self, parse: impl Fn(&[u8]) -> Option<T>, why: &str) -> Result<Vec<T>> {
        let parse = |word: &Vec<u8>| parse(word).ok_or_else(|| self.invalid_word(&text(word), why));
        self.words.iter().map(parse).collect()
    }

    /// Parses each word, and extends a list; a socket's list replaces the global one.
    ///
    /// # Errors
    /// `parse` returns `None` for a word, or there is no word.
    pub fn extend<T>(
        &self,
        list: &mut Vec<T>,
        (parse, why): (impl Fn(&str) -> Option<T>, &str),
    ) -> Result<()> {
        let words = self.words.iter().map(|word| text(word)).filter(|word| !word.is_empty());
        let parse = |word: String| parse(&word).ok_or_else(|| self.invalid_word(&word, why));
        let values = words.map(parse).collect::<Result<Vec<T>>>()?;
        if values.is_empty() {
            return Err(self.invalid_without_value("the value is empty"));
        }
        if self.is_of_socket {
            list.clear();
        }
        list.extend(values);
        Ok(())
    }

    /// A whole number within a range.
    ///
    /// # Errors
    /// The value is no whole number, or out of range.
    pub fn number(&self, range: RangeInclusive<u32>) -> Result<u32> {
        let why = format!("not a whole number from {} to {}", range.start(), range.end());
        self.parse((|typed: &str| typed.parse().ok().filter(|it| range.contains(it)), &why))
    }

    /// A number of which 0 means the default.
    ///
    /// # Errors
    /// The value is no whole number, or greater than `max`.
    pub fn number_or(&self, default: u32, max: u32) -> Result<u32> {
        self.number(0..=max).map(|number| if number == 0 { default } else { number })
    }

    /// A limit; 0: none.
    ///
    /// # Errors
    /// The value is no whole number, or greater than `max`.
    pub fn limit(&self, max: u32) -> Result<Option<u32>> {
        self.number(0..=max).map(|count| (count > 0).then_some(count))
    }

    /// A time: seconds, or a number with s, m, h or d after it; 0 is none.
    ///
    /// # Errors
    /// The value is no time, or longer than the server can hold.
    pub fn time(&self) -> Result<Option<Duration>> {
        let seconds = |typed: &str| {
            let unit = match typed.as_bytes().last()? {
                b'm' => 60,
                b'h' => 3600,
                b'd' => 86_400,
                _ => 1,
            };
            let digits = typed.strip_suffix(['s', 'm', 'h', 'd']).unwrap_or(typed);
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            let number = digits.parse::<u64>().ok().filter(|_| is_number);
            number?.checked_mul(unit).filter(|seconds| *seconds <= MOST_SECONDS)
        };
        let seconds = self.parse((seconds, "not a time (90, 15m, 8h, 7d)"))?;
        Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
    }

    /// A time of which 0 means the default.
    ///
    /// # Errors
    /// As of [`OptionValue::time`].
    pub fn time_or(&self, default: Duration) -> Result<Duration> {
        self.time().map(|time| time.unwrap_or(default))
    }

    /// The words that uWSGI itself takes for true and false; a switch without a
    /// value is on.
    ///
    /// # Errors
    /// The value is none of these words.
    pub fn boolean(&self) -> Result<bool> {
        let parse = |typed: &str| match typed.to_ascii_lowercase().as_str() {
            "" | "true" | "on" | "yes" | "1" => Some(true),
            "false" | "off" | "no" | "0" => Some(false),
            _ => None,
        };
        self.parse((parse, "neither true nor false"))
    }

    /// One of these words.
    ///
    /// # Errors
    /// The value is none of these words.
    pub fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Result<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let found = |typed: &str| words.iter().find(|(name, _)| *name == typed);
        let (_, value) = self.parse((found, &format!("neither {}", names.join(" nor "))))?;
        Ok(*value)
    }

    /// An address or a path, which is not empty: its bytes as they were typed, of
    /// which any but NUL may stand in a path.
    ///
    /// # Errors
    /// The value is empty.
    pub fn bytes(&self) -> Result<OsString> {
        match self.value.as_bytes().trim_ascii() {
            [] => Err(self.invalid_without_value("the value is empty")),
            _ => Ok(self.value.clone().into_owned()),
        }
    }

    /// A command: likewise, but for blanks around it.
    ///
    /// # Errors
    /// The value is empty, or holds a NUL byte.
    pub fn command(&self) -> Result<CString> {
        CString::new(self.bytes()?.as_bytes().trim_ascii())
            .map_err(|_| self.invalid_without_value("the value holds a NUL byte"))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// Limit of the server's own numbers of seconds, an int.
const MOST_SECONDS: u64 = i32::MAX.unsigned_abs() as u64;

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(value: &str) -> OptionValue<'_> {
        OptionValue::of_option("forkptyrouter-x", value.as_ref())
    }

    #[test]
    fn a_number_is_taken_whole_or_refused() {
        assert_eq!(typed(" 40 ").number(0..=65535).ok(), Some(40));
        assert_eq!(typed("0").number_or(24, 65535).ok(), Some(24));
        assert_eq!(typed("0").limit(9).ok(), Some(None));
        for nonsense in ["abc", "", "-1", "70000", "4O", "1.5", "0x10", "99999999999999999999"] {
            let text = typed(nonsense).number(0..=65535).expect_err(nonsense).to_string();
            assert!(text.contains("forkptyrouter-x") && text.contains(nonsense), "{text}");
        }
    }

    #[test]
    fn a_time_has_a_unit_or_is_in_seconds() {
        for (value, seconds) in
            [("90", 90), (" 15m ", 900), ("8h", 28_800), ("7d", 604_800), ("5s", 5)]
        {
            let time = Some(Some(Duration::from_secs(seconds)));
            assert_eq!(typed(value).time().ok(), time, "{value}");
        }
        assert_eq!(typed("0").time().ok(), Some(None));
        for nonsense in ["", "m", "1.5h", "-1", "+1", "1 h", "1w", "99999999999d", "soon"] {
            let error = typed(nonsense).time().expect_err(nonsense).to_string();
            assert!(error.contains("forkptyrouter-x"), "{error}");
        }
    }

    #[test]
    fn a_switch_knows_the_words_of_uwsgi() {
        assert_eq!(typed("").boolean().ok(), Some(true));
        assert_eq!(typed("TRUE").boolean().ok(), Some(true));
        assert_eq!(typed("no").boolean().ok(), Some(false));
        assert!(typed("maybe").boolean().is_err());
    }

    #[test]
    fn one_of_some_words_and_no_other() {
        let words = [("json", 1), ("keyval", 2), ("off", 3)];
        assert_eq!(typed("json").one_of(&words).ok(), Some(1));
        assert_eq!(typed(" keyval ").one_of(&words).ok(), Some(2));
        for nonsense in ["", "JSON", "true", "json,keyval"] {
            let error = typed(nonsense).one_of(&words).expect_err(nonsense).to_string();
            assert!(error.ends_with(": neither json nor keyval nor off"), "{error}");
        }
    }

    #[test]
    fn bytes_are_bytes_and_not_none() {
        assert_eq!(typed(" /bin/sh ").command().ok(), CString::new("/bin/sh").ok());
        assert!(typed("  ").bytes().is_err());
        assert!(typed("a\0b").command().is_err());
        let latin = OsStr::from_bytes(b"/tmp/\xe9\xa0 ");
        let of = OptionValue::of_option("x", latin);
        assert_eq!(of.bytes().ok().as_deref(), Some(latin));
        assert_eq!(of.command().ok(), CString::new(&b"/tmp/\xe9\xa0"[..]).ok());
        let nonsense = of.number(0..=1).expect_err("no number");
        assert!(nonsense.to_string().contains('\u{fffd}'));
    }

    #[test]
    fn a_sockets_own_list_takes_the_place_of_the_global_one() {
        let number = |word: &str| word.parse::<u32>().ok();
        let mut list = Vec::new();
        for (value, all) in [("1;2", vec![1, 2]), ("3, 4", vec![1, 2, 3, 4])] {
            typed(value).extend(&mut list, (number, "not a number")).expect(value);
            assert_eq!(list, all);
        }
        let own = OptionValue::of_key("forkpty-router2", "x", b"5; 6");
        own.extend(&mut list, (number, "not a number")).expect("two");
        assert_eq!(list, [5, 6]);
        for (value, part) in [("x", "forkptyrouter-x = x: not a number"), (" ", "empty")] {
            let error = typed(value).extend(&mut list, (number, "not a number")).expect_err(value);
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
