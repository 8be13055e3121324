//! uWSGI's key-value form (`addr=/run/x.sock,max=20`): commas separate, a
//! backslash takes its meaning from the byte after it.

use fpty::error::{Error, Result};

/// Splits at a separator that has no backslash before it. A backslash and the character
/// after it are kept, for a further split.
fn split(text: &[u8], separator: u8) -> Vec<Vec<u8>> {
    let (mut pieces, mut piece) = (Vec::new(), Vec::new());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match *byte {
            b'\\' => piece.extend([b'\\'].iter().chain(bytes.next())),
            byte if byte == separator => pieces.push(std::mem::take(&mut piece)),
            byte => piece.push(byte),
        }
    }
    pieces.push(piece);
    pieces
}

/// A text without its backslashes.
pub fn plain(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        plain.push(if *byte == b'\\' { *bytes.next().unwrap_or(byte) } else { *byte });
    }
    plain
}

/// A value as a list, with `;` between its words; empty ones are dropped.
pub fn list(text: &[u8]) -> Vec<Vec<u8>> {
    let values = split(text, b';').into_iter().map(|value| plain(&value));
    values.filter(|value| !value.is_empty()).collect()
}

/// Reads keys and values, in their order; the values as they stand there.
///
/// # Errors
/// An item without `=`, or a key that is given twice.
pub fn read(option: &str, typed: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut pairs: Vec<(String, Vec<u8>)> = Vec::new();
    for item in split(typed, b',').iter().filter(|item| !item.trim_ascii().is_empty()) {
        let shown = String::from_utf8_lossy(item).into_owned();
        let Some(at) = item.iter().position(|byte| *byte == b'=') else {
            return Err(Error::new(format!("option {option}: {shown}: not a key=value")));
        };
        let key = String::from_utf8_lossy(item[..at].trim_ascii()).into_owned();
        if pairs.iter().any(|(other, _)| *other == key) {
            return Err(Error::new(format!("option {option}: {shown}: {key} is given twice")));
        }
        pairs.push((key, item[at + 1..].to_vec()));
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
        assert_eq!(plain(&read[0].1), b"/run/a,b.sock");
        assert_eq!(plain(&read[1].1), b"/bin/sh -c 'a;b' ");
        assert_eq!(list(&read[2].1), [&b"A=1"[..], br"B=x;y\", b"C=,"]);
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
