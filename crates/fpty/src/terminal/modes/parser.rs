//! Finds what has a bearing on modes in a terminal's output, in pieces of any size,
//! without memory beyond itself; what has none is passed by.

use memchr::memchr3;

use crate::terminal::escape_parser::{Action, ESC, EscapeParser, State, complete_csi};

/// The longest title that is kept, in bytes.
pub const MAX_TITLE: usize = 160;

/// Parameters of a control sequence; one with more means nothing.
pub const MAX_PARAMETERS: usize = 32;

const SHIFT_OUT: u8 = 0x0e;
const SHIFT_IN: u8 = 0x0f;

/// State of the output within the text of an operating system command; kept as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Osc {
    /// The command's number.
    #[default]
    Number,
    /// A title.
    Title,
    /// The parameters before the address of a link.
    LinkParameters,
    /// The beginning of a link's address, if there is one.
    LinkAddress,
    /// The number of a colour of the palette.
    ColourNumber,
    /// The beginning of a colour, or of a query for one.
    Colour,
    /// Any other command: it changes no mode.
    Other,
}

/// Event that the parser has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Attributes: the numbers of a `CSI m`; see [`parse_numbers`].
    Rendition(&'a [u8]),
    /// A control sequence that ends with this byte, of the parser's marker, intermediate
    /// and [`Parser::parameters`].
    Csi(u8),
    /// An escape sequence that ends with this byte, of the parser's intermediate.
    Escape(u8),
    /// The shift to the character set G1, or back to G0.
    Shift(u8),
    /// The parser's title has ended.
    Title,
    /// A link begins, or one ends.
    Link(bool),
    /// The colour of this number was set: that of the command that sets it.
    ColourSet(u16),
    /// The colour of this number was reset.
    ColourReset(u16),
}

/// The parser.
#[derive(Clone, Debug, Default)]
pub struct Parser {
    pub(crate) escapes: EscapeParser,
    /// Within an operating system command.
    pub(crate) osc: Osc,
    /// `?`, `>`, `=`, `<` before the parameters, or 0.
    pub(crate) marker: u8,
    /// The intermediate: the byte before the last byte of a sequence, or 0.
    pub(crate) intermediate: u8,
    pub(crate) parameters: [u16; MAX_PARAMETERS],
    /// Parameters that follow a colon: they belong to the one before.
    pub(crate) subparameters: u32,
    /// Number of parameters; the last is under way.
    pub(crate) count: u8,
    /// No longer than TITLE.
    pub(crate) title: Vec<u8>,
}

impl Parser {
    /// Takes output off the front of `bytes` up to the end of the next thing
    /// that counts; `None`: there is none.
    #[inline]
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Event<'a>> {
        loop {
            match self.escapes.state() {
                State::Ground => {
                    *bytes = &bytes[text_length(bytes)..];
                    if let Some((event, length)) = self.take_complete_csi(bytes) {
                        *bytes = &bytes[length..];
                        match event {
                            Some(event) => return Some(event),
                            None => continue,
                        }
                    }
                }
                State::Osc if self.osc != Osc::Other => {}
                state if state.is_string() => *bytes = &bytes[self.escapes.string_length(bytes)..],
                _ => {}
            }
            let (byte, rest) = bytes.split_first()?;
            *bytes = rest;
            if let Some(event) = self.byte(*byte) {
                return Some(event);
            }
        }
    }

    /// Takes a whole sequence at once, and says what it is, if it counts, and how
    /// long. `None`: there is none, and nothing is taken.
    #[inline(always)]
    fn take_complete_csi<'a>(&mut self, bytes: &'a [u8]) -> Option<(Option<Event<'a>>, usize)> {
        let complete_csi = complete_csi(bytes)?;
        let event = match (complete_csi.is_private, complete_csi.last) {
            (false, b'm') => Some(Event::Rendition(complete_csi.numbers)),
            (is_private, last @ (b'c' | b'h' | b'l' | b'r' | b's' | b'u')) => {
                let (parameters, count) = parse_numbers(complete_csi.numbers)?;
                (self.parameters, self.count) = (parameters, count);
                self.marker = if is_private { b'?' } else { 0 };
                (self.intermediate, self.subparameters) = (0, 0);
                Some(Event::Csi(last))
            }
            _ => None,
        };
        Some((event, complete_csi.length))
    }

    /// Whether nothing is under way: all that is left in the parser has no meaning.
    pub fn is_ground(&self) -> bool {
        self.escapes.state() == State::Ground
    }

    /// The parser's place in an operating system command.
    pub fn osc(&self) -> Option<Osc> {
        (self.escapes.state() == State::Osc).then_some(self.osc)
    }

    #[inline(never)]
    fn byte(&mut self, byte: u8) -> Option<Event<'static>> {
        let osc = self.osc();
        match self.escapes.step(byte) {
            Action::Text | Action::Control => {
                return matches!(byte, SHIFT_OUT | SHIFT_IN).then_some(Event::Shift(byte));
            }
            Action::Escape => {
                let event = osc.and_then(|osc| self.string_end(osc));
                self.begin();
                return event;
            }
            Action::StringEnd => return osc.and_then(|osc| self.string_end(osc)),
            Action::Csi => self.begin(),
            Action::String => {
                self.begin();
                self.osc = Osc::Number;
            }
            Action::Marker => self.marker = byte,
            Action::Parameter => self.parameter(byte),
            // Two of them mean nothing that is known here.
            Action::Intermediate => {
                self.intermediate = if self.intermediate == 0 { byte } else { 0xff };
            }
            Action::EscapeEnd => return Some(Event::Escape(byte)),
            Action::CsiEnd => return Some(Event::Csi(byte)),
            Action::Put => return osc.and_then(|osc| self.text(osc, byte)),
            Action::Terminator | Action::IgnoredEnd | Action::Cancel | Action::Nothing => {}
        }
        None
    }

    /// A byte of an operating system command.
    fn text(&mut self, osc: Osc, byte: u8) -> Option<Event<'static>> {
        match (osc, byte) {
            // Controls have no meaning within a string.
            (_, 0..0x20) => {}
            (Osc::Number, b'0'..=b'9') => self.digit(byte),
            (Osc::Number, b';') => {
                self.title.clear();
                self.osc = match (self.count, self.parameters[0]) {
                    (1, 0 | 2) => Osc::Title,
                    (1, 8) => Osc::LinkParameters,
                    (1, 4) => Osc::ColourNumber,
                    (1, 10..=19) => Osc::Colour,
                    _ => Osc::Other,
                };
                return self.colour_reset();
            }
            (Osc::Title, _) => {
                if self.title.len() < MAX_TITLE {
                    self.title.push(byte);
                }
            }
            (Osc::LinkParameters, b';') => self.osc = Osc::LinkAddress,
            (Osc::LinkAddress, _) => {
                self.osc = Osc::Other;
                return Some(Event::Link(true));
            }
            (Osc::ColourNumber, b';') => self.osc = Osc::Colour,
            (Osc::LinkParameters | Osc::ColourNumber, _) => {}
            (Osc::Colour, b'?' | b';') | (Osc::Number | Osc::Other, _) => self.osc = Osc::Other,
            (Osc::Colour, _) => {
                self.osc = Osc::Other;
                return Some(Event::ColourSet(self.parameters[0]));
            }
        }
        None
    }

    /// The event of a string that has ended.
    fn string_end(&self, osc: Osc) -> Option<Event<'static>> {
        match osc {
            Osc::Title => Some(Event::Title),
            Osc::LinkAddress => Some(Event::Link(false)),
            Osc::Number => self.colour_reset(),
            _ => None,
        }
    }

    /// The event of a command that resets a colour, by its number.
    fn colour_reset(&self) -> Option<Event<'static>> {
        let is_one = self.count == 1 && matches!(self.parameters[0], 104 | 110..=119);
        is_one.then(|| Event::ColourReset(self.parameters[0] - 100))
    }

    fn begin(&mut self) {
        (self.marker, self.intermediate, self.subparameters, self.count) = (0, 0, 0, 0);
        self.parameters[0] = 0;
    }

    /// A byte of the parameters.
    fn parameter(&mut self, byte: u8) {
        if byte.is_ascii_digit() {
            return self.digit(byte);
        }
        self.count = self.count.max(1);
        let next = usize::from(self.count);
        if next >= MAX_PARAMETERS {
            self.escapes = EscapeParser::at(State::CsiIgnore);
            return;
        }
        self.parameters[next] = 0;
        self.subparameters |= u32::from(byte == b':') << next;
        self.count += 1;
    }

    fn digit(&mut self, byte: u8) {
        self.count = self.count.max(1);
        let parameter = &mut self.parameters[usize::from(self.count) - 1];
        *parameter = parameter.saturating_mul(10).saturating_add(u16::from(byte - b'0'));
    }

    /// The parameters, and which of them belong to the one before.
    pub fn parameters(&self) -> (&[u16], u32) {
        // A sequence without any has one, which is 0.
        (&self.parameters[..usize::from(self.count.max(1))], self.subparameters)
    }
}

/// Reads numbers between semicolons, and counts them; `None`: they are more
/// than any sequence has.
pub fn parse_numbers(numbers: &[u8]) -> Option<([u16; MAX_PARAMETERS], u8)> {
    let (mut parameters, mut count) = ([0u16; MAX_PARAMETERS], 0);
    for byte in numbers {
        match byte {
            b';' => count += 1,
            digit => {
                let parameter = parameters.get_mut(count)?;
                *parameter = parameter.saturating_mul(10).saturating_add(u16::from(digit - b'0'));
            }
        }
    }
    // No number at all is none.
    let count = if numbers.is_empty() { 0 } else { count + 1 };
    (count <= MAX_PARAMETERS).then_some((parameters, count as u8))
}

/// Bytes that are looked at one by one: where there is one sequence, the next
/// is near.
const SCAN_BYTEWISE: usize = 16;

/// How many bytes at the front are characters, or have no bearing.
#[inline]
fn text_length(bytes: &[u8]) -> usize {
    let counts = |byte: &u8| matches!(*byte, ESC | SHIFT_OUT | SHIFT_IN);
    let (near, far) = bytes.split_at(bytes.len().min(SCAN_BYTEWISE));
    let far_one = || memchr3(ESC, SHIFT_OUT, SHIFT_IN, far).map(|at| near.len() + at);
    near.iter().position(counts).or_else(far_one).unwrap_or(bytes.len())
}
