//! Escape sequences in a terminal's output (ECMA-48), in pieces of any size: the
//! state machine of a VT500 as Paul Williams has drawn it (vt100.net,
//! "A parser for DEC's ANSI-compatible video terminals"). It has a byte, and
//! keeps nothing of what it walks through: each listener keeps what it needs.
//!
//! It knows controls of seven bits. Who wants those of eight (C1) as well puts
//! [`C1Detector`] before it.
//!
//! Why not the crate vte (0.15), which has the same model: its state cannot be stored, and
//! a checkpoint of the scrollback has that in the midst of a sequence; it tells neither the
//! bytes of a sequence, which the query filter passes on as they came, nor of application
//! program commands (kitty's pictures), and knows no C1 in UTF-8; and it has a byte at a
//! time decoded. Its parser alone, with a listener that does nothing, walks through plain
//! text at 520 MB/s, colours at 43 and a device control string at 70, and has 432 bytes
//! for each terminal. [`crate::terminal::modes`] follows the modes at 6,800, 159 and 5,900
//! MB/s, in 248 bytes with all that they are.

use memchr::{memchr, memchr3};

/// Begins a sequence.
pub const ESC: u8 = 0x1b;
/// Ends an operating system command, too.
const BEL: u8 = 0x07;
/// Cancels a sequence.
pub const CAN: u8 = 0x18;
/// Cancels a sequence, too.
pub const SUB: u8 = 0x1a;

/// State of the output within a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Characters.
    #[default]
    Ground,
    /// After an ESC.
    Escape,
    /// After an intermediate of an escape sequence.
    EscapeIntermediate,
    /// At the beginning of a control sequence.
    CsiEntry,
    /// In the parameters of a control sequence.
    CsiParameter,
    /// After an intermediate.
    CsiIntermediate,
    /// In a control sequence without a meaning.
    CsiIgnore,
    /// In an operating system command; BEL ends it, too.
    Osc,
    /// In a device control string.
    Dcs,
    /// In an application program command.
    Apc,
    /// In a start of string or a privacy message: terminals ignore them.
    SosPm,
}

impl State {
    /// Whether the parser is in a string.
    #[inline]
    pub fn is_string(self) -> bool {
        matches!(self, State::Osc | State::Dcs | State::Apc | State::SosPm)
    }
}

/// Action of a byte in the parser's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
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
    /// A digit, or a separator of parameters.
    Parameter,
    /// An intermediate: a byte before the last byte of a sequence.
    Intermediate,
    /// The last byte of an escape sequence.
    EscapeEnd,
    /// The last byte of ST, which ends a string, if one stood before it.
    Terminator,
    /// The last byte of a control sequence.
    CsiEnd,
    /// The last byte of a control sequence without a meaning.
    IgnoredEnd,
    /// A byte of a string.
    Put,
    /// A BEL that ends a string.
    StringEnd,
    /// A byte that makes the sequence or string under way void.
    Cancel,
    /// A byte that is ignored within a sequence: DEL. Of what is beyond ASCII terminals
    /// think differently: here it is passed by.
    Nothing,
}

/// The parser: its state, one byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EscapeParser {
    state: State,
}

impl EscapeParser {
    /// A parser in this state.
    pub fn at(state: State) -> Self {
        Self { state }
    }

    /// The state of the parser.
    #[inline]
    pub fn state(self) -> State {
        self.state
    }

    /// Takes a byte.
    // A listener's match on what is found becomes one with this.
    #[inline(always)]
    pub fn step(&mut self, byte: u8) -> Action {
        use State::*;
        if byte == ESC {
            self.state = Escape;
            return Action::Escape;
        }
        let (state, step) = match (self.state, byte) {
            (Ground, _) => return Action::Text,
            (_, CAN | SUB) => (Ground, Action::Cancel),
            (Osc, BEL) => (Ground, Action::StringEnd),
            (Osc | Dcs | Apc | SosPm, _) => return Action::Put,
            (_, 0..0x20) => return Action::Control,
            (_, 0x7f..) => return Action::Nothing,
            (Escape | EscapeIntermediate, 0x20..0x30) => (EscapeIntermediate, Action::Intermediate),
            (Escape, b'[') => (CsiEntry, Action::Csi),
            (Escape, b']') => (Osc, Action::String),
            (Escape, b'P') => (Dcs, Action::String),
            (Escape, b'_') => (Apc, Action::String),
            (Escape, b'X' | b'^') => (SosPm, Action::String),
            (Escape, b'\\') => (Ground, Action::Terminator),
            (Escape | EscapeIntermediate, _) => (Ground, Action::EscapeEnd),
            (CsiIgnore, 0x40..) => (Ground, Action::IgnoredEnd),
            (_, 0x40..) => (Ground, Action::CsiEnd),
            (CsiIgnore, _) => return Action::Nothing,
            (_, 0x20..0x30) => (CsiIntermediate, Action::Intermediate),
            (CsiEntry, b'<'..) => (CsiParameter, Action::Marker),
            (CsiEntry | CsiParameter, b'0'..=b';') => (CsiParameter, Action::Parameter),
            (_, _) => (CsiIgnore, Action::Nothing),
        };
        self.state = state;
        step
    }

    /// How many bytes at the front are a string's, within one: at the speed of
    /// memory.
    #[inline]
    pub fn string_length(self, bytes: &[u8]) -> usize {
        let end = memchr3(ESC, CAN, SUB, bytes).unwrap_or(bytes.len());
        match self.state {
            State::Osc => memchr(BEL, &bytes[..end]).unwrap_or(end),
            _ => end,
        }
    }
}

/// A control sequence in one piece, with nothing in it but numbers, as most are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompleteCsi<'a> {
    /// Whether a `?` stands before the parameters.
    pub is_private: bool,
    /// The parameters, between semicolons.
    pub numbers: &'a [u8],
    /// The final byte.
    pub last: u8,
    /// The sequence's length, in bytes.
    pub length: usize,
}

/// The one that bytes begin with where no other is under way: a short cut, which
/// finds what [`EscapeParser::step`] does.
#[inline(always)]
pub fn complete_csi(bytes: &[u8]) -> Option<CompleteCsi<'_>> {
    let [ESC, b'[', rest @ ..] = bytes else {
        return None;
    };
    let is_private = rest.first() == Some(&b'?');
    let begin = usize::from(is_private);
    let is_number = |byte: &u8| matches!(*byte, b'0'..=b'9' | b';');
    let end = begin + rest[begin..].iter().position(|byte| !is_number(byte))?;
    let last = rest[end];
    let complete_csi =
        CompleteCsi { is_private, numbers: &rest[begin..end], last, length: end + 3 };
    matches!(last, 0x40..=0x7e).then_some(complete_csi)
}

/// First byte of the UTF-8 form of a C1 control.
pub const C1_LEAD: u8 = 0xc2;

/// Finds the controls of eight bits (C1) in text that is UTF-8: each may be
/// written as the two bytes of its character and, outside of a character, as one.
#[derive(Clone, Copy, Debug, Default)]
pub struct C1Detector {
    /// How many bytes of a character are still to come.
    continuation: u8,
    /// A [`C1_LEAD`] has come, and what it begins has not.
    has_lead: bool,
}

/// Class of a byte in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteClass {
    /// A byte of seven bits.
    Ascii,
    /// Part of a character beyond ASCII.
    Part,
    /// A C1 control, which stands for an ESC and the byte less 0x40; with a
    /// [`C1_LEAD`] before it, or without.
    Control {
        /// Whether the control has a [`C1_LEAD`] before it.
        has_lead: bool,
    },
    /// A [`C1_LEAD`], of which the next byte says what it is.
    C1Lead,
}

impl C1Detector {
    /// Whether the last byte was a [`C1_LEAD`].
    pub fn is_after_lead(self) -> bool {
        self.has_lead
    }

    /// Characters of ASCII have come.
    pub fn end_character(&mut self) {
        self.continuation = 0;
    }

    /// Takes a byte: whether a [`C1_LEAD`] before it was part of a character, and what
    /// it is itself.
    #[inline]
    pub fn take(&mut self, byte: u8) -> (bool, ByteClass) {
        let is_c1 = (0x80..0xa0).contains(&byte);
        let has_lead = std::mem::take(&mut self.has_lead);
        if has_lead && is_c1 {
            self.continuation = 0;
            return (false, ByteClass::Control { has_lead });
        }
        if has_lead {
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
        self.has_lead = byte == C1_LEAD;
        let coded = match byte {
            C1_LEAD => ByteClass::C1Lead,
            _ if is_c1 && !continues => ByteClass::Control { has_lead: false },
            0x80.. => ByteClass::Part,
            _ => ByteClass::Ascii,
        };
        (has_lead, coded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The last step of a sequence, and where it leads.
    fn last(bytes: &[u8]) -> (Action, State) {
        let mut escapes = EscapeParser::default();
        let step = bytes.iter().fold(Action::Nothing, |_, byte| escapes.step(*byte));
        (step, escapes.state())
    }

    #[test]
    fn sequences_end_where_they_should() {
        let ended: [(&[u8], Action); 14] = [
            (b"\x1b[1;31m", Action::CsiEnd),
            (b"\x1b[?25\x0ah", Action::CsiEnd),
            (b"\x1b[2 q", Action::CsiEnd),
            (b"\x1b[\x7f\x801m", Action::CsiEnd),
            (b"\x1b[1?n", Action::IgnoredEnd),
            (b"\x1b[??n", Action::IgnoredEnd),
            (b"\x1b[ 1q", Action::IgnoredEnd),
            (b"\x1b(B", Action::EscapeEnd),
            (b"\x1b#[", Action::EscapeEnd),
            (b"\x1b]0;title\x07", Action::StringEnd),
            (b"\x1bPq#0\x07\x1b\\", Action::Terminator),
            (b"\x1b[1\x18", Action::Cancel),
            (b"\x1b^text\x1a", Action::Cancel),
            (b"\x1b[1\x1b[2mx", Action::Text),
        ];
        for (bytes, step) in ended {
            assert_eq!(last(bytes), (step, State::Ground), "{bytes:?}");
        }
        assert_eq!(last(b"\x1b]2;a\x1b"), (Action::Escape, State::Escape));
        assert_eq!(last(b"\x1b_G\x07"), (Action::Put, State::Apc));
        assert_eq!(last(b"\x1b[>"), (Action::Marker, State::CsiParameter));
        assert_eq!(size_of::<EscapeParser>(), 1);
    }

    /// Classes of the bytes of a text beyond ASCII.
    fn controls(text: &[u8]) -> Vec<(bool, ByteClass)> {
        let mut controls = C1Detector::default();
        text.iter().map(|byte| controls.take(*byte)).collect()
    }

    #[test]
    fn controls_of_eight_bits_are_told_from_characters() {
        let control = |has_lead| (false, ByteClass::Control { has_lead });
        assert_eq!(
            controls(b"\x9b\xc2\x9b"),
            [control(false), (false, ByteClass::C1Lead), control(true)]
        );
        assert_eq!(
            controls("\u{a9}".as_bytes()),
            [(false, ByteClass::C1Lead), (true, ByteClass::Part)]
        );
        assert_eq!(controls("\u{5b57}\u{6db}".as_bytes()), [(false, ByteClass::Part); 5]);
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
        /// The parser by its short cuts, in any fragmentation, and byte by byte.
        #[test]
        fn it_does_not_matter_how_output_is_cut(output in likely(), cut in 1usize..20) {
            let mut plain = EscapeParser::default();
            let wanted: Vec<_> = output.iter().map(|byte| plain.step(*byte)).collect();
            let (mut escapes, mut steps) = (EscapeParser::default(), Vec::new());
            for mut piece in output.chunks(cut) {
                while let Some(byte) = piece.first() {
                    let mut taken = 1;
                    match (escapes.state(), complete_csi(piece)) {
                        (State::Ground, Some(complete_csi)) => {
                            taken = complete_csi.length;
                            let at = steps.len();
                            steps.extend_from_slice(&wanted[at..at + taken - 1]);
                            steps.push(Action::CsiEnd);
                        }
                        (state, _) if state.is_string() && escapes.string_length(piece) > 0 => {
                            taken = escapes.string_length(piece);
                            steps.resize(steps.len() + taken, Action::Put);
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
