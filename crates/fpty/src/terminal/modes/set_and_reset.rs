//! Output that gives a terminal these modes, and output that undoes them: modes that have
//! their default are left out.

use crate::terminal::escape_parser::State;
use crate::text::is_control;

use super::parser::Osc;
use super::rendition::{Rendition, write};
use super::{
    CURSOR_KEYS, Charsets, DEFAULT_PRIVATE, KEYPAD, MARGINS, Modes, ORIGIN, PRIVATE_MODES, Region,
    bit,
};

/// Output that is not shown before it is complete.
const SYNCHRONIZED: u32 = bit(2026);

/// Modes that have a place of their own in the order of things: those that
/// move the cursor, and those that change what is drawn.
const IN_ORDER: u32 = ORIGIN | MARGINS | SYNCHRONIZED | KEYPAD | CURSOR_KEYS;

/// Modes that the terminal emulator which restores a screen (shpool-vterm) restores by
/// itself: the others are added.
const EMULATED: u32 = IN_ORDER
    | bit(7)
    | bit(12)
    | bit(25)
    | bit(1000)
    | bit(1002)
    | bit(1003)
    | bit(1004)
    | bit(1005)
    | bit(1006)
    | bit(1015)
    | bit(1016)
    | bit(2004);

impl Modes {
    /// Appends what makes a terminal that nobody has told anything like this
    /// one, but for what is on its screen.
    pub fn restore(&self, out: &mut Vec<u8>) {
        let title = self.title();
        if !title.is_empty() {
            write(out, format_args!("\x1b]2;{title}\x1b\\"));
        }
        if self.alternate != 0 {
            // What leaving the alternate screen brings back.
            let saved = &self.saved[0];
            saved.rendition.restore(out);
            restore_charsets(&saved.charsets, out);
            write_if(saved.origin, b"\x1b[?6h", out);
            write(out, format_args!("\x1b[?{}h\x1b[m", self.alternate));
            reset_charsets(&saved.charsets, out);
            write_if(saved.origin, b"\x1b[?6l", out);
        }
        restore_region(&self.region, 'r', out);
        if self.private.has(MARGINS) {
            out.extend_from_slice(b"\x1b[?69h");
            restore_region(&self.margins, 's', out);
        }
        write_if(self.private.has(ORIGIN), b"\x1b[?6h", out);
        self.restore_private(!IN_ORDER, out);
        write_if(self.private.has(CURSOR_KEYS), b"\x1b[?1h", out);
        write_if(self.private.has(KEYPAD), b"\x1b=", out);
        write_if(self.insert, b"\x1b[4h", out);
        if self.cursor_shape != 0 {
            write(out, format_args!("\x1b[{} q", self.cursor_shape));
        }
        self.rendition.restore(out);
        restore_charsets(&self.charsets, out);
    }

    /// Appends what a terminal emulator that paints the screen leaves out.
    pub fn restore_unemulated(&self, out: &mut Vec<u8>) {
        self.restore_private(!EMULATED, out);
        write_if(self.newline, b"\x1b[20h", out);
        if self.other_keys != 0 {
            write(out, format_args!("\x1b[>4;{}m", self.other_keys));
        }
        // Those of the main screen cannot be told while it is not shown.
        let keyboard = &self.keyboards[self.screen()];
        if keyboard.base != 0 {
            write(out, format_args!("\x1b[={}u", keyboard.base));
        }
        for flags in &keyboard.flags[..usize::from(keyboard.depth)] {
            write(out, format_args!("\x1b[>{flags}u"));
        }
    }

    /// Appends the beginning of the sequence that the output ends within, if
    /// it does: what comes next is taken for its rest. Strings that do more
    /// than name things begin as others that mean nothing.
    pub fn resume_sequence(&self, out: &mut Vec<u8>) {
        let parser = &self.parser;
        match parser.escapes.state() {
            State::Ground => {}
            State::Escape | State::EscapeIntermediate => {
                out.push(0x1b);
                self.resume_intermediates(out);
            }
            State::CsiEntry | State::CsiParameter | State::CsiIntermediate => {
                out.extend_from_slice(b"\x1b[");
                out.extend((parser.marker != 0).then_some(parser.marker));
                let (parameters, subparameters) = parser.parameters();
                for (at, parameter) in parameters.iter().take(parser.count.into()).enumerate() {
                    match (at, subparameters >> at & 1) {
                        (0, _) => {}
                        (_, 0) => out.push(b';'),
                        (_, _) => out.push(b':'),
                    }
                    // Digits may follow.
                    if *parameter != 0 {
                        write(out, format_args!("{parameter}"));
                    }
                }
                self.resume_intermediates(out);
            }
            State::CsiIgnore => out.extend_from_slice(b"\x1b[1<"),
            State::Osc => self.resume_osc(parser.osc, out),
            State::Dcs | State::Apc | State::SosPm => out.extend_from_slice(b"\x1b^"),
        }
    }

    fn resume_intermediates(&self, out: &mut Vec<u8>) {
        match self.parser.intermediate {
            0 => {}
            one @ 0x20..=0x2f => out.push(one),
            // Two that mean nothing together.
            _ => out.extend_from_slice(b"##"),
        }
    }

    fn resume_osc(&self, osc: Osc, out: &mut Vec<u8>) {
        let parser = &self.parser;
        match osc {
            Osc::Number => match parser.count {
                0 => out.extend_from_slice(b"\x1b]"),
                // One digit of two, maybe.
                _ => write(out, format_args!("\x1b]{}", parser.parameters[0])),
            },
            Osc::Title => {
                out.extend_from_slice(b"\x1b]2;");
                let title = String::from_utf8_lossy(&parser.title);
                out.extend(title.chars().filter(|c| !is_control(*c)).collect::<String>().bytes());
            }
            Osc::LinkParameters => out.extend_from_slice(b"\x1b]8;"),
            Osc::LinkAddress => out.extend_from_slice(b"\x1b]8;;"),
            Osc::ColourNumber => out.extend_from_slice(b"\x1b]4;"),
            // Of the palette, which of it is not known any more.
            Osc::Colour if parser.parameters[0] == 4 => out.extend_from_slice(b"\x1b]7777;"),
            Osc::Colour => write(out, format_args!("\x1b]{};", parser.parameters[0])),
            Osc::Other => out.extend_from_slice(b"\x1b]7777;"),
        }
    }

    fn restore_private(&self, of: u32, out: &mut Vec<u8>) {
        let changed = (self.private.0 ^ DEFAULT_PRIVATE) & of;
        write_private(changed, self.private.0, out);
    }

    /// Appends what gives a terminal back to whoever had it before: what is
    /// on is undone, and nothing else is said. The cursor is at the beginning
    /// of a line of the main screen then.
    pub fn reset(&self, out: &mut Vec<u8>) {
        if self.is_in_sequence() {
            // Whatever it is, it is none any more.
            out.extend_from_slice(b"\x18\x1b\\");
        }
        let changed = self.private.0 ^ DEFAULT_PRIVATE;
        write_if(changed & SYNCHRONIZED != 0, b"\x1b[?2026l", out);
        write_if(self.link, b"\x1b]8;;\x1b\\", out);
        for at in (0..11).filter(|at| self.colours >> at & 1 == 1) {
            let command = if at == 0 { 104 } else { 109 + at };
            write(out, format_args!("\x1b]{command}\x1b\\"));
        }
        self.reset_keyboard(self.screen(), out);
        write_if(self.other_keys != 0, b"\x1b[>4m", out);
        write_if(self.region != Region::default(), b"\x1b[r", out);
        // Of margins the mode itself is undone.
        write_private(changed & !SYNCHRONIZED & !KEYPAD, DEFAULT_PRIVATE, out);
        write_if(changed & KEYPAD != 0, b"\x1b>", out);
        write_if(self.insert, b"\x1b[4l", out);
        write_if(self.newline, b"\x1b[20l", out);
        write_if(self.cursor_shape != 0, b"\x1b[0 q", out);
        let mut moved = self.region != Region::default() || changed & (ORIGIN | MARGINS) != 0;
        let (mut rendition, mut charsets) = (self.rendition, self.charsets);
        if self.alternate != 0 {
            write(out, format_args!("\x1b[?{}l", self.alternate));
            if self.alternate == 1049 {
                // And what it brings back.
                let saved = &self.saved[0];
                (rendition, charsets, moved) = (saved.rendition, saved.charsets, saved.origin);
                write_if(saved.origin, b"\x1b[?6l", out);
            }
            self.reset_keyboard(0, out);
        }
        if moved {
            // These put the cursor into the corner: what comes next is to
            // come below what is there.
            out.extend_from_slice(b"\x1b[9999;1H");
        }
        write_if(rendition != Rendition::default(), b"\x1b[m", out);
        reset_charsets(&charsets, out);
    }

    fn reset_keyboard(&self, screen: usize, out: &mut Vec<u8>) {
        let keyboard = &self.keyboards[screen];
        if keyboard.depth != 0 {
            write(out, format_args!("\x1b[<{}u", keyboard.depth));
        }
        write_if(keyboard.base != 0, b"\x1b[=0u", out);
    }
}

fn write_private(which: u32, values: u32, out: &mut Vec<u8>) {
    for (at, mode) in PRIVATE_MODES.iter().enumerate() {
        if which >> at & 1 == 1 {
            let last = if values >> at & 1 == 1 { 'h' } else { 'l' };
            write(out, format_args!("\x1b[?{mode}{last}"));
        }
    }
}

fn restore_region(region: &Region, letter: char, out: &mut Vec<u8>) {
    match region {
        Region { first: 0, last: 0 } => {}
        Region { first, last: 0 } => write(out, format_args!("\x1b[{first}{letter}")),
        Region { first, last } => write(out, format_args!("\x1b[{first};{last}{letter}")),
    }
}

/// Appends this where it is to be told.
fn write_if(is_so: bool, text: &[u8], out: &mut Vec<u8>) {
    if is_so {
        out.extend_from_slice(text);
    }
}

/// The characters that designate the four sets.
const DESIGNATES: [char; 4] = ['(', ')', '*', '+'];

fn restore_charsets(charsets: &Charsets, out: &mut Vec<u8>) {
    for (slot, set) in DESIGNATES.iter().zip(charsets.sets) {
        if set != b'B' {
            write(out, format_args!("\x1b{slot}{}", char::from(set)));
        }
    }
    match charsets.shifted {
        1 => out.push(0x0e),
        2 => out.extend_from_slice(b"\x1bn"),
        3 => out.extend_from_slice(b"\x1bo"),
        _ => {}
    }
}

fn reset_charsets(charsets: &Charsets, out: &mut Vec<u8>) {
    for (slot, set) in DESIGNATES.iter().zip(charsets.sets) {
        if set != b'B' {
            write(out, format_args!("\x1b{slot}B"));
        }
    }
    if charsets.shifted != 0 {
        out.push(0x0f);
    }
}
