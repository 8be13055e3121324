//! What a client can say.
//!
//! A packet is `modifier1 (u8), size (u16 little-endian), modifier2 (u8)`,
//! the uwsgi header, whose modifier2 says what it is; modifier1 is ignored.
//! Only input has a payload.

/// Length of the header, in bytes.
pub const HEADER: usize = 4;

/// modifier2 of input; the size is that of the payload.
pub const INPUT: u8 = 0;
/// The first and the last modifier2 that is a signal's number.
pub const SIGNALS: std::ops::RangeInclusive<u8> = 1..=99;
/// modifier2 of the number of rows, which is the size.
pub const ROWS: u8 = 100;
/// modifier2 of the number of columns, which is the size.
pub const COLS: u8 = 101;

/// One packet, or a piece of one: input is passed on as it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Bytes for the terminal; not empty.
    Input(&'a [u8]),
    /// A signal's number, 1 to 99.
    Signal(u8),
    /// The terminal's height.
    Rows(u16),
    /// The terminal's width.
    Cols(u16),
    /// A modifier2 without a meaning, and its size.
    Unknown(u8, u16),
}
