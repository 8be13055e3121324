//! Finds control sequences in a terminal's output, in pieces of any size,
//! without memory beyond itself. It follows the state machine of a VT500; what
//! has no bearing on modes is passed by.

use memchr::{memchr2, memchr3};

/// The longest title that is kept, in bytes.
pub const TITLE: usize = 160;

/// Parameters of a control sequence; one with more means nothing.
pub const PARAMETERS: usize = 32;

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
const SHIFT_OUT: u8 = 0x0e;
const SHIFT_IN: u8 = 0x0f;

/// Where in a sequence the output stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Characters.
    #[default]
    Ground,
    /// After an ESC.
    Escape,
    /// A control sequence.
    Csi,
    /// One that means nothing.
    CsiIgnored,
    /// The number of an operating system command.
    OscNumber,
    /// Its text, which is a title.
    Title,
    /// Its parameters before the address of a link.
    LinkParameters,
    /// Where the address of a link begins, if there is one.
    LinkAddress,
    /// The number of a colour of the palette.
    ColourNumber,
    /// Where a colour begins, or a question for one.
    Colour,
    /// Text of another one.
    Osc,
    /// A string of another kind.
    String,
}

/// By their number in a state that was kept.
pub const STATES: [State; 12] = [
    State::Ground,
    State::Escape,
    State::Csi,
    State::CsiIgnored,
    State::OscNumber,
    State::Title,
    State::LinkParameters,
    State::LinkAddress,
    State::ColourNumber,
    State::Colour,
    State::Osc,
    State::String,
];

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// Attributes: the numbers of a `CSI m`; see [`read`].
    Rendition(&'a [u8]),
    /// A control sequence that ends with this byte; see [`Parser::marker`],
    /// [`Parser::intermediate`] and [`Parser::parameters`].
    Csi(u8),
    /// An escape sequence that ends with this byte; see
    /// [`Parser::intermediate`].
    Escape(u8),
    /// The shift to the character set G1, or back to G0.
    Shift(u8),
    /// A title; see [`Parser::title`].
    Title,
    /// A link begins, or one ends.
    Link(bool),
    /// The colour of this number was set: that of the command that sets it.
    Coloured(u16),
    /// It is as it was before.
    Discoloured(u16),
}

/// The parser.
#[derive(Clone, Debug)]
pub struct Parser {
    pub(super) state: State,
    /// `?`, `>`, `=`, `<` before the parameters, or 0.
    pub(super) marker: u8,
    /// What stands before the last byte, or 0.
    pub(super) intermediate: u8,
    pub(super) parameters: [u16; PARAMETERS],
    /// Parameters that follow a colon: they belong to the one before.
    pub(super) joined: u32,
    /// How many there are; the last is under way.
    pub(super) count: u8,
    /// No longer than TITLE.
    pub(super) title: Vec<u8>,
}

impl PartialEq for Parser {
    /// What a sequence has left that has ended makes no difference.
    fn eq(&self, other: &Self) -> bool {
        let under_way = |parser: &Self| {
            let (parameters, joined) = parser.parameters();
            let numbers = (parser.count, parameters.to_vec(), joined);
            let title = Some(parser.title().to_vec()).filter(|_| parser.state == State::Title);
            (parser.marker, parser.intermediate, numbers, title)
        };
        let is_between = self.is_between() || under_way(self) == under_way(other);
        self.state == other.state && is_between
    }
}

impl Eq for Parser {}

impl Default for Parser {
    fn default() -> Self {
        Self {
            state: State::Ground,
            marker: 0,
            intermediate: 0,
            parameters: [0; PARAMETERS],
            joined: 0,
            count: 0,
            title: Vec::new(),
        }
    }
}

impl Parser {
    /// Takes output off the front of `bytes` up to the end of the next thing
    /// that counts; `None`: there is none.
    #[inline]
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Found<'a>> {
        loop {
            let skipped = match self.state {
                State::Ground => ground(bytes),
                State::Osc => memchr3(ESC, BEL, CAN, bytes),
                State::String => memchr2(ESC, CAN, bytes),
                _ => Some(0),
            };
            *bytes = &bytes[skipped.unwrap_or(bytes.len())..];
            if let (State::Ground, [ESC, b'[', rest @ ..]) = (self.state, *bytes) {
                if let Some((found, length)) = self.whole_sequence(rest) {
                    *bytes = &rest[length..];
                    match found {
                        Some(found) => return Some(found),
                        None => continue,
                    }
                }
            }
            let (byte, rest) = bytes.split_first()?;
            *bytes = rest;
            if let Some(found) = self.byte(*byte) {
                return Some(found);
            }
        }
    }

    /// Most sequences come whole, and have numbers in them only: takes such a
    /// one at once, and says what it is, if it counts, and how long. `None`: it
    /// is another, and nothing is taken.
    #[inline]
    fn whole_sequence<'a>(&mut self, bytes: &'a [u8]) -> Option<(Option<Found<'a>>, usize)> {
        let begin = usize::from(bytes.first() == Some(&b'?'));
        let is_number = |byte: &u8| matches!(*byte, b'0'..=b'9' | b';');
        let end = begin + bytes[begin..].iter().position(|byte| !is_number(byte))?;
        let numbers = &bytes[begin..end];
        let found = match (begin, bytes[end]) {
            (0, b'm') => Some(Found::Rendition(numbers)),
            (_, last @ (b'c' | b'h' | b'l' | b'r' | b's' | b'u')) => {
                let (parameters, count) = read(numbers)?;
                (self.parameters, self.count) = (parameters, count);
                (self.marker, self.intermediate, self.joined) = (begin as u8 * b'?', 0, 0);
                Some(Found::Csi(last))
            }
            (_, 0x40..=0x7e) => None,
            _ => return None,
        };
        Some((found, end + 1))
    }

    /// All that is left of it has no bearing: there is nothing under way.
    pub fn is_between(&self) -> bool {
        self.state == State::Ground
    }

    fn byte(&mut self, byte: u8) -> Option<Found<'static>> {
        match (self.state, byte) {
            (State::Ground, SHIFT_OUT | SHIFT_IN) => return Some(Found::Shift(byte)),
            (before, ESC) => {
                let found = self.finished(before);
                self.begin(State::Escape);
                return found;
            }
            (_, CAN | SUB) => self.state = State::Ground,
            (State::Escape | State::Csi | State::CsiIgnored, SHIFT_OUT | SHIFT_IN) => {
                return Some(Found::Shift(byte));
            }
            (State::Ground | State::String, _) => {}
            (State::Escape, _) => return self.escape(byte),
            (State::Csi, _) => return self.control_sequence(byte),
            (State::CsiIgnored, 0x40..=0x7e) => self.state = State::Ground,
            (State::CsiIgnored, _) => {}
            (before, BEL) => {
                self.state = State::Ground;
                return self.finished(before);
            }
            // Other controls have no meaning within a string.
            (_, 0..0x20) => {}
            (State::OscNumber, b'0'..=b'9') => self.digit(byte),
            (State::OscNumber, b';') => {
                self.title.clear();
                self.state = match (self.count, self.parameters[0]) {
                    (1, 0 | 2) => State::Title,
                    (1, 8) => State::LinkParameters,
                    (1, 4) => State::ColourNumber,
                    (1, 10..=19) => State::Colour,
                    _ => State::Osc,
                };
                return self.discoloured();
            }
            (State::ColourNumber, b';') => self.state = State::Colour,
            (State::ColourNumber, _) => {}
            (State::Colour, b'?' | b';') => self.state = State::Osc,
            (State::Colour, _) => {
                self.state = State::Osc;
                return Some(Found::Coloured(self.parameters[0]));
            }
            (State::OscNumber, _) => self.state = State::Osc,
            (State::Title, _) => {
                if self.title.len() < TITLE {
                    self.title.push(byte);
                }
            }
            (State::LinkParameters, b';') => self.state = State::LinkAddress,
            (State::LinkParameters, _) => {}
            (State::LinkAddress, _) => {
                self.state = State::Osc;
                return Some(Found::Link(true));
            }
            (State::Osc, _) => {}
        }
        None
    }

    /// What the end of a string means.
    fn finished(&self, state: State) -> Option<Found<'static>> {
        match state {
            State::Title => Some(Found::Title),
            State::LinkAddress => Some(Found::Link(false)),
            State::OscNumber => self.discoloured(),
            _ => None,
        }
    }

    /// What the number of a command means, if it takes a colour back.
    fn discoloured(&self) -> Option<Found<'static>> {
        let is_one = self.count == 1 && matches!(self.parameters[0], 104 | 110..=119);
        is_one.then(|| Found::Discoloured(self.parameters[0] - 100))
    }

    fn begin(&mut self, state: State) {
        self.state = state;
        (self.marker, self.intermediate, self.joined, self.count) = (0, 0, 0, 0);
        self.parameters[0] = 0;
    }

    fn escape(&mut self, byte: u8) -> Option<Found<'static>> {
        match byte {
            // Two of them mean nothing that is known here.
            0x20..=0x2f => {
                self.intermediate = if self.intermediate == 0 { byte } else { 0xff };
            }
            b'[' if self.intermediate == 0 => self.begin(State::Csi),
            b']' if self.intermediate == 0 => self.begin(State::OscNumber),
            b'P' | b'X' | b'^' | b'_' if self.intermediate == 0 => self.state = State::String,
            0x30..=0x7e => {
                self.state = State::Ground;
                return Some(Found::Escape(byte));
            }
            _ => {}
        }
        None
    }

    fn control_sequence(&mut self, byte: u8) -> Option<Found<'static>> {
        match byte {
            b'0'..=b'9' | b':' | b';' if self.intermediate != 0 => self.state = State::CsiIgnored,
            b'0'..=b'9' => self.digit(byte),
            b':' | b';' => {
                self.count = self.count.max(1);
                let next = usize::from(self.count);
                if next >= PARAMETERS {
                    self.state = State::CsiIgnored;
                    return None;
                }
                self.parameters[next] = 0;
                self.joined |= u32::from(byte == b':') << next;
                self.count += 1;
            }
            0x3c..=0x3f if self.count == 0 && self.marker == 0 && self.intermediate == 0 => {
                self.marker = byte;
            }
            0x3c..=0x3f => self.state = State::CsiIgnored,
            0x20..=0x2f => {
                self.intermediate = if self.intermediate == 0 { byte } else { 0xff };
            }
            0x40..=0x7e => {
                self.state = State::Ground;
                return Some(Found::Csi(byte));
            }
            _ => {}
        }
        None
    }

    fn digit(&mut self, byte: u8) {
        self.count = self.count.max(1);
        let parameter = &mut self.parameters[usize::from(self.count) - 1];
        *parameter = parameter.saturating_mul(10).saturating_add(u16::from(byte - b'0'));
    }

    /// The parameters, and which of them belong to the one before.
    pub fn parameters(&self) -> (&[u16], u32) {
        // A sequence without any has one, which is 0.
        (&self.parameters[..usize::from(self.count.max(1))], self.joined)
    }

    /// How many parameters were written.
    pub fn written(&self) -> usize {
        self.count.into()
    }

    /// Whether there is neither a mark nor anything before the last byte.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.marker == 0 && self.intermediate == 0
    }

    /// The mark before the parameters, or 0.
    pub fn marker(&self) -> u8 {
        self.marker
    }

    /// What stands before the last byte, or 0.
    pub fn intermediate(&self) -> u8 {
        self.intermediate
    }

    /// The title that has ended.
    pub fn title(&self) -> &[u8] {
        &self.title
    }
}

/// Reads numbers between semicolons, and counts them; `None`: they are more
/// than any sequence has.
pub fn read(numbers: &[u8]) -> Option<([u16; PARAMETERS], u8)> {
    let (mut parameters, mut count) = ([0u16; PARAMETERS], 0);
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
    (count <= PARAMETERS).then_some((parameters, count as u8))
}

/// Bytes that are looked at one by one: where there is one sequence, the next
/// is near.
const NEAR: usize = 16;

/// Where the next thing is that counts among characters.
#[inline]
fn ground(bytes: &[u8]) -> Option<usize> {
    let counts = |byte: &u8| matches!(*byte, ESC | SHIFT_OUT | SHIFT_IN);
    let (near, far) = bytes.split_at(bytes.len().min(NEAR));
    near.iter()
        .position(counts)
        .or_else(|| memchr3(ESC, SHIFT_OUT, SHIFT_IN, far).map(|at| near.len() + at))
}
