//! Escape sequences in a terminal's output (ECMA-48), in pieces of any size: the
//! state machine of a VT500 as Paul Williams has drawn it (vt100.net,
//! "A parser for DEC's ANSI-compatible video terminals"). It has a byte, and
//! keeps nothing of what it walks through: each listener keeps what it needs.
//!
//! It knows controls of seven bits. Who wants those of eight (C1) as well puts
//! [`Controls`] before it.

use memchr::{memchr, memchr3};

/// Begins a sequence.
pub const ESC: u8 = 0x1b;
/// Ends an operating system command, too.
pub const BEL: u8 = 0x07;
/// Cancels a sequence.
pub const CAN: u8 = 0x18;
/// As [`CAN`].
pub const SUB: u8 = 0x1a;

/// Where in a sequence the output stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Characters.
    #[default]
    Ground,
    /// After an ESC.
    Escape,
    /// After an intermediate of an escape sequence.
    EscapeIntermediate,
    /// Where a control sequence begins.
    CsiEntry,
    /// In its parameters.
    CsiParameter,
    /// After an intermediate.
    CsiIntermediate,
    /// In one that means nothing.
    CsiIgnore,
    /// In an operating system command; BEL ends it, too.
    Osc,
    /// In a device control string.
    Dcs,
    /// In an application program command.
    Apc,
    /// In a start of string or a privacy message: terminals ignore them.
    Ignored,
}

impl State {
    /// Whether it is in a string.
    #[inline]
    pub fn is_string(self) -> bool {
        matches!(self, State::Osc | State::Dcs | State::Apc | State::Ignored)
    }
}

/// What a byte is where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A character, a part of one, or a control that stands by itself.
    Text,
    /// A control within a sequence: it is obeyed by itself.
    Control,
    /// An ESC. If a string stood before it that has ended; anything else is void.
    Escape,
    /// A control sequence begins.
    Csi,
    /// A string begins.
    String,
    /// The mark of private use before the parameters.
    Marker,
    /// A digit, or what stands between two parameters.
    Parameter,
    /// What stands before the last byte of a sequence.
    Intermediate,
    /// The last byte of an escape sequence.
    EscapeEnd,
    /// That of the one which ends a string, if one stood before it (ST).
    Terminator,
    /// The last byte of a control sequence.
    CsiEnd,
    /// That of one which means nothing.
    IgnoredEnd,
    /// A byte of a string.
    Put,
    /// A BEL that ends a string.
    StringEnd,
    /// What was under way is void.
    Cancel,
    /// Nothing within a sequence: DEL. Of what is beyond ASCII terminals think
    /// differently: here it is passed by.
    Nothing,
}

/// The state machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Escapes {
    state: State,
}

impl Escapes {
    /// One that stands here already.
    pub fn at(state: State) -> Self {
        Self { state }
    }

    /// Where it stands.
    #[inline]
    pub fn state(self) -> State {
        self.state
    }

    /// Takes a byte.
    // A listener's match on what is found becomes one with this.
    #[inline(always)]
    pub fn step(&mut self, byte: u8) -> Step {
        use State::*;
        if byte == ESC {
            self.state = Escape;
            return Step::Escape;
        }
        let (state, step) = match (self.state, byte) {
            (Ground, _) => return Step::Text,
            (_, CAN | SUB) => (Ground, Step::Cancel),
            (Osc, BEL) => (Ground, Step::StringEnd),
            (Osc | Dcs | Apc | Ignored, _) => return Step::Put,
            (_, 0..0x20) => return Step::Control,
            (_, 0x7f..) => return Step::Nothing,
            (Escape | EscapeIntermediate, 0x20..0x30) => (EscapeIntermediate, Step::Intermediate),
            (Escape, b'[') => (CsiEntry, Step::Csi),
            (Escape, b']') => (Osc, Step::String),
            (Escape, b'P') => (Dcs, Step::String),
            (Escape, b'_') => (Apc, Step::String),
            (Escape, b'X' | b'^') => (Ignored, Step::String),
            (Escape, b'\\') => (Ground, Step::Terminator),
            (Escape | EscapeIntermediate, _) => (Ground, Step::EscapeEnd),
            (CsiIgnore, 0x40..) => (Ground, Step::IgnoredEnd),
            (_, 0x40..) => (Ground, Step::CsiEnd),
            (CsiIgnore, _) => return Step::Nothing,
            (_, 0x20..0x30) => (CsiIntermediate, Step::Intermediate),
            (CsiEntry, b'<'..) => (CsiParameter, Step::Marker),
            (CsiEntry | CsiParameter, b'0'..=b';') => (CsiParameter, Step::Parameter),
            (_, _) => (CsiIgnore, Step::Nothing),
        };
        self.state = state;
        step
    }

    /// How many bytes at the front are a string's, within one: at the speed of
    /// memory.
    #[inline]
    pub fn string(self, bytes: &[u8]) -> usize {
        let end = memchr3(ESC, CAN, SUB, bytes).unwrap_or(bytes.len());
        match self.state {
            State::Osc => memchr(BEL, &bytes[..end]).unwrap_or(end),
            _ => end,
        }
    }
}

/// A control sequence in one piece, with nothing in it but numbers, as most are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<'a> {
    /// Whether a `?` stands before them.
    pub is_private: bool,
    /// They, between semicolons.
    pub numbers: &'a [u8],
    /// Its last byte.
    pub last: u8,
    /// Its length.
    pub length: usize,
}

/// The one that bytes begin with where no other is under way: a short cut, which
/// finds what [`Escapes::step`] does.
#[inline(always)]
pub fn whole(bytes: &[u8]) -> Option<Whole<'_>> {
    let [ESC, b'[', rest @ ..] = bytes else {
        return None;
    };
    let is_private = rest.first() == Some(&b'?');
    let begin = usize::from(is_private);
    let is_number = |byte: &u8| matches!(*byte, b'0'..=b'9' | b';');
    let end = begin + rest[begin..].iter().position(|byte| !is_number(byte))?;
    let last = rest[end];
    let whole = Whole { is_private, numbers: &rest[begin..end], last, length: end + 3 };
    matches!(last, 0x40..=0x7e).then_some(whole)
}

/// What begins the two bytes of a C1 control in UTF-8.
pub const LEAD: u8 = 0xc2;

/// Finds the controls of eight bits (C1) in text that is UTF-8: each may be
/// written as the two bytes of its character and, outside of a character, as one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Controls {
    /// How many bytes of a character are still to come.
    continuation: u8,
    /// A [`LEAD`] has come, and what it begins has not.
    led: bool,
}

/// What a byte is in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coded {
    /// A byte of seven bits.
    Ascii,
    /// Part of a character beyond ASCII.
    Part,
    /// A C1 control, which stands for an ESC and the byte less 0x40; with a
    /// [`LEAD`] before it, or without.
    Control {
        /// Whether that is so.
        led: bool,
    },
    /// A [`LEAD`], of which the next byte says what it is.
    Lead,
}

impl Controls {
    /// Whether the last byte was a [`LEAD`].
    pub fn is_led(self) -> bool {
        self.led
    }

    /// Characters of ASCII have come.
    pub fn skip_ascii(&mut self) {
        self.continuation = 0;
    }

    /// Takes a byte: whether a [`LEAD`] before it was part of a character, and what
    /// it is itself.
    #[inline]
    pub fn take(&mut self, byte: u8) -> (bool, Coded) {
        let is_c1 = (0x80..0xa0).contains(&byte);
        let led = std::mem::take(&mut self.led);
        if led && is_c1 {
            self.continuation = 0;
            return (false, Coded::Control { led });
        }
        if led {
            self.continuation = 1;
        }
        let continues = self.continuation > 0 && (0x80..0xc0).contains(&byte);
        self.continuation = match byte {
            _ if continues => self.continuation - 1,
            0xc3..=0xdf => 1,
            0xe0..=0xef => 2,
            0xf0..=0xf4 => 3,
            _ => 0,
        };
        self.led = byte == LEAD;
        let coded = match byte {
            LEAD => Coded::Lead,
            _ if is_c1 && !continues => Coded::Control { led: false },
            0x80.. => Coded::Part,
            _ => Coded::Ascii,
        };
        (led, coded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The last step of a sequence, and where it leads.
    fn last(bytes: &[u8]) -> (Step, State) {
        let mut escapes = Escapes::default();
        let step = bytes.iter().fold(Step::Nothing, |_, byte| escapes.step(*byte));
        (step, escapes.state())
    }

    #[test]
    fn sequences_end_where_they_should() {
        let ended: [(&[u8], Step); 14] = [
            (b"\x1b[1;31m", Step::CsiEnd),
            (b"\x1b[?25\x0ah", Step::CsiEnd),
            (b"\x1b[2 q", Step::CsiEnd),
            (b"\x1b[\x7f\x801m", Step::CsiEnd),
            (b"\x1b[1?n", Step::IgnoredEnd),
            (b"\x1b[??n", Step::IgnoredEnd),
            (b"\x1b[ 1q", Step::IgnoredEnd),
            (b"\x1b(B", Step::EscapeEnd),
            (b"\x1b#[", Step::EscapeEnd),
            (b"\x1b]0;title\x07", Step::StringEnd),
            (b"\x1bPq#0\x07\x1b\\", Step::Terminator),
            (b"\x1b[1\x18", Step::Cancel),
            (b"\x1b^text\x1a", Step::Cancel),
            (b"\x1b[1\x1b[2mx", Step::Text),
        ];
        for (bytes, step) in ended {
            assert_eq!(last(bytes), (step, State::Ground), "{bytes:?}");
        }
        assert_eq!(last(b"\x1b]2;a\x1b"), (Step::Escape, State::Escape));
        assert_eq!(last(b"\x1b_G\x07"), (Step::Put, State::Apc));
        assert_eq!(last(b"\x1b[>"), (Step::Marker, State::CsiParameter));
        assert_eq!(size_of::<Escapes>(), 1);
    }

    /// What text has beside ASCII.
    fn controls(text: &[u8]) -> Vec<(bool, Coded)> {
        let mut controls = Controls::default();
        text.iter().map(|byte| controls.take(*byte)).collect()
    }

    #[test]
    fn controls_of_eight_bits_are_told_from_characters() {
        let control = |led| (false, Coded::Control { led });
        assert_eq!(
            controls(b"\x9b\xc2\x9b"),
            [control(false), (false, Coded::Lead), control(true)]
        );
        assert_eq!(controls("\u{a9}".as_bytes()), [(false, Coded::Lead), (true, Coded::Part)]);
        assert_eq!(controls("\u{5b57}\u{6db}".as_bytes()), [(false, Coded::Part); 5]);
        // Half a character, and one that stands alone.
        assert_eq!(controls(b"\xe5a\x9b")[2], control(false));
    }

    fn likely() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => proptest::sample::select(b"\x1b[]PX_\\?>$:;0123\x07\x18\x1a\n mqh\x7f\x80\xe9".to_vec()),
            1 => any::<u8>(),
        ];
        proptest::collection::vec(piece, 0..80)
    }

    proptest! {
        /// By the short cuts, in any fragmentation, or byte by byte.
        #[test]
        fn it_does_not_matter_how_output_is_cut(output in likely(), cut in 1usize..20) {
            let mut plain = Escapes::default();
            let wanted: Vec<_> = output.iter().map(|byte| plain.step(*byte)).collect();
            let (mut escapes, mut steps) = (Escapes::default(), Vec::new());
            for mut piece in output.chunks(cut) {
                while let Some(byte) = piece.first() {
                    let mut taken = 1;
                    match (escapes.state(), whole(piece)) {
                        (State::Ground, Some(whole)) => {
                            taken = whole.length;
                            let at = steps.len();
                            steps.extend_from_slice(&wanted[at..at + taken - 1]);
                            steps.push(Step::CsiEnd);
                        }
                        (state, _) if state.is_string() && escapes.string(piece) > 0 => {
                            taken = escapes.string(piece);
                            steps.resize(steps.len() + taken, Step::Put);
                        }
                        _ => steps.push(escapes.step(*byte)),
                    }
                    piece = &piece[taken..];
                }
            }
            prop_assert_eq!(steps, wanted);
            prop_assert_eq!(escapes, plain);
        }
    }
}
