//! Modes as bytes of a fixed number. Who reads them cannot trust who wrote
//! them: every value comes back within its bounds.

use crate::relay::escapes::{Escapes, State};

use super::parser::{Osc, PARAMETERS, Parser, TITLE};
use super::rendition::Rendition;
use super::{Charsets, KEYBOARDS, Keyboard, Modes, PRIVATE, Region, Saved};

/// Length of modes that are kept.
pub const SIZE: usize = 512;

/// What the bytes begin with: another number is another layout.
const LAYOUT: u8 = 1;

/// Writes the fields, one after the other.
struct Writer<'a> {
    bytes: &'a mut [u8; SIZE],
    at: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    /// With room for the longest, and its length.
    fn title(&mut self, title: &[u8]) {
        self.bytes(title);
        self.at += TITLE - title.len();
        self.byte(title.len() as u8);
    }

    fn byte(&mut self, byte: u8) {
        self.bytes(&[byte]);
    }

    fn short(&mut self, short: u16) {
        self.bytes(&short.to_le_bytes());
    }

    fn word(&mut self, word: u32) {
        self.bytes(&word.to_le_bytes());
    }

    fn rendition(&mut self, rendition: &Rendition) {
        self.short(rendition.flags);
        self.byte(rendition.underline);
        self.word(rendition.foreground);
        self.word(rendition.background);
        self.word(rendition.underline_colour);
    }

    fn charsets(&mut self, charsets: &Charsets) {
        self.bytes(&charsets.sets);
        self.byte(charsets.shifted);
    }
}

/// Reads them in the same order.
struct Reader<'a> {
    bytes: &'a [u8; SIZE],
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        array
    }

    fn title(&mut self) -> Vec<u8> {
        let title: [u8; TITLE] = self.array();
        let length = usize::from(self.byte()).min(TITLE);
        title[..length].to_vec()
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    fn flag(&mut self) -> bool {
        self.byte() == 1
    }

    fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn rendition(&mut self) -> Rendition {
        Rendition {
            flags: self.short(),
            underline: self.byte(),
            foreground: self.word(),
            background: self.word(),
            underline_colour: self.word(),
        }
        .checked()
    }

    fn charsets(&mut self) -> Charsets {
        let sets = self.array().map(|set: u8| if (0x30..0x7f).contains(&set) { set } else { b'B' });
        Charsets { sets, shifted: self.byte() & 3 }
    }
}

impl Modes {
    /// As bytes.
    pub fn to_bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let mut to = Writer { bytes: &mut bytes, at: 0 };
        to.byte(LAYOUT);
        to.word(self.private);
        to.word(self.private_saved);
        for flag in [self.insert, self.newline, self.link, self.asked] {
            to.byte(flag.into());
        }
        to.short(self.colours);
        to.short(self.alternate);
        to.byte(self.cursor_shape);
        to.byte(self.other_keys);
        for region in [self.region, self.margins] {
            to.short(region.first);
            to.short(region.last);
        }
        to.charsets(&self.charsets);
        to.rendition(&self.rendition);
        for saved in &self.saved {
            to.charsets(&saved.charsets);
            to.rendition(&saved.rendition);
            to.byte(saved.origin.into());
        }
        for keyboard in &self.keyboards {
            to.bytes(&keyboard.flags);
            to.byte(keyboard.base);
            to.byte(keyboard.depth);
        }
        to.title(&self.title);
        let parser = &self.parser;
        to.byte(parser.to_number());
        to.byte(parser.marker);
        to.byte(parser.intermediate);
        to.word(parser.joined);
        to.byte(parser.count);
        for parameter in parser.parameters {
            to.short(parameter);
        }
        to.title(&parser.title);
        bytes
    }

    /// From bytes that anybody may have written; `None`: they are of another
    /// layout.
    pub fn from_bytes(bytes: &[u8; SIZE]) -> Option<Self> {
        let mut from = Reader { bytes, at: 0 };
        if from.byte() != LAYOUT {
            return None;
        }
        let all = (1 << PRIVATE.len()) - 1;
        let (private, private_saved) = (from.word() & all, from.word() & all);
        let [insert, newline, link, asked] = [(); 4].map(|()| from.flag());
        let colours = from.short() & 0x7ff;
        let alternate = Some(from.short()).filter(|mode| matches!(mode, 47 | 1047 | 1049));
        let cursor_shape = from.byte().min(6);
        let other_keys = from.byte();
        let [region, margins] =
            [(); 2].map(|()| Region { first: from.short(), last: from.short() });
        let charsets = from.charsets();
        let rendition = from.rendition();
        let saved = [(); 2].map(|()| Saved {
            charsets: from.charsets(),
            rendition: from.rendition(),
            origin: from.flag(),
        });
        let keyboards = [(); 2].map(|()| Keyboard {
            flags: from.array(),
            base: from.byte(),
            depth: from.byte().min(KEYBOARDS as u8),
        });
        let title = from.title();
        let parser = from.parser();
        Some(Self {
            parser,
            private,
            private_saved,
            insert,
            newline,
            alternate: alternate.unwrap_or(0),
            cursor_shape,
            region,
            margins,
            charsets,
            rendition,
            saved,
            keyboards,
            other_keys,
            link,
            colours,
            title,
            asked,
        })
    }
}

/// What operating system commands are noted as, in their order from [`FIRST_OSC`].
const OSCS: [Osc; 7] = [
    Osc::Number,
    Osc::Title,
    Osc::LinkParameters,
    Osc::LinkAddress,
    Osc::ColourNumber,
    Osc::Colour,
    Osc::Other,
];
const FIRST_OSC: u8 = 4;

impl Parser {
    /// Where in a sequence it stands.
    pub(super) fn to_number(&self) -> u8 {
        match self.escapes.state() {
            State::Ground => 0,
            State::Escape | State::EscapeIntermediate => 1,
            State::CsiEntry | State::CsiParameter | State::CsiIntermediate => 2,
            State::CsiIgnore => 3,
            State::Osc => FIRST_OSC + self.osc as u8,
            State::Dcs | State::Apc | State::Ignored => 11,
        }
    }

    /// Stands there, as far as the rest has been read.
    fn stand_at(&mut self, number: u8) {
        let osc = number.checked_sub(FIRST_OSC).and_then(|at| OSCS.get(usize::from(at)));
        self.osc = osc.copied().unwrap_or_default();
        let has_parameters = self.marker != 0 || self.count != 0;
        self.escapes = Escapes::at(match number {
            1 if self.intermediate == 0 => State::Escape,
            1 => State::EscapeIntermediate,
            2 if self.intermediate != 0 => State::CsiIntermediate,
            2 if has_parameters => State::CsiParameter,
            2 => State::CsiEntry,
            3 => State::CsiIgnore,
            _ if osc.is_some() => State::Osc,
            11 => State::Ignored,
            _ => State::Ground,
        });
    }
}

impl Reader<'_> {
    fn parser(&mut self) -> Parser {
        let state = self.byte();
        let mut parser = Parser {
            marker: self.byte(),
            intermediate: self.byte(),
            joined: self.word(),
            count: self.byte().min(PARAMETERS as u8),
            ..Parser::default()
        };
        for parameter in &mut parser.parameters {
            *parameter = self.short();
        }
        parser.title = self.title();
        parser.stand_at(state);
        parser
    }
}
