//! Modes as bytes of a fixed number. Who reads them cannot trust who wrote
//! them: every value comes back within its bounds.

use crate::terminal::escape_parser::{EscapeParser, State};

use super::parser::{MAX_PARAMETERS, MAX_TITLE, Osc, Parser};
use super::rendition::Rendition;
use super::{Charsets, KEYBOARD_STACK, Modes, PRIVATE_MODES};

/// Size of encoded modes, in bytes.
pub const SIZE: usize = 512;

/// Number of the layout, the first byte: another number is another layout.
const LAYOUT: u8 = 1;

/// Goes through the fields in their order: writes them, or reads them.
struct FieldCursor<'a> {
    bytes: &'a mut [u8; SIZE],
    at: usize,
    reads: bool,
}

impl FieldCursor<'_> {
    fn bytes(&mut self, field: &mut [u8]) {
        let kept = &mut self.bytes[self.at..self.at + field.len()];
        match self.reads {
            true => field.copy_from_slice(kept),
            false => kept.copy_from_slice(field),
        }
        self.at += field.len();
    }

    fn byte(&mut self, field: &mut u8) {
        self.bytes(std::slice::from_mut(field));
    }

    fn flag(&mut self, field: &mut bool) {
        let mut byte = u8::from(*field);
        self.byte(&mut byte);
        *field = byte == 1;
    }

    fn short(&mut self, field: &mut u16) {
        let mut bytes = field.to_le_bytes();
        self.bytes(&mut bytes);
        *field = u16::from_le_bytes(bytes);
    }

    fn word(&mut self, field: &mut u32) {
        let mut bytes = field.to_le_bytes();
        self.bytes(&mut bytes);
        *field = u32::from_le_bytes(bytes);
    }

    /// A title: room for the longest, and its length.
    fn title(&mut self, title: &mut Vec<u8>) {
        // No longer than that.
        let mut length = title.len() as u8;
        title.resize(MAX_TITLE, 0);
        self.bytes(title);
        self.byte(&mut length);
        title.truncate(length.into());
    }

    fn rendition(&mut self, rendition: &mut Rendition) {
        self.short(&mut rendition.flags);
        self.byte(&mut rendition.underline);
        self.word(&mut rendition.foreground);
        self.word(&mut rendition.background);
        self.word(&mut rendition.underline_colour);
        *rendition = rendition.sanitized();
    }

    fn charsets(&mut self, charsets: &mut Charsets) {
        self.bytes(&mut charsets.sets);
        for set in charsets.sets.iter_mut().filter(|set| !(0x30..0x7f).contains(*set)) {
            *set = b'B';
        }
        self.byte(&mut charsets.shifted);
        charsets.shifted &= 3;
    }

    fn modes(&mut self, modes: &mut Modes) {
        for private in [&mut modes.private, &mut modes.private_saved] {
            self.word(&mut private.0);
            private.0 &= (1 << PRIVATE_MODES.len()) - 1;
        }
        for flag in
            [&mut modes.insert, &mut modes.newline, &mut modes.link, &mut modes.da1_requested]
        {
            self.flag(flag);
        }
        self.short(&mut modes.colours);
        modes.colours &= 0x7ff;
        self.short(&mut modes.alternate);
        if !matches!(modes.alternate, 47 | 1047 | 1049) {
            modes.alternate = 0;
        }
        self.byte(&mut modes.cursor_shape);
        modes.cursor_shape = modes.cursor_shape.min(6);
        self.byte(&mut modes.other_keys);
        for region in [&mut modes.region, &mut modes.margins] {
            self.short(&mut region.first);
            self.short(&mut region.last);
        }
        self.charsets(&mut modes.charsets);
        self.rendition(&mut modes.rendition);
        for saved in &mut modes.saved {
            self.charsets(&mut saved.charsets);
            self.rendition(&mut saved.rendition);
            self.flag(&mut saved.origin);
        }
        for keyboard in &mut modes.keyboards {
            self.bytes(&mut keyboard.flags);
            self.byte(&mut keyboard.base);
            self.byte(&mut keyboard.depth);
            keyboard.depth = keyboard.depth.min(KEYBOARD_STACK as u8);
        }
        self.title(&mut modes.title);
        self.parser(&mut modes.parser);
    }

    fn parser(&mut self, parser: &mut Parser) {
        let mut state = parser.state_number();
        self.byte(&mut state);
        self.byte(&mut parser.marker);
        self.byte(&mut parser.intermediate);
        self.word(&mut parser.subparameters);
        self.byte(&mut parser.count);
        parser.count = parser.count.min(MAX_PARAMETERS as u8);
        for parameter in &mut parser.parameters {
            self.short(parameter);
        }
        self.title(&mut parser.title);
        parser.set_state(state);
    }
}

impl Modes {
    /// The modes as bytes.
    pub fn to_bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[0] = LAYOUT;
        FieldCursor { bytes: &mut bytes, at: 1, reads: false }.modes(&mut self.clone());
        bytes
    }

    /// Decodes bytes that anybody may have written; `None`: they are of another layout.
    pub fn from_bytes(bytes: &[u8; SIZE]) -> Option<Self> {
        let mut modes = Self::default();
        FieldCursor { bytes: &mut bytes.clone(), at: 1, reads: true }.modes(&mut modes);
        (bytes[0] == LAYOUT).then_some(modes)
    }
}

/// Codes of operating system commands, in their order from [`OSC_BASE`].
const OSC_STATES: [Osc; 7] = [
    Osc::Number,
    Osc::Title,
    Osc::LinkParameters,
    Osc::LinkAddress,
    Osc::ColourNumber,
    Osc::Colour,
    Osc::Other,
];
const OSC_BASE: u8 = 4;

impl Parser {
    /// The parser's place in a sequence, as a number.
    pub(crate) fn state_number(&self) -> u8 {
        match self.escapes.state() {
            State::Ground => 0,
            State::Escape | State::EscapeIntermediate => 1,
            State::CsiEntry | State::CsiParameter | State::CsiIntermediate => 2,
            State::CsiIgnore => 3,
            State::Osc => OSC_BASE + self.osc as u8,
            State::Dcs | State::Apc | State::SosPm => 11,
        }
    }

    /// Stands there, as far as the rest has been read.
    fn set_state(&mut self, number: u8) {
        let osc = number.checked_sub(OSC_BASE).and_then(|at| OSC_STATES.get(usize::from(at)));
        self.osc = osc.copied().unwrap_or_default();
        let has_parameters = self.marker != 0 || self.count != 0;
        self.escapes = EscapeParser::at(match number {
            1 if self.intermediate == 0 => State::Escape,
            1 => State::EscapeIntermediate,
            2 if self.intermediate != 0 => State::CsiIntermediate,
            2 if has_parameters => State::CsiParameter,
            2 => State::CsiEntry,
            3 => State::CsiIgnore,
            _ if osc.is_some() => State::Osc,
            11 => State::SosPm,
            _ => State::Ground,
        });
    }
}
