//! Takes out of a terminal's output what a terminal answers, and what sets
//! its clipboard: for output that is shown again, to another terminal, which
//! would type its answers at whatever runs now.
//!
//! What is a query stands in the functions at the end of this file, by the
//! names of ECMA-48, of DEC's manuals and of xterm's list of control
//! sequences (ctlseqs). Sequences are found by [`super::escape_parser`]. C1 controls are
//! known as two bytes of UTF-8 and, outside of a character, as one.

use std::mem;

use super::escape_parser::{
    Action, ByteClass, C1_LEAD, C1Detector, CAN, ESC, EscapeParser, SUB, State, complete_csi,
};

/// The longest sequence that is kept until its end is seen, in bytes. Every query
/// is shorter, or known by how it begins.
const MAX_SEQUENCE: usize = 4096;

const ENQ: u8 = 0x05;
const ST: &[u8] = b"\x1b\\";

/// The query filter; output goes through it in pieces of any size.
#[derive(Clone, Debug, Default)]
pub struct QueryFilter {
    escapes: EscapeParser,
    controls: C1Detector,
    /// The sequence that has begun, as far as it is not decided.
    held: Vec<u8>,
    verdict: Verdict,
    /// The verdict of a string that an ESC has ended; `Undecided`: there is none.
    string: Verdict,
    passthrough: TmuxPassthrough,
}

/// Verdict of a sequence, or of a string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Verdict {
    /// Not yet decided.
    #[default]
    Undecided,
    /// A string that has been let through so far.
    Passed,
    /// Left out, or a control sequence too long to be any.
    Dropped,
}

/// Within what a program sends through tmux to the terminal outside: two ESC
/// stand for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum TmuxPassthrough {
    #[default]
    No,
    Within,
    /// After an ESC.
    Escape,
}

impl QueryFilter {
    /// Lets output through, less the queries. What is not decided yet comes
    /// with a later piece.
    pub fn filter(&mut self, output: &[u8], through: &mut Vec<u8>) {
        let mut rest = output;
        while let [byte, after @ ..] = rest {
            if !self.is_undecided() {
                let mut plain = rest.iter().position(|byte| !is_plain(*byte)).unwrap_or(rest.len());
                // Most sequences are neither torn nor queries.
                if let Some(complete_csi) = complete_csi(&rest[plain..]) {
                    let sequence = &rest[plain..plain + complete_csi.length];
                    plain += if is_csi_answered(sequence) { 0 } else { complete_csi.length };
                }
                if plain > 0 {
                    through.extend_from_slice(&rest[..plain]);
                    self.controls.end_character();
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
        self.escapes.state() != State::Ground
            || self.controls.is_after_lead()
            || self.passthrough != TmuxPassthrough::No
    }

    /// Finds the controls among the bytes.
    #[inline]
    fn byte(&mut self, byte: u8, through: &mut Vec<u8>) {
        let (was_part, coded) = self.controls.take(byte);
        if was_part {
            self.text(C1_LEAD, through);
        }
        match coded {
            // Nothing else is to come of it, wherever it stands.
            ByteClass::Ascii if byte == ENQ => {}
            ByteClass::Ascii => self.ascii(byte, &[byte], through),
            ByteClass::Part => self.text(byte, through),
            ByteClass::C1Lead => {}
            ByteClass::Control { .. } if self.passthrough != TmuxPassthrough::No => {
                self.passthrough = TmuxPassthrough::Within
            }
            // What ESC and this character would begin, as it was written.
            ByteClass::Control { has_lead } => {
                self.ascii(ESC, &[], through);
                let written = [C1_LEAD, byte];
                self.ascii(byte - 0x40, &written[usize::from(!has_lead)..], through);
            }
        }
    }

    /// Part of a character beyond ASCII.
    #[inline]
    fn text(&mut self, byte: u8, through: &mut Vec<u8>) {
        match self.escapes.state() {
            _ if self.passthrough != TmuxPassthrough::No => {
                self.passthrough = TmuxPassthrough::Within
            }
            State::Ground => through.push(byte),
            string if string.is_string() => self.put(string, byte, through),
            // None stands within a sequence, which ends here.
            _ => {
                self.finish_string(through);
                self.held.clear();
                self.escapes = EscapeParser::default();
                through.push(byte);
            }
        }
    }

    /// A byte, and how it was written.
    fn ascii(&mut self, byte: u8, written: &[u8], through: &mut Vec<u8>) {
        self.passthrough = match (self.passthrough, byte) {
            (TmuxPassthrough::No, _) => return self.step(byte, written, through),
            (TmuxPassthrough::Within, ESC) => TmuxPassthrough::Escape,
            (TmuxPassthrough::Escape, b'\\') | (_, CAN | SUB) => TmuxPassthrough::No,
            (_, _) => TmuxPassthrough::Within,
        };
    }

    #[inline(never)]
    fn step(&mut self, byte: u8, written: &[u8], through: &mut Vec<u8>) {
        let before = self.escapes.state();
        let is_dropped = self.verdict == Verdict::Dropped;
        match self.escapes.step(byte) {
            Action::Text => through.extend_from_slice(written),
            Action::Escape if written == [ESC] && self.is_tmux_passthrough(before) => {
                self.enter_passthrough(TmuxPassthrough::Escape);
            }
            Action::Escape => {
                self.end_sequence(before, through);
                self.held.extend_from_slice(written);
            }
            Action::Cancel => self.cancel(before, byte, through),
            Action::Put => self.put(before, byte, through),
            Action::StringEnd => {
                let is_answered = is_dropped || is_answered(State::Osc, &self.held);
                if !is_answered {
                    through.append(&mut self.held);
                    through.push(byte);
                }
                self.held.clear();
            }
            Action::Csi | Action::String => {
                self.finish_string(through);
                self.hold(written, through);
            }
            Action::Terminator => {
                if mem::take(&mut self.string) != Verdict::Dropped && !is_dropped {
                    through.append(&mut self.held);
                    // What was left out before one byte may have kept it from being part
                    // of a character.
                    through.extend_from_slice(match written {
                        [_] if byte != written[0] => ST,
                        _ => written,
                    });
                }
                self.held.clear();
            }
            Action::EscapeEnd => {
                self.finish_string(through);
                // DECID asks what the terminal is.
                let is_csi_answered = byte == b'Z' && before == State::Escape;
                if !is_csi_answered && !is_dropped {
                    through.append(&mut self.held);
                    through.extend_from_slice(written);
                }
                self.held.clear();
            }
            Action::CsiEnd | Action::IgnoredEnd => {
                self.held.extend((!is_dropped).then_some(byte));
                if is_csi_answered(&self.held) {
                    // Controls within a sequence are obeyed by themselves.
                    self.held.retain(|byte| *byte < 0x20 && *byte != ESC);
                }
                through.append(&mut self.held);
            }
            Action::Control
            | Action::Marker
            | Action::Parameter
            | Action::Intermediate
            | Action::Nothing => {
                self.hold(written, through);
            }
        }
    }

    /// More of a sequence.
    fn hold(&mut self, written: &[u8], through: &mut Vec<u8>) {
        match self.verdict {
            Verdict::Dropped => {}
            _ if self.held.len() < MAX_SEQUENCE => self.held.extend_from_slice(written),
            _ => {
                self.finish_string(through);
                self.held.clear();
                self.verdict = Verdict::Dropped;
            }
        }
    }

    /// A byte of a string.
    fn put(&mut self, string: State, byte: u8, through: &mut Vec<u8>) {
        match self.verdict {
            Verdict::Undecided => self.held.push(byte),
            Verdict::Passed => through.push(byte),
            Verdict::Dropped => {}
        }
        if self.held.len() < MAX_SEQUENCE {
            return;
        }
        if self.is_tmux_passthrough(string) {
            self.enter_passthrough(TmuxPassthrough::Within);
        } else if is_answered(string, &self.held) {
            self.verdict = Verdict::Dropped;
        } else {
            through.append(&mut self.held);
            self.verdict = Verdict::Passed;
        }
        self.held.clear();
    }

    /// Whether the held bytes begin a passthrough string of tmux.
    fn is_tmux_passthrough(&self, state: State) -> bool {
        state == State::Dcs && self.verdict == Verdict::Undecided && is_tmux_passthrough(&self.held)
    }

    fn enter_passthrough(&mut self, passthrough: TmuxPassthrough) {
        self.held.clear();
        (self.escapes, self.passthrough) = (EscapeParser::default(), passthrough);
    }

    /// An ESC or a C1 control comes: what stood before it is over.
    fn end_sequence(&mut self, before: State, through: &mut Vec<u8>) {
        // What is no string is given up, and its rest must not become another one's.
        if before.is_string() {
            self.string = match self.verdict {
                Verdict::Undecided if is_answered(before, &self.held) => Verdict::Dropped,
                Verdict::Undecided | Verdict::Passed => {
                    through.append(&mut self.held);
                    Verdict::Passed
                }
                Verdict::Dropped => Verdict::Dropped,
            };
        }
        self.held.clear();
        self.verdict = Verdict::Undecided;
    }

    /// CAN and SUB: what stood before it is void.
    fn cancel(&mut self, before: State, byte: u8, through: &mut Vec<u8>) {
        match before {
            // Some take a cancelled string for a complete one.
            string if is_answered(string, &self.held) => self.held.clear(),
            _ => self.finish_string(through),
        }
        through.append(&mut self.held);
        through.push(byte);
        self.string = Verdict::Undecided;
    }

    /// A string that was let through has ended by something that may be left
    /// out: it gets an end of its own.
    fn finish_string(&mut self, through: &mut Vec<u8>) {
        if mem::take(&mut self.string) == Verdict::Passed {
            through.extend_from_slice(ST);
        }
    }
}

/// Whether a byte is nothing but itself.
fn is_plain(byte: u8) -> bool {
    byte < 0x80 && byte != ESC && byte != ENQ
}

fn is_answered(string: State, held: &[u8]) -> bool {
    match string {
        State::Osc => is_osc_answered(held),
        State::Dcs => is_dcs_answered(held) || is_tmux_passthrough(held),
        // The pictures of kitty's protocol: a terminal acknowledges each.
        State::Apc => body(held).starts_with(b"G"),
        _ => false,
    }
}

/// The body of a sequence, after its introducer: ESC and a character, or a C1 control.
fn body(held: &[u8]) -> &[u8] {
    match held {
        // Controls may stand between the two.
        [ESC, rest @ ..] => match rest.iter().position(|byte| (0x30..0x7f).contains(byte)) {
            Some(at) => &rest[at + 1..],
            None => &[],
        },
        [C1_LEAD, _, rest @ ..] | [_, rest @ ..] => rest,
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
fn is_csi_answered(held: &[u8]) -> bool {
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
fn is_osc_answered(held: &[u8]) -> bool {
    let mut parts = body(held).splitn(2, |byte| *byte == b';');
    let [command, value] = [parts.next(), parts.next()].map(Option::unwrap_or_default);
    if command.is_empty() || !command.iter().all(u8::is_ascii_digit) {
        return false;
    }
    match first_number(command) {
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
fn is_dcs_answered(held: &[u8]) -> bool {
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
fn is_tmux_passthrough(held: &[u8]) -> bool {
    body(held).starts_with(b"tmux;")
}

#[cfg(test)]
mod tests;
