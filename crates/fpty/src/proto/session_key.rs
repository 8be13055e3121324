//! Keys by which a client finds its session again: the session's id and, where nobody
//! knows who the client is, a secret.

use std::fmt;
use std::hint::black_box;

use super::is_session_name;

/// Length of a secret, in bytes.
pub const SECRET_LENGTH: usize = 16;

/// Separator of id and secret in the argument of `--attach`: no name has it, nor an
/// address.
const SEPARATOR: char = '+';

/// The secret of a session, by which its client finds it again. No other client is
/// shown it.
#[derive(Clone)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
pub struct Secret([u8; SECRET_LENGTH]);

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// The kernel has none, or forbids it (getrandom(2)).
    pub fn new() -> std::io::Result<Self> {
        let mut bytes = [0; SECRET_LENGTH];
        crate::sys::random(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// A secret that was stored, or came from the other end.
    pub fn from_bytes(bytes: [u8; SECRET_LENGTH]) -> Self {
        Self(bytes)
    }

    /// A secret from a client's variable; `None`: not as many bytes as one has.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The secret's bytes.
    pub fn bytes(&self) -> &[u8; SECRET_LENGTH] {
        &self.0
    }

    /// Whether these are the secret's bytes, in a time that does not tell how many of
    /// them are.
    pub fn is(&self, bytes: &[u8]) -> bool {
        let Ok(bytes) = <&[u8; SECRET_LENGTH]>::try_from(bytes) else {
            return false;
        };
        let differ = |all: u8, (own, other): (&u8, &u8)| black_box(all | (own ^ other));
        self.0.iter().zip(bytes).fold(0, differ) == 0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The proof by which a client finds its session again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// The id, where it is the same user's client; or the secret as well.
    User = b'u' as isize,
    /// The id and the secret: nobody knows whose client it is.
    Secret = b's' as isize,
    /// The proof that a viewer came with: it only views.
    Viewer = b'w' as isize,
}

/// The key of a session, by which its client finds it again: the payload of
/// [`super::SESSION_KEY`] is a letter ([`FoundBy`]), the secret (none for who only
/// views), and the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionKey {
    /// The session's id.
    pub id: String,
    /// The session's secret.
    pub secret: Option<Secret>,
    /// The proof by which the session is found.
    pub found_by: FoundBy,
}

impl SessionKey {
    /// The payload.
    pub fn payload(&self) -> Vec<u8> {
        let secret = self.secret.as_ref().map_or(&[][..], |secret| secret.bytes());
        // An ASCII letter.
        [&[self.found_by as isize as u8], secret, self.id.as_bytes()].concat()
    }

    /// Reads the payload; `None`: it is none.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (letter, rest) = payload.split_first()?;
        let (found_by, secret, id) = match letter {
            b'w' => (FoundBy::Viewer, None, rest),
            b'u' | b's' => {
                let (secret, id) = rest.split_first_chunk()?;
                let found_by = if *letter == b'u' { FoundBy::User } else { FoundBy::Secret };
                (found_by, Some(Secret::from_bytes(*secret)), id)
            }
            _ => return None,
        };
        let id = String::from_utf8(id.to_vec()).ok().filter(|id| is_session_name(id.as_bytes()))?;
        Some(Self { id, secret, found_by })
    }

    /// The argument of `--attach` that finds the session again.
    pub fn attach_argument(&self) -> String {
        match (&self.secret, self.found_by) {
            (Some(secret), FoundBy::Secret) => {
                let hex: String = secret.0.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{}{SEPARATOR}{hex}", self.id)
            }
            _ => self.id.clone(),
        }
    }
}

/// Parses the argument of `--attach`: an id, and a secret where it has one; `None`: it is
/// not valid.
pub fn parse_argument(attach_argument: &str) -> Option<(&str, Option<Secret>)> {
    let (id, secret) = match attach_argument.split_once(SEPARATOR) {
        Some((id, hex)) => (id, Some(parse_secret(hex)?)),
        None => (attach_argument, None),
    };
    is_session_name(id.as_bytes()).then_some((id, secret))
}

fn parse_secret(hex: &str) -> Option<Secret> {
    let is_hex = hex.len() == 2 * SECRET_LENGTH && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut bytes = [0; SECRET_LENGTH];
    for (at, byte) in bytes.iter_mut().enumerate().filter(|_| is_hex) {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    is_hex.then_some(Secret(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_read_and_typed_as_it_was_made() {
        let secret = || Secret::from_bytes(*b"\0\x010123456789abc\xff");
        for (found_by, attach_argument) in [
            (FoundBy::User, "k3x9q2aa"),
            (FoundBy::Secret, "k3x9q2aa+000130313233343536373839616263ff"),
            (FoundBy::Viewer, "k3x9q2aa"),
        ] {
            let secret = (found_by != FoundBy::Viewer).then(secret);
            let key = SessionKey { id: String::from("k3x9q2aa"), secret, found_by };
            let read = SessionKey::read(&key.payload()).expect("a key");
            assert_eq!((read.id.as_str(), read.found_by), ("k3x9q2aa", found_by));
            assert_eq!(read.attach_argument(), attach_argument);
            let (id, secret) = parse_argument(attach_argument).expect("a word");
            assert_eq!((id, secret.is_some()), ("k3x9q2aa", found_by == FoundBy::Secret));
        }
        let attach_argument = "k3x9q2aa+000130313233343536373839616263ff";
        let (_, typed) = parse_argument(attach_argument).expect("a word");
        assert!(typed.is_some_and(|typed| typed.is(secret().bytes())));
    }

    #[test]
    fn nothing_else_is_one() {
        for attach_argument in
            ["", "a+", "a+0", "+000130313233343536373839616263ff", "a b", "a+b+c"]
        {
            assert!(parse_argument(attach_argument).is_none(), "{attach_argument}");
        }
        assert!(parse_argument(&format!("a+{}", "g".repeat(32))).is_none());
        assert!(parse_argument(&format!("a+{}", "\u{e9}".repeat(16))).is_none());
        for payload in [&b""[..], b"u", b"s0123456789abcdef", b"w", b"wa b", b"x0123456789abcdefid"]
        {
            assert!(SessionKey::read(payload).is_none(), "{payload:?}");
        }
    }

    #[test]
    fn a_secret_is_shown_to_nobody_and_is_whole() {
        let secret = Secret::new().expect("a secret");
        assert_eq!(format!("{secret:?}"), "Secret");
        assert!(secret.is(secret.clone().bytes()));
        assert!(!secret.is(&secret.bytes()[..15]) && !secret.is(&[]));
        assert!(!Secret::new().expect("another").is(secret.bytes()));
        for at in 0..SECRET_LENGTH {
            let mut other = *secret.bytes();
            other[at] ^= 1;
            assert!(!secret.is(&other), "{at}");
        }
    }

    proptest! {
        #[test]
        fn nonsense_is_harmless(payload in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(key) = SessionKey::read(&payload) {
                prop_assert_eq!(key.payload(), payload);
            }
        }
    }
}
