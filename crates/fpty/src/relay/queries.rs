//! Takes out of a terminal's output what a terminal answers, and what sets
//! its clipboard: for output that is shown again, to another terminal, which
//! would type its answers at whatever runs now.
//!
//! What is a query stands in the functions at the end of this file, by the
//! names of ECMA-48, of DEC's manuals and of xterm's list of control
//! sequences (ctlseqs). The rest follows the state machine of a VT500: an ESC
//! or a C1 control ends any sequence that it stands in. C1 controls are
//! known as two bytes of UTF-8 and, outside of a character, as one.

use std::mem;

/// The longest sequence that is kept until its end is seen. Every query is
/// shorter, or known by how it begins.
const LONGEST: usize = 4096;

const ESC: u8 = 0x1b;
const ENQ: u8 = 0x05;
const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
/// What begins the two bytes of a C1 control in UTF-8.
const LEAD: u8 = 0xc2;
/// C1: ends a string.
const ST: u8 = 0x9c;
const END_OF_STRING: &[u8] = b"\x1b\\";

/// The filter; output goes through it in pieces of any size.
#[derive(Clone, Debug, Default)]
pub struct Queries {
    state: State,
    /// The sequence that has begun, as far as it is not decided.
    held: Vec<u8>,
    /// How many bytes of a UTF-8 character are still to come.
    continuation: u8,
    /// A [`LEAD`] has come, and what it begins has not.
    led: bool,
    /// What became of a string that an ESC has ended.
    string: Ended,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Characters.
    #[default]
    Ground,
    /// After an ESC.
    Escape,
    /// A control sequence.
    Csi,
    /// A control sequence that is too long to be any.
    Overlong,
    /// A string that is held.
    Held(Kind),
    /// A string that has been let through so far.
    Passed(Kind),
    /// A string that is left out.
    Dropped(Kind),
    /// What a program sends through tmux to the terminal outside: two ESC
    /// stand for one. The second state is that after an ESC.
    Tmux,
    TmuxEscape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// An operating system command; BEL ends it, too.
    Osc,
    /// A device control string.
    Dcs,
    /// An application program command.
    Apc,
    /// A start of string, a privacy message: terminals ignore them.
    Other,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ended {
    #[default]
    None,
    Passed,
    Dropped,
}

impl Queries {
    /// Lets output through, less the queries. What is not decided yet comes
    /// with a later piece.
    pub fn pass(&mut self, output: &[u8], through: &mut Vec<u8>) {
        let mut rest = output;
        while let [byte, after @ ..] = rest {
            if self.state == State::Ground && !self.led {
                let plain = rest.iter().position(|byte| !is_plain(*byte)).unwrap_or(rest.len());
                if plain > 0 {
                    through.extend_from_slice(&rest[..plain]);
                    self.continuation = 0;
                    rest = &rest[plain..];
                    continue;
                }
            }
            self.byte(*byte, through);
            rest = after;
        }
    }

    /// Whether something has begun that is not decided: whoever was shown
    /// what came through so far gets what follows from a copy of this filter,
    /// until there is nothing undecided.
    pub fn is_undecided(&self) -> bool {
        self.state != State::Ground || self.led
    }

    /// Finds the controls among the bytes.
    fn byte(&mut self, byte: u8, through: &mut Vec<u8>) {
        if mem::take(&mut self.led) {
            if is_c1(byte) {
                self.continuation = 0;
                return self.control(byte, &[LEAD, byte], through);
            }
            self.text(LEAD, through);
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
        match byte {
            // Nothing else is to come of it, wherever it stands.
            ENQ => {}
            LEAD => self.led = true,
            _ if is_c1(byte) && !continues => self.control(byte, &[byte], through),
            0x80.. => self.text(byte, through),
            _ => self.ascii(byte, through),
        }
    }

    /// Part of a character beyond ASCII.
    fn text(&mut self, byte: u8, through: &mut Vec<u8>) {
        match self.state {
            State::Ground | State::Passed(_) => through.push(byte),
            State::Held(kind) => self.hold(kind, byte, through),
            // None stands within a sequence, which ends here.
            State::Escape | State::Csi | State::Overlong => {
                self.finish_string(through);
                self.held.clear();
                through.push(byte);
                self.state = State::Ground;
            }
            State::Dropped(_) => {}
            State::Tmux | State::TmuxEscape => self.state = State::Tmux,
        }
    }

    /// A C1 control, as it was written.
    fn control(&mut self, control: u8, written: &[u8], through: &mut Vec<u8>) {
        if matches!(self.state, State::Tmux | State::TmuxEscape) {
            self.state = State::Tmux;
            return;
        }
        self.leave(through);
        if control == ST {
            match mem::take(&mut self.string) {
                Ended::Dropped => {}
                Ended::None | Ended::Passed => through.extend_from_slice(written),
            }
            return;
        }
        self.finish_string(through);
        // What ESC and this character would begin.
        self.begin(control - 0x40, written, through);
    }

    fn ascii(&mut self, byte: u8, through: &mut Vec<u8>) {
        match (self.state, byte) {
            (State::Tmux, ESC) => self.state = State::TmuxEscape,
            (State::TmuxEscape, b'\\') => self.state = State::Ground,
            (State::Tmux | State::TmuxEscape, CAN | SUB) => self.state = State::Ground,
            (State::Tmux | State::TmuxEscape, _) => self.state = State::Tmux,
            (State::Held(Kind::Dcs), ESC) if is_for_outside(&self.held) => {
                self.held.clear();
                self.state = State::TmuxEscape;
            }
            (_, ESC) => {
                self.leave(through);
                self.held.push(ESC);
                self.state = State::Escape;
            }
            (State::Ground, _) => through.push(byte),
            (_, CAN | SUB) => self.cancel(byte, through),
            (State::Escape, 0..0x30 | 0x7f) if self.held.len() < LONGEST => self.held.push(byte),
            (State::Escape, 0..0x30 | 0x7f) => {
                self.finish_string(through);
                self.held.clear();
                self.state = State::Overlong;
            }
            (State::Escape, _) => self.escape(byte, through),
            (State::Csi, 0x40..=0x7e) => {
                self.held.push(byte);
                if is_query(&self.held) {
                    // Controls within a sequence are obeyed by themselves.
                    self.held.retain(|byte| *byte < 0x20 && *byte != ESC);
                }
                through.append(&mut self.held);
                self.state = State::Ground;
            }
            (State::Csi, _) if self.held.len() < LONGEST => self.held.push(byte),
            (State::Csi, _) => {
                self.held.clear();
                self.state = State::Overlong;
            }
            (State::Overlong, 0x40..=0x7e) => self.state = State::Ground,
            (State::Overlong, _) => {}
            (State::Held(Kind::Osc), BEL) => {
                if !sets_or_asks(&self.held) {
                    through.append(&mut self.held);
                    through.push(BEL);
                }
                self.held.clear();
                self.state = State::Ground;
            }
            (State::Passed(Kind::Osc), BEL) => {
                through.push(BEL);
                self.state = State::Ground;
            }
            (State::Dropped(Kind::Osc), BEL) => self.state = State::Ground,
            (State::Held(kind), _) => self.hold(kind, byte, through),
            (State::Passed(_), _) => through.push(byte),
            (State::Dropped(_), _) => {}
        }
    }

    /// The character that ends an escape sequence, or begins more.
    fn escape(&mut self, byte: u8, through: &mut Vec<u8>) {
        let has_intermediates = self.held.iter().any(|byte| (0x20..0x30).contains(byte));
        if byte == b'\\' && !has_intermediates {
            let held = mem::take(&mut self.held);
            if mem::take(&mut self.string) != Ended::Dropped {
                through.extend(held);
                through.push(byte);
            }
            self.state = State::Ground;
            return;
        }
        self.finish_string(through);
        let mut sequence = mem::take(&mut self.held);
        sequence.push(byte);
        if has_intermediates {
            through.append(&mut sequence);
            self.state = State::Ground;
        } else {
            self.begin(byte, &sequence, through);
        }
    }

    /// What an ESC and a character begin, or are.
    fn begin(&mut self, byte: u8, written: &[u8], through: &mut Vec<u8>) {
        self.state = match byte {
            b'[' => State::Csi,
            b']' => State::Held(Kind::Osc),
            b'P' => State::Held(Kind::Dcs),
            b'_' => State::Held(Kind::Apc),
            b'X' | b'^' => State::Held(Kind::Other),
            _ => {
                // DECID asks what the terminal is.
                if byte != b'Z' {
                    through.extend_from_slice(written);
                }
                State::Ground
            }
        };
        if self.state != State::Ground {
            self.held.extend_from_slice(written);
        }
    }

    /// One more byte of a string.
    fn hold(&mut self, kind: Kind, byte: u8, through: &mut Vec<u8>) {
        self.held.push(byte);
        if self.held.len() < LONGEST {
            return;
        }
        self.state = if kind == Kind::Dcs && is_for_outside(&self.held) {
            State::Tmux
        } else if is_left_out(kind, &self.held) {
            State::Dropped(kind)
        } else {
            through.append(&mut self.held);
            State::Passed(kind)
        };
        self.held.clear();
    }

    /// An ESC or a C1 control comes: what stood before it is over.
    fn leave(&mut self, through: &mut Vec<u8>) {
        match mem::take(&mut self.state) {
            State::Held(kind) if is_left_out(kind, &self.held) => self.string = Ended::Dropped,
            State::Held(_) => {
                through.append(&mut self.held);
                self.string = Ended::Passed;
            }
            State::Passed(_) => self.string = Ended::Passed,
            State::Dropped(_) => self.string = Ended::Dropped,
            // Given up, and its rest must not become another one's.
            State::Escape | State::Csi | State::Overlong => {}
            State::Ground | State::Tmux | State::TmuxEscape => {}
        }
        self.held.clear();
    }

    /// CAN and SUB: what stood before it is void.
    fn cancel(&mut self, byte: u8, through: &mut Vec<u8>) {
        match mem::take(&mut self.state) {
            // Some take a cancelled string for a complete one.
            State::Held(kind) if is_left_out(kind, &self.held) => self.held.clear(),
            _ => self.finish_string(through),
        }
        through.append(&mut self.held);
        through.push(byte);
        self.string = Ended::None;
    }

    /// A string that was let through has ended by something that may be left
    /// out: it gets an end of its own.
    fn finish_string(&mut self, through: &mut Vec<u8>) {
        if mem::take(&mut self.string) == Ended::Passed {
            through.extend_from_slice(END_OF_STRING);
        }
    }
}

fn is_c1(byte: u8) -> bool {
    (0x80..0xa0).contains(&byte)
}

/// Whether a byte is nothing but itself.
fn is_plain(byte: u8) -> bool {
    byte < 0x80 && byte != ESC && byte != ENQ
}

fn is_left_out(kind: Kind, held: &[u8]) -> bool {
    match kind {
        Kind::Osc => sets_or_asks(held),
        Kind::Dcs => is_request(held) || is_for_outside(held),
        // The pictures of kitty's protocol: a terminal acknowledges each.
        Kind::Apc => body(held).starts_with(b"G"),
        Kind::Other => false,
    }
}

/// What follows the introducer, which is ESC and a character, or a C1 control.
fn body(held: &[u8]) -> &[u8] {
    match held {
        // Controls may stand between the two.
        [ESC, rest @ ..] => match rest.iter().position(|byte| (0x30..0x7f).contains(byte)) {
            Some(at) => &rest[at + 1..],
            None => &[],
        },
        [LEAD, _, rest @ ..] | [_, rest @ ..] => rest,
        [] => &[],
    }
}

/// A mark of private use, parameters, intermediates, the final character.
type Parts<'a> = (Option<u8>, &'a [u8], &'a [u8], u8);

/// The parts of a control sequence, or of what a device control string
/// begins with.
fn parts(sequence: &[u8]) -> Option<Parts<'_>> {
    let final_at = sequence.iter().position(|byte| (0x40..0x7f).contains(byte))?;
    let (mut head, last) = (&sequence[..final_at], sequence[final_at]);
    let mut private = None;
    if let [first @ b'<'..=b'?', rest @ ..] = head {
        (private, head) = (Some(*first), rest);
    }
    let intermediates = head.iter().position(|byte| (0x20..0x30).contains(byte));
    let (parameters, intermediates) = head.split_at(intermediates.unwrap_or(head.len()));
    Some((private, parameters, intermediates, last))
}

/// Whether a terminal answers a control sequence.
fn is_query(held: &[u8]) -> bool {
    let printable: Vec<u8> =
        body(held).iter().copied().filter(|byte| (0x20..0x7f).contains(byte)).collect();
    let Some((private, parameters, intermediates, last)) = parts(&printable) else {
        return false;
    };
    match (private, intermediates, last) {
        // DA: what it is. (CSI ? c is the Linux console's cursor.)
        (None | Some(b'>' | b'='), b"", b'c') => true,
        // DSR: how it is, where the cursor is. (CSI > n sets a mode of keys.)
        (None | Some(b'?'), b"", b'n') => true,
        // XTVERSION; kitty's keyboard; XTQMODKEYS and XTQFMTKEYS; XTSMGRAPHICS.
        (Some(b'>'), b"", b'q') | (Some(b'?'), b"", b'u' | b'm' | b'g' | b'S') => true,
        // DECREQTPARM.
        (None, b"", b'x') => true,
        // Of the window: its state, place, sizes and titles.
        (None, b"", b't') => matches!(first_number(parameters), 11 | 13..=16 | 18..=21),
        // DECRQM, DECRQPSR, DECRQTSR.
        (_, b"$", b'p' | b'w' | b'u') => true,
        // DECRQUPSS; DECRQDE; DECRQLP; DECRQCRA; a macro, of whatever it holds.
        (_, b"&", b'u') | (_, b"\"", b'v') | (_, b"'", b'|') | (_, b"*", b'y' | b'z') => true,
        // DECSR; XTREPORTCOLORS, XTREPORTSGR.
        (_, b"+", b'p') | (_, b"#", b'R' | b'|') => true,
        // The mode in which a terminal tells its size is told it at once.
        (Some(b'?'), b"", b'h') => {
            parameters.split(|byte| *byte == b';').any(|mode| mode == b"2048")
        }
        _ => false,
    }
}

fn first_number(parameters: &[u8]) -> u32 {
    parameters.iter().take_while(|byte| byte.is_ascii_digit()).fold(0, |number: u32, digit| {
        number.saturating_mul(10).saturating_add(u32::from(digit - b'0'))
    })
}

/// Whether an operating system command sets the clipboard or is answered.
fn sets_or_asks(held: &[u8]) -> bool {
    let body = body(held);
    let (command, value) = match body.iter().position(|byte| *byte == b';') {
        Some(at) => (&body[..at], &body[at + 1..]),
        None => (body, [].as_slice()),
    };
    let number = match command.iter().all(u8::is_ascii_digit) && !command.is_empty() {
        true => first_number(command),
        false => return false,
    };
    match number {
        // The clipboard, xterm's and kitty's.
        52 | 5522 => true,
        // What may be asked for (XTQALLOWED).
        60 | 61 => true,
        // Titles, the folder, a link, a notification, marks of a shell's
        // prompt: texts, which may be a question mark.
        0..=2 | 7..=9 | 133 | 777 => false,
        // iTerm's.
        1337 => [b"Report".as_slice(), b"Request", b"Copy", b"Capabilities"]
            .iter()
            .any(|question| value.starts_with(question)),
        // A question mark in the place of a value.
        _ => value
            .split(|byte| matches!(byte, b';' | b'=' | b':'))
            .any(|part| part.starts_with(b"?")),
    }
}

/// Whether a device control string is answered.
fn is_request(held: &[u8]) -> bool {
    let body = body(held);
    if body.starts_with(b"@kitty-") {
        return true;
    }
    match parts(body) {
        // DECRQSS; XTGETTCAP, XTGETXRES.
        Some((None, _, b"$", b'q') | (None, _, b"+", b'q' | b'Q')) => true,
        // ReGIS, which has reports of its own.
        Some((None, _, b"", b'p')) => true,
        _ => false,
    }
}

/// Whether a device control string is for the terminal that tmux runs in:
/// whatever it holds, it is not for the screen that is shown.
fn is_for_outside(held: &[u8]) -> bool {
    body(held).starts_with(b"tmux;")
}

#[cfg(test)]
mod tests;
