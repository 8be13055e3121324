//! What a client says in packets: input as it comes, and of what costs more so
//! much in a turn.

use fpty::proto::{ClientPacket, ClientPacketDecoder};
use nix::sys::signal::Signal;

use super::{Client, Ends, Key, Session};

/// The signals that a terminal has keys for.
const KEYS: [i32; 3] = [Signal::SIGINT as i32, Signal::SIGQUIT as i32, Signal::SIGTSTP as i32];

/// What is heard, and not done yet.
struct Hearing<'a> {
    /// Input that came in many packets: it goes to the terminal in one write.
    gather: &'a mut Vec<u8>,
    /// What may still be asked for in this turn.
    acts: &'a mut usize,
    /// Rows and columns that come together make one change, not two.
    resized: bool,
    /// A key that is a signal, and how often it was pressed in a row.
    pressed: Option<(u8, usize)>,
}

impl Session {
    /// Takes what the client sent, as far as this turn has time for it: `acts`
    /// is what may be asked for beside input, and is counted down. `gather` is
    /// room for input that comes in many packets. Of both buffers the contents
    /// are of no use afterwards, but for the end of `sent`: returns how many of
    /// the last bytes are for [`Session::client_goes_on`], in the next turn.
    pub fn client_sent(
        &mut self,
        sent: &mut Vec<u8>,
        gather: &mut Vec<u8>,
        acts: &mut usize,
        ends: &mut impl Ends,
    ) -> usize {
        // All of it is for somebody else to hear.
        if self.client == Client::Unspoken && self.greets_late(sent) {
            return 0;
        }
        if self.decoder.is_none() {
            self.give_all_input(sent, ends);
            return 0;
        }
        self.client_goes_on(sent, gather, acts, ends)
    }

    /// The same, of what was left of that.
    pub fn client_goes_on(
        &mut self,
        mut bytes: &[u8],
        gather: &mut Vec<u8>,
        acts: &mut usize,
        ends: &mut impl Ends,
    ) -> usize {
        let Some(mut decoder) = self.decoder.take() else {
            return 0;
        };
        if self.is_behind() {
            self.client = Client::Open;
        }
        gather.clear();
        let mut hearing = Hearing { gather, acts, resized: false, pressed: None };
        self.hear(&mut decoder, &mut bytes, &mut hearing, ends);
        self.press(&mut hearing, ends);
        self.give_all_input(hearing.gather, ends);
        self.hand_over_where_due(ends);
        if hearing.resized {
            self.resize(ends);
        }
        self.decoder = Some(decoder);
        if !bytes.is_empty() && self.client == Client::Open {
            self.client = Client::Behind;
        }
        bytes.len()
    }

    fn hear(
        &mut self,
        decoder: &mut ClientPacketDecoder,
        bytes: &mut &[u8],
        hearing: &mut Hearing<'_>,
        ends: &mut impl Ends,
    ) {
        while *hearing.acts > 0 {
            let Some(packet) = decoder.next(bytes) else {
                return;
            };
            match packet {
                ClientPacket::Input(input) => {
                    if hearing.resized || hearing.pressed.is_some() {
                        self.press(hearing, ends);
                        self.resize_where_due(hearing, ends);
                    }
                    // All of it in one piece: no copy.
                    if hearing.gather.is_empty() && bytes.is_empty() {
                        self.give_input(input, ends);
                    } else {
                        hearing.gather.extend_from_slice(input);
                    }
                }
                ClientPacket::Part(kind, part, last) => {
                    self.give_what_was_heard(hearing, ends);
                    self.resize_where_due(hearing, ends);
                    *hearing.acts = hearing.acts.saturating_sub(1);
                    self.extended_said(kind, part, last, ends);
                }
                ClientPacket::Rows(rows) => {
                    self.give_what_was_heard(hearing, ends);
                    self.size.rows = rows;
                    hearing.resized = true;
                }
                ClientPacket::Cols(cols) => {
                    self.give_what_was_heard(hearing, ends);
                    self.size.cols = cols;
                    hearing.resized = true;
                }
                ClientPacket::Signal(number) => match &mut hearing.pressed {
                    Some((pressed, times)) if *pressed == number => *times += 1,
                    _ => {
                        self.give_what_was_heard(hearing, ends);
                        self.resize_where_due(hearing, ends);
                        *hearing.acts = hearing.acts.saturating_sub(1);
                        match KEYS.contains(&number.into()) {
                            true => hearing.pressed = Some((number, 1)),
                            false => ends.signal(number),
                        }
                    }
                },
                ClientPacket::Hello(_) | ClientPacket::Unknown(..) => {}
            }
        }
    }

    /// What came before comes first.
    fn give_what_was_heard(&mut self, hearing: &mut Hearing<'_>, ends: &mut impl Ends) {
        self.press(hearing, ends);
        self.give_input(hearing.gather, ends);
        hearing.gather.clear();
    }

    fn resize_where_due(&mut self, hearing: &mut Hearing<'_>, ends: &mut impl Ends) {
        if std::mem::take(&mut hearing.resized) {
            *hearing.acts = hearing.acts.saturating_sub(1);
            self.resize(ends);
        }
    }

    /// Presses a key as often as it was pressed. Where it drops what was typed
    /// before, that is once for a run of them: the signals of one moment are
    /// one to the program, too (signal(7): standard signals do not queue).
    fn press(&mut self, hearing: &mut Hearing<'_>, ends: &mut impl Ends) {
        let Some((number, times)) = hearing.pressed.take() else {
            return;
        };
        if !self.terminal_open || !self.program_runs {
            return;
        }
        match ends.key(number) {
            Key::Drops(byte) => {
                self.input.clear();
                self.give_input(&[byte], ends);
            }
            // The program may read them.
            Key::Is(byte) => {
                hearing.gather.clear();
                hearing.gather.resize(times, byte);
                self.give_input(hearing.gather, ends);
                hearing.gather.clear();
            }
            Key::None => {}
        }
    }
}
