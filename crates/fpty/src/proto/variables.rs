//! Variables of the extended mode: pairs of a name and a value, each as the
//! uwsgi protocol writes them (u16 length, bytes; u16 length, bytes; the
//! lengths little-endian).

use super::codec::encode_packet;
use super::packet::VARIABLES;

/// The most variables that a client may set.
const MAX_COUNT: usize = 256;
/// The most bytes of all their names and values.
const MAX_BYTES: usize = 64 * 1024;

/// Names with this prefix say something about the client; the others are for
/// the program's environment. (No environment variable has a dot in it.)
pub const PREFIX: &[u8] = b"fpty.";

/// The client can take descriptors over (value 1).
pub const CAN_TAKE_TERMINAL: &[u8] = b"fpty.take";

/// The client can detach its session and attach to it again (value 1).
pub const CAN_DETACH: &[u8] = b"fpty.detach";
/// The name that the session is to have.
pub const SESSION_NAME: &[u8] = b"fpty.name";
/// Where a session of that name is left, it is attached to; where none is, it
/// is begun (value 1).
pub const BEGIN: &[u8] = b"fpty.begin";
/// Attach even where another client is attached (value 1).
pub const STEAL: &[u8] = b"fpty.steal";
/// The client only views (value 1).
pub const READ_ONLY: &[u8] = b"fpty.readonly";
/// The secret of the session that is asked for (16 bytes), or nothing: the client
/// keeps the one that it gets; see [`super::session_key`].
pub const SECRET: &[u8] = b"fpty.secret";
/// Origin of the client's person, as sshd(8) writes it.
pub const SSH_CONNECTION: &[u8] = b"fpty.ssh_connection";
/// The login name of the client's person, as its environment has it (LOGNAME).
pub const LOGNAME: &[u8] = b"fpty.logname";
/// The client wants no terminal for the program (value 0).
pub const TERMINAL: &[u8] = b"fpty.terminal";

/// Appends packets with these pairs, each in one packet. What is too long for
/// one is left out.
pub fn encode<'a>(pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>, packets: &mut Vec<u8>) {
    let mut payload = Vec::new();
    for (name, value) in pairs {
        let length = name.len() + value.len() + 4;
        if length > u16::MAX.into() {
            continue;
        }
        if payload.len() + length > u16::MAX.into() {
            encode_packet(VARIABLES, &payload, packets);
            payload.clear();
        }
        for text in [name, value] {
            // Shorter than a packet, as both are together.
            payload.extend_from_slice(&(text.len() as u16).to_le_bytes());
            payload.extend_from_slice(text);
        }
    }
    if !payload.is_empty() {
        encode_packet(VARIABLES, &payload, packets);
    }
}

/// The variables that a client has set.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
    packet: Vec<u8>,
    truncated: bool,
}

impl Variables {
    /// Takes a part of a packet.
    pub fn part(&mut self, part: &[u8], last: bool) {
        if self.packet.len() + part.len() > u16::MAX.into() || self.is_full() {
            self.truncated = true;
        } else {
            self.packet.extend_from_slice(part);
        }
        if last {
            let packet = std::mem::take(&mut self.packet);
            let mut rest = packet.as_slice();
            while let Some((name, value)) = pair(&mut rest) {
                self.set(name, value);
            }
        }
    }

    /// All pairs in their order; of several with one name the last counts.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pairs.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// The value of a name.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.pairs.iter().rfind(|(other, _)| other == name).map(|(_, value)| value.as_slice())
    }

    /// Notice to the client that some variables were too many or too long, and left out;
    /// `None`: none were.
    pub fn truncation_notice(&self) -> Option<String> {
        let line =
            || format!("some variables were left out: at most {MAX_COUNT}, and {MAX_BYTES} bytes");
        self.truncated.then(line)
    }

    fn is_full(&self) -> bool {
        self.pairs.len() >= MAX_COUNT || self.bytes >= MAX_BYTES
    }

    fn set(&mut self, name: &[u8], value: &[u8]) {
        let bytes = self.bytes + name.len() + value.len();
        if self.pairs.len() >= MAX_COUNT || bytes > MAX_BYTES {
            self.truncated = true;
            return;
        }
        self.bytes = bytes;
        self.pairs.push((name.to_vec(), value.to_vec()));
    }
}

/// Takes a pair off the front; `None` at the end, or where the rest is none.
fn pair<'a>(bytes: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let name = text(bytes)?;
    Some((name, text(bytes)?))
}

fn text<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = usize::from(u16::from_le_bytes(*length));
    let (text, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some(text)
}

/// Whether a name is one that a shell would set (environ(7), POSIX XBD 8.1): letters,
/// digits and underscores, no digit first.
pub fn is_environment_name(name: &[u8]) -> bool {
    name.first().is_some_and(|first| !first.is_ascii_digit())
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::packet::HEADER;
    use proptest::prelude::*;

    #[test]
    fn names_are_a_shells() {
        for good in ["TERM", "_x1", "LC_ALL"] {
            assert!(is_environment_name(good.as_bytes()), "{good}");
        }
        for bad in ["", "1A", "A=B", "A\0", "fpty.take", "A-B", "\u{e4}"] {
            assert!(!is_environment_name(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn there_is_a_bound() {
        let mut variables = Variables::default();
        let mut packets = Vec::new();
        let names: Vec<String> = (0..70_000).map(|number| format!("V{number}")).collect();
        encode(names.iter().map(|name| (name.as_bytes(), b"x".as_slice())), &mut packets);
        let mut rest = packets.as_slice();
        while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
            let size = usize::from(u16::from_le_bytes([header[1], header[2]]));
            let (payload, after) = after.split_at(size);
            variables.part(payload, true);
            rest = after;
        }
        assert_eq!(variables.iter().count(), MAX_COUNT);
        assert!(variables.truncated);
        let mut long = Variables::default();
        let mut packets = Vec::new();
        encode([(b"A".as_slice(), [b'x'; 60_000].as_slice())], &mut packets);
        for _ in 0..3 {
            long.part(&packets[HEADER..], true);
        }
        assert_eq!(long.iter().count(), 1);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_in_any_pieces(
            pairs in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..20), proptest::collection::vec(any::<u8>(), 0..40)),
                0..40),
            cut in 1usize..30,
        ) {
            let mut packets = Vec::new();
            encode(pairs.iter().map(|(name, value)| (name.as_slice(), value.as_slice())), &mut packets);
            let mut variables = Variables::default();
            if let Some(payload) = packets.get(HEADER..) {
                let count = payload.chunks(cut).count();
                for (index, piece) in payload.chunks(cut).enumerate() {
                    variables.part(piece, index + 1 == count);
                }
            }
            let read: Vec<_> = variables.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
            prop_assert_eq!(read, pairs);
        }

        #[test]
        fn nonsense_is_harmless(payload in proptest::collection::vec(any::<u8>(), 0..500)) {
            let mut variables = Variables::default();
            variables.part(&payload, true);
            prop_assert!(variables.iter().count() <= payload.len() / 4);
        }
    }
}
