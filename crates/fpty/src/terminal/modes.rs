//! The modes that a program has set in its terminal, followed through its
//! output: what a terminal that comes later must be told, and what one that
//! leaves gets back. No screen, no characters: [`Modes`] has a fixed size, is
//! fed in pieces of any length, allocates nothing, and can be kept as bytes.

mod parser;
mod rendition;

pub use super::modes::encoding::SIZE;
use super::modes::parser::{Event, Parser};
use super::modes::rendition::{PendingSgr, Rendition};

use crate::text::is_control;

/// Private modes (`CSI ? N h`) that are followed, by their bit; the alternate
/// screen is not among them.
const PRIVATE_MODES: [u16; 26] = [
    1, 5, 6, 7, 9, 12, 25, 45, 66, 67, 69, 80, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007,
    1015, 1016, 1034, 2004, 2026, 2031,
];

const CURSOR_KEYS: u32 = bit(1);
const ORIGIN: u32 = bit(6);
const AUTOWRAP: u32 = bit(7);
const CURSOR_BLINK: u32 = bit(12);
const CURSOR_VISIBLE: u32 = bit(25);
const KEYPAD: u32 = bit(66);
const MARGINS: u32 = bit(69);
const BRACKETED_PASTE: u32 = bit(2004);

/// The private modes that are set in a terminal after power-on.
const DEFAULT_PRIVATE: u32 = AUTOWRAP | CURSOR_VISIBLE;

const fn bit(mode: u16) -> u32 {
    let mut at = 0;
    while PRIVATE_MODES[at] != mode {
        at += 1;
    }
    1 << at
}

fn find(mode: u16) -> Option<u32> {
    PRIVATE_MODES.iter().position(|other| *other == mode).map(|at| 1 << at)
}

/// The bit of a colour, by the command that sets it: 4, 10 to 19.
fn colour(command: u16) -> u16 {
    1 << command.saturating_sub(9).min(10)
}

/// The deepest stack of keyboard flags that is followed.
const KEYBOARD_STACK: usize = 8;

/// Keyboard flags (`CSI > N u`): what is in force, on top of what comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Keyboard {
    flags: [u8; KEYBOARD_STACK],
    /// Keyboard flags that are in force where none were pushed.
    base: u8,
    depth: u8,
}

impl Keyboard {
    fn push(&mut self, flags: u8) {
        if usize::from(self.depth) == KEYBOARD_STACK {
            self.flags.rotate_left(1);
            self.depth -= 1;
        }
        self.flags[usize::from(self.depth)] = flags;
        self.depth += 1;
    }

    fn pop(&mut self, count: u16) {
        self.depth = self.depth.saturating_sub(count.max(1).try_into().unwrap_or(u8::MAX));
        self.flags[usize::from(self.depth)..].fill(0);
        if self.depth == 0 {
            self.base = 0;
        }
    }

    fn current(&mut self) -> &mut u8 {
        match self.depth {
            0 => &mut self.base,
            depth => &mut self.flags[usize::from(depth) - 1],
        }
    }

    fn set(&mut self, flags: u8, how: u16) {
        let now = self.current();
        match how {
            2 => *now |= flags,
            3 => *now &= !flags,
            _ => *now = flags,
        }
    }
}

/// Character sets: G0 to G3 by the byte that designates each, and which of them is
/// shifted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Charsets {
    sets: [u8; 4],
    shifted: u8,
}

impl Default for Charsets {
    fn default() -> Self {
        Self { sets: [b'B'; 4], shifted: 0 }
    }
}

/// State that is saved along with the cursor (DECSC).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SavedCursor {
    rendition: Rendition,
    charsets: Charsets,
    origin: bool,
}

/// A part of the screen, first and last line or column; 0: the edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Region {
    first: u16,
    last: u16,
}

impl Region {
    /// The region that parameters say; `None`: they say none.
    fn of(parameters: &[u16]) -> Option<Self> {
        let [first, last] = [0, 1].map(|at| parameters.get(at).copied().unwrap_or(0));
        (last == 0 || first.max(1) < last).then_some(Self { first, last })
    }
}

/// Set of [`PRIVATE_MODES`] that are on: a bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PrivateModes(u32);

impl Default for PrivateModes {
    fn default() -> Self {
        Self(DEFAULT_PRIVATE)
    }
}

impl PrivateModes {
    fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    fn set(&mut self, bit: u32, on: bool) {
        self.0 = if on { self.0 | bit } else { self.0 & !bit };
    }
}

/// The modes of a terminal.
#[derive(Clone, Debug, Default)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub struct Modes {
    parser: Parser,
    private: PrivateModes,
    /// Saved private modes (`CSI ? N s`).
    private_saved: PrivateModes,
    insert: bool,
    /// A line feed returns the carriage, too.
    newline: bool,
    /// The alternate screen, by the mode that it came with; 0: the main one.
    alternate: u16,
    cursor_shape: u8,
    region: Region,
    margins: Region,
    charsets: Charsets,
    rendition: Rendition,
    /// Saved cursors of the main and of the alternate screen.
    saved: [SavedCursor; 2],
    keyboards: [Keyboard; 2],
    /// xterm's modifyOtherKeys.
    other_keys: u8,
    /// A link is open.
    link: bool,
    /// Colours that were set: a bit for the palette, and for each from the
    /// command 10 on.
    colours: u16,
    /// No longer than TITLE: most terminals have none.
    title: Vec<u8>,
    /// Whether the program has requested device attributes (DA1), and nobody has taken
    /// note.
    da1_requested: bool,
}

impl Modes {
    /// Follows output.
    #[inline]
    pub fn follow(&mut self, mut output: &[u8]) {
        // Most attributes are reset before anybody wants to know them.
        let mut attributes = PendingSgr::default();
        while let Some(event) = self.parser.next(&mut output) {
            match event {
                Event::Rendition(numbers) => attributes.add(numbers, &mut self.rendition),
                event => {
                    attributes.apply(&mut self.rendition);
                    self.event(event);
                }
            }
        }
        attributes.apply(&mut self.rendition);
    }

    /// The terminal has another size: a region of the old one is none.
    pub fn resized(&mut self) {
        self.region = Region::default();
        self.margins = Region::default();
    }

    /// Whether the alternate screen is shown.
    pub fn is_alternate(&self) -> bool {
        self.alternate != 0
    }

    /// Whether only a part of the screen scrolls.
    pub fn has_region(&self) -> bool {
        self.region != Region::default()
    }

    /// Whether pastes are told from what is typed.
    pub fn has_bracketed_paste(&self) -> bool {
        self.private.has(BRACKETED_PASTE)
    }

    /// Whether the output so far ends within a sequence.
    pub fn is_in_sequence(&self) -> bool {
        !self.parser.is_ground()
    }

    /// Whether the program has requested device attributes (DA1) since the last call;
    /// whoever reads while no terminal is there may answer.
    pub fn take_da1_request(&mut self) -> bool {
        std::mem::take(&mut self.da1_requested)
    }

    /// The title, less what is no character.
    pub fn title(&self) -> String {
        let title = String::from_utf8_lossy(&self.title);
        title.chars().filter(|c| !is_control(*c)).collect()
    }

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Rendition(_) => {}
            Event::Csi(b'm') if (self.parser.marker, self.parser.intermediate) == (0, 0) => {
                let (parameters, subparameters) = self.parser.parameters();
                self.rendition.apply_sgr(parameters, subparameters);
            }
            Event::Csi(last) => self.control_sequence(last),
            Event::Escape(last) => self.escape(last),
            // SO, SI.
            Event::Shift(byte) => self.charsets.shifted = u8::from(byte == 0x0e),
            Event::Title => {
                // The next one has the room of this.
                std::mem::swap(&mut self.title, &mut self.parser.title);
                self.parser.title.clear();
            }
            Event::Link(open) => self.link = open,
            Event::ColourSet(number) => self.colours |= colour(number),
            Event::ColourReset(number) => self.colours &= !colour(number),
        }
    }

    fn control_sequence(&mut self, last: u8) {
        let (parameters, _) = self.parser.parameters();
        let first = parameters[0];
        let low = |number: u16| u8::try_from(number).unwrap_or(0);
        let parameter_count = usize::from(self.parser.count);
        match (self.parser.marker, self.parser.intermediate, last) {
            (b'?', 0, b'h' | b'l' | b's' | b'r') => self.private_modes(last),
            (0, 0, b'h' | b'l') => {
                let parameters = parameters.iter();
                for mode in parameters.take(parameter_count.max(1)) {
                    match mode {
                        4 => self.insert = last == b'h',
                        20 => self.newline = last == b'h',
                        _ => {}
                    }
                }
            }
            (0, 0, b'r') => self.region = Region::of(parameters).unwrap_or(self.region),
            (0, 0, b's') if self.private.has(MARGINS) => {
                self.margins = Region::of(parameters).unwrap_or(self.margins);
            }
            (0, 0, b's') => self.save(),
            (0, 0, b'u') => self.restore_saved(),
            (0, 0, b'c') => self.da1_requested |= first == 0,
            (0, b' ', b'q') if first <= 6 => self.cursor_shape = low(first),
            (0, b'!', b'p') => self.soft_reset(),
            (b'>', 0, b'm') => match parameters {
                [4, level, ..] => self.other_keys = low(*level),
                [4] => self.other_keys = 0,
                [_] if parameter_count == 0 => self.other_keys = 0,
                _ => {}
            },
            (b'>', 0, b'n') if first == 4 => self.other_keys = 0,
            (b'>', 0, b'u') => self.keyboard().push(low(first)),
            (b'<', 0, b'u') => self.keyboard().pop(first),
            (b'=', 0, b'u') => {
                let how = parameters.get(1).copied().unwrap_or(1);
                self.keyboard().set(low(first), how);
            }
            _ => {}
        }
    }

    fn screen(&self) -> usize {
        usize::from(self.is_alternate())
    }

    fn keyboard(&mut self) -> &mut Keyboard {
        let screen = self.screen();
        &mut self.keyboards[screen]
    }

    fn private_modes(&mut self, last: u8) {
        for at in 0..self.parser.count.into() {
            let (parameters, subparameters) = self.parser.parameters();
            let mode = parameters[at];
            if subparameters >> at & 1 == 1 || subparameters >> (at + 1) & 1 == 1 {
                continue;
            }
            match (last, mode) {
                (b'h', 1049) => {
                    self.save();
                    self.alternate = mode;
                }
                (b'h', 47 | 1047) if self.alternate == 0 => self.alternate = mode,
                (b'h', 1048) => self.save(),
                (b'l', 47 | 1047) => self.alternate = 0,
                (b'l', 1048) => self.restore_saved(),
                (b'l', 1049) => {
                    self.alternate = 0;
                    self.restore_saved();
                }
                _ => {
                    if let Some(bit) = find(mode) {
                        self.private_mode(last, bit);
                    }
                }
            }
        }
    }

    fn private_mode(&mut self, last: u8, bit: u32) {
        match last {
            b's' => self.private_saved.set(bit, self.private.has(bit)),
            b'r' => self.private.set(bit, self.private_saved.has(bit)),
            last => self.private.set(bit, last == b'h'),
        }
        if !self.private.has(MARGINS) {
            self.margins = Region::default();
        }
    }

    fn escape(&mut self, last: u8) {
        match (self.parser.intermediate, last) {
            (0, b'7') => self.save(),
            (0, b'8') => self.restore_saved(),
            (0, b'=') => self.private.set(KEYPAD, true),
            (0, b'>') => self.private.set(KEYPAD, false),
            (0, b'n') => self.charsets.shifted = 2,
            (0, b'o') => self.charsets.shifted = 3,
            (0, b'c') => {
                let fresh = Self {
                    // What names the session is not the terminal's state.
                    title: std::mem::take(&mut self.title),
                    colours: self.colours,
                    da1_requested: self.da1_requested,
                    ..Self::default()
                };
                *self = fresh;
            }
            // DECID, which is older than DA1.
            (0, b'Z') => self.da1_requested = true,
            (slot @ b'('..=b'+', set) => self.charsets.sets[usize::from(slot - b'(')] = set,
            _ => {}
        }
    }

    fn save(&mut self) {
        let saved = SavedCursor {
            rendition: self.rendition,
            charsets: self.charsets,
            origin: self.private.has(ORIGIN),
        };
        let screen = self.screen();
        self.saved[screen] = saved;
    }

    fn restore_saved(&mut self) {
        let saved = self.saved[self.screen()];
        self.rendition = saved.rendition;
        self.charsets = saved.charsets;
        self.private.set(ORIGIN, saved.origin);
    }

    /// Resets the modes that xterm resets at a soft reset (DECSTR).
    fn soft_reset(&mut self) {
        let reset =
            CURSOR_VISIBLE | CURSOR_BLINK | AUTOWRAP | CURSOR_KEYS | KEYPAD | ORIGIN | MARGINS;
        self.private.0 = self.private.0 & !reset | DEFAULT_PRIVATE & reset;
        self.insert = false;
        self.cursor_shape = 0;
        self.rendition = Rendition::default();
        self.charsets = Charsets::default();
        self.resized();
        let screen = self.screen();
        self.saved[screen] = SavedCursor::default();
    }
}

pub(crate) mod encoding;
pub(crate) mod set_and_reset;
#[cfg(test)]
mod tests;
