//! Flow control of relayed streams (packet 106): how much may be on its way, and which
//! stream is meant. The streams of a command without a terminal are numbered as its
//! descriptors are.

use super::codec::encode_packet;
use super::packet::WINDOW_ADJUST;

/// Bytes of one output that the gateway sends before it hears that some were
/// taken.
pub const OUTPUT_SIZE: u32 = 1024 * 1024;

/// Bytes of input that the client may send at first, once the gateway has
/// said so: until then, none.
pub const INPUT_SIZE: u32 = 256 * 1024;

/// Appends the packet that says that so many bytes of a stream were taken.
pub fn encode(stream: u8, taken: u32, packets: &mut Vec<u8>) {
    let [a, b, c, d] = taken.to_le_bytes();
    encode_packet(WINDOW_ADJUST, &[stream, a, b, c, d], packets);
}

/// Reads the payload; `None`: it is none.
pub fn read(payload: &[u8]) -> Option<(u8, u32)> {
    let [stream, a, b, c, d] = *payload else {
        return None;
    };
    Some((stream, u32::from_le_bytes([a, b, c, d])))
}

/// Whether so much that was taken of a window is to be told.
pub fn is_adjust_due(taken: u32, window: u32) -> bool {
    taken >= window / 4
}

/// Window adjustments of a receiver: not for each byte, but often enough that the sender
/// never waits for one.
#[derive(Debug, Default)]
pub struct Consumed(u32);

impl Consumed {
    /// Adds consumed bytes; returns the adjustment to send, where one is due.
    pub fn add(&mut self, count: usize, window: u32) -> Option<u32> {
        self.0 = self.0.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        is_adjust_due(self.0, window).then(|| std::mem::take(&mut self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::packet::HEADER;

    #[test]
    fn what_was_taken_is_told_in_time() {
        let mut packets = Vec::new();
        encode(2, 70_000, &mut packets);
        assert_eq!(read(&packets[HEADER..]), Some((2, 70_000)));
        assert_eq!(read(&packets), None);
        let mut taken = Consumed::default();
        let mut told = 0;
        for _ in 0..100 {
            told += taken.add(5000, 100_000).unwrap_or(0);
        }
        assert_eq!(told, 500_000);
    }
}
