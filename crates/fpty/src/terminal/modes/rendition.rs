//! Rendition of characters from here on: SGR (ECMA-48, xterm's ctlseqs).

use std::io::Write;

use super::parser::parse_numbers;

/// Colours are numbers: none, one of a palette, or red, green and blue.
const INDEXED: u32 = 1 << 24;
const DIRECT: u32 = 2 << 24;

const BOLD: u16 = 1 << 0;
const FAINT: u16 = 1 << 1;
const ITALIC: u16 = 1 << 2;
const BLINK: u16 = 1 << 3;
const RAPID: u16 = 1 << 4;
const INVERSE: u16 = 1 << 5;
const HIDDEN: u16 = 1 << 6;
const STRUCK: u16 = 1 << 7;
const OVERLINE: u16 = 1 << 8;
const FRAMED: u16 = 1 << 9;
const CIRCLED: u16 = 1 << 10;

/// Flags, each with the parameter that sets it.
const FLAGS: [(u16, u16); 11] = [
    (BOLD, 1),
    (FAINT, 2),
    (ITALIC, 3),
    (BLINK, 5),
    (RAPID, 6),
    (INVERSE, 7),
    (HIDDEN, 8),
    (STRUCK, 9),
    (FRAMED, 51),
    (CIRCLED, 52),
    (OVERLINE, 53),
];

/// Attributes and colours in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rendition {
    pub(crate) flags: u16,
    /// 0 none, 1 to 5 as in `4:N`.
    pub(crate) underline: u8,
    pub(crate) foreground: u32,
    pub(crate) background: u32,
    pub(crate) underline_colour: u32,
}

impl Rendition {
    /// Takes the parameters of a `CSI m`; `subparameters` has a bit for each that
    /// follows a colon.
    pub fn apply_sgr(&mut self, parameters: &[u16], subparameters: u32) {
        let mut at = 0;
        while at < parameters.len() {
            let mut end = at + 1;
            while end < parameters.len() && subparameters >> end & 1 == 1 {
                end += 1;
            }
            let (group, rest) = (&parameters[at..end], &parameters[end..]);
            at = end;
            match *group {
                [38 | 48 | 58, ..] => {
                    let (colour, taken) = match group.len() {
                        1 => colour_of_list(rest),
                        _ => (colour_of_group(group), 0),
                    };
                    at += taken;
                    if let Some(colour) = colour {
                        match group[0] {
                            38 => self.foreground = colour,
                            48 => self.background = colour,
                            _ => self.underline_colour = colour,
                        }
                    }
                }
                [4, kind] => self.underline = if kind <= 5 { kind as u8 } else { self.underline },
                [one] => self.one(one),
                _ => {}
            }
        }
    }

    fn one(&mut self, parameter: u16) {
        match parameter {
            0 => *self = Self::default(),
            // One weight, one pace, one frame.
            1 => self.set(BOLD, FAINT),
            2 => self.set(FAINT, BOLD),
            4 => self.underline = 1,
            5 => self.set(BLINK, RAPID),
            6 => self.set(RAPID, BLINK),
            21 => self.underline = 2,
            22 => self.flags &= !(BOLD | FAINT),
            23 => self.flags &= !ITALIC,
            24 => self.underline = 0,
            25 => self.flags &= !(BLINK | RAPID),
            27 => self.flags &= !INVERSE,
            28 => self.flags &= !HIDDEN,
            29 => self.flags &= !STRUCK,
            30..=37 => self.foreground = INDEXED | u32::from(parameter - 30),
            39 => self.foreground = 0,
            40..=47 => self.background = INDEXED | u32::from(parameter - 40),
            49 => self.background = 0,
            51 => self.set(FRAMED, CIRCLED),
            52 => self.set(CIRCLED, FRAMED),
            54 => self.flags &= !(FRAMED | CIRCLED),
            55 => self.flags &= !OVERLINE,
            59 => self.underline_colour = 0,
            90..=97 => self.foreground = INDEXED | u32::from(parameter - 90 + 8),
            100..=107 => self.background = INDEXED | u32::from(parameter - 100 + 8),
            other => {
                if let Some((flag, _)) = FLAGS.iter().find(|(_, code)| *code == other) {
                    self.flags |= flag;
                }
            }
        }
    }

    fn set(&mut self, flag: u16, instead_of: u16) {
        self.flags = self.flags & !instead_of | flag;
    }

    /// Appends what makes these of a terminal's defaults.
    pub fn restore(&self, out: &mut Vec<u8>) {
        for (flag, code) in FLAGS {
            if self.flags & flag != 0 {
                write(out, format_args!("\x1b[{code}m"));
            }
        }
        match self.underline {
            0 => {}
            1 => out.extend_from_slice(b"\x1b[4m"),
            kind => write(out, format_args!("\x1b[4:{kind}m")),
        }
        for (code, colour) in
            [(38, self.foreground), (48, self.background), (58, self.underline_colour)]
        {
            let [_, red, green, blue] = colour.to_be_bytes();
            match colour & !0xff_ffff {
                INDEXED => write(out, format_args!("\x1b[{code};5;{blue}m")),
                DIRECT => write(out, format_args!("\x1b[{code};2;{red};{green};{blue}m")),
                _ => {}
            }
        }
    }

    /// The rendition with every value in its bounds, of bytes that another process may
    /// have written.
    pub(crate) fn sanitized(mut self) -> Self {
        for colour in [&mut self.foreground, &mut self.background, &mut self.underline_colour] {
            if *colour >> 24 > 2 {
                *colour = 0;
            }
        }
        self.underline = self.underline.min(5);
        self
    }
}

/// The most sequences that wait.
const MAX_PENDING: usize = 4;

/// Sequences whose effect nobody has asked for: the numbers of each.
#[derive(Debug, Default)]
pub struct PendingSgr<'a> {
    pending: [&'a [u8]; MAX_PENDING],
    count: usize,
    /// Whether a reset comes before the sequences.
    resets: bool,
}

impl<'a> PendingSgr<'a> {
    /// Adds the parameters of a sequence.
    #[inline]
    pub fn add(&mut self, numbers: &'a [u8], rendition: &mut Rendition) {
        if matches!(numbers, b"" | b"0") {
            (self.count, self.resets) = (0, true);
            return;
        }
        if self.count == MAX_PENDING {
            self.apply(rendition);
        }
        self.pending[self.count] = numbers;
        self.count += 1;
    }

    /// Applies the pending parameters.
    #[inline]
    pub fn apply(&mut self, rendition: &mut Rendition) {
        if std::mem::take(&mut self.resets) {
            *rendition = Rendition::default();
        }
        for numbers in &self.pending[..std::mem::take(&mut self.count)] {
            if let Some((parameters, count)) = parse_numbers(numbers) {
                rendition.apply_sgr(&parameters[..usize::from(count)], 0);
            }
        }
    }
}

/// `5;N` or `2;R;G;B` in parameters of their own, and how many they are.
fn colour_of_list(rest: &[u16]) -> (Option<u32>, usize) {
    match *rest {
        [5, index, ..] => (indexed(index), 2),
        [2, red, green, blue, ..] => (direct(red, green, blue), 4),
        [5 | 2, ..] => (None, rest.len()),
        [_, ..] => (None, 1),
        [] => (None, 0),
    }
}

/// A colour in subparameters, where a colour space may stand between.
fn colour_of_group(group: &[u16]) -> Option<u32> {
    match *group {
        [_, 5, index, ..] => indexed(index),
        [_, 2, red, green, blue] => direct(red, green, blue),
        [_, 2, _, red, green, blue, ..] => direct(red, green, blue),
        _ => None,
    }
}

fn indexed(index: u16) -> Option<u32> {
    u8::try_from(index).ok().map(|index| INDEXED | u32::from(index))
}

fn direct(red: u16, green: u16, blue: u16) -> Option<u32> {
    let [red, green, blue] = [red, green, blue].map(|part| u8::try_from(part).ok().map(u32::from));
    Some(DIRECT | red? << 16 | green? << 8 | blue?)
}

/// Appends formatted text.
pub(crate) fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to memory does not fail.
    let _ = out.write_fmt(text);
}
