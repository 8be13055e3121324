//! Fingerprint of a server's structures: its header, and those of its flags that the
//! header looks at.
//!
//! Also a part of build.rs, which takes the fingerprint of the target server;
//! [`super::abi`] compares it with that of the server that loads the library.

use std::borrow::Cow;

/// The identity of one build of uWSGI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// `UWSGI_VERSION`, without quotes.
    pub version: Cow<'static, str>,
    /// FNV-1a of the header's text: it tells headers apart, no more.
    pub header: u64,
    /// The names of the macros (with `=value` where there is one) that the
    /// header looks at, sorted, with a blank between.
    pub flags: Cow<'static, str>,
}

/// Set by uWSGI for its own sources only; what it embeds changes no layout.
const NOT_LAYOUT: [&str; 2] = ["UWSGI_DECLARE_EMBEDDED_PLUGINS", "UWSGI_LOAD_EMBEDDED_PLUGINS"];

/// Takes the fingerprint of a server from what `--dot-h` and `--cflags` print.
pub fn of(header: &str, flags: &str) -> Fingerprint {
    // `--dot-h` prints one line feed more than uwsgi_get_dot_h() returns.
    let header = header.trim_end();
    let mut version = Cow::Borrowed("unknown");
    let mut counted = Vec::new();
    for flag in flags.split_ascii_whitespace() {
        let Some(definition) = flag.strip_prefix("-D") else {
            continue;
        };
        let name = definition.split('=').next().unwrap_or(definition);
        if name == "UWSGI_VERSION" {
            version = definition[name.len()..].replace(['=', '"', '\\'], "").into();
        } else if !NOT_LAYOUT.contains(&name) && mentions(header, name) {
            counted.push(definition.replace(['"', '\\'], ""));
        }
    }
    counted.sort_unstable();
    counted.dedup();
    Fingerprint { version, header: fnv1a(header.as_bytes()), flags: counted.join(" ").into() }
}

/// Whether `text` has `name` as a word of its own.
fn mentions(text: &str, name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(name)
        .any(|(at, _)| !text[..at].ends_with(word) && !text[at + name.len()..].starts_with(word))
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
