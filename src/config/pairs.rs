//! uWSGI's key-value form (`addr=/run/x.sock,max=20`): commas separate, a
//! backslash takes its meaning from the byte after it.

use fpty::error::{Error, Result};

/// Splits at a separator that has no backslash before it.
fn split(text: &[u8], separator: u8) -> Vec<Vec<u8>> {
    let mut pieces = vec![Vec::new()];
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match *byte {
            // What it is before is kept for whoever splits further.
            b'\\' => {
                if let Some(piece) = pieces.last_mut() {
                    piece.extend([b'\\'].iter().chain(bytes.next()));
                }
            }
            byte if byte == separator => pieces.push(Vec::new()),
            byte => {
                if let Some(piece) = pieces.last_mut() {
                    piece.push(byte);
                }
            }
        }
    }
    pieces
}

/// Without the backslashes.
fn plain(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        plain.push(if *byte == b'\\' { *bytes.next().unwrap_or(byte) } else { *byte });
    }
    plain
}

/// A value, as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value(Vec<u8>);

impl Value {
    /// As one value.
    pub fn one(&self) -> Vec<u8> {
        plain(&self.0)
    }

    /// As a list, with `;` between its values; empty ones are none.
    pub fn list(&self) -> Vec<Vec<u8>> {
        let values = split(&self.0, b';').into_iter().map(|value| plain(&value));
        values.filter(|value| !value.is_empty()).collect()
    }
}

/// Reads keys and values, in their order.
///
/// # Errors
/// An item without `=`, or a key that is given twice.
pub fn read(option: &str, typed: &[u8]) -> Result<Vec<(String, Value)>> {
    let mut pairs: Vec<(String, Value)> = Vec::new();
    for item in split(typed, b',').iter().filter(|item| !item.trim_ascii().is_empty()) {
        let shown = String::from_utf8_lossy(item).into_owned();
        let Some(at) = item.iter().position(|byte| *byte == b'=') else {
            return Err(Error::new(format!("option {option}: {shown}: not a key=value")));
        };
        let key = String::from_utf8_lossy(item[..at].trim_ascii()).into_owned();
        if pairs.iter().any(|(other, _)| *other == key) {
            return Err(Error::new(format!("option {option}: {shown}: {key} is given twice")));
        }
        pairs.push((key, Value(item[at + 1..].to_vec())));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_separate_and_a_backslash_escapes() {
        let read = read("x", br"addr=/run/a\,b.sock, cmd=/bin/sh -c 'a;b' ,env=A=1;B=x\;y\\;C=\,")
            .expect("three");
        let keys: Vec<&str> = read.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["addr", "cmd", "env"]);
        assert_eq!(read[0].1.one(), b"/run/a,b.sock");
        assert_eq!(read[1].1.one(), b"/bin/sh -c 'a;b' ");
        assert_eq!(read[2].1.list(), [&b"A=1"[..], br"B=x;y\", b"C=,"]);
    }

    #[test]
    fn nonsense_is_named() {
        for (typed, part) in [("addr", "addr: not"), ("a=1,a=2", "twice"), ("=x,=y", "twice")] {
            let error = read("forkpty-router2", typed.as_bytes()).expect_err(typed).to_string();
            assert!(error.contains("forkpty-router2") && error.contains(part), "{error}");
        }
        assert_eq!(read("x", b"").expect("none"), []);
    }
}
