//! What the server says is done, to the session's end.

use std::time::{Duration, Instant};

use super::decoder::Said;
use super::handover::{Offered, Takeover};
use super::input::Input;
use super::outcome::{self, End};
use super::session::{PING, Session};
use super::{introduction, reattach, reconnect};
use crate::error::{Error, Result};
use crate::proto::request::Verb;
use crate::proto::{self, Ending, Protocol};
use crate::sys::Read;
use crate::sys::socket::Transport;
use crate::sys::stdio;

/// How a router begins that refuses a session and speaks plainly.
const REFUSED: &[u8] = b"forkptyrouter: session refused: ";

/// The longest such line, in bytes.
const LONGEST_REFUSAL: usize = 4096;
/// No offer has more descriptors.
const MOST_OFFERED: usize = 8;

/// Whether this is all that such a router says.
fn is_refusal(bytes: &[u8]) -> bool {
    let line = bytes.strip_suffix(b"\r\n").unwrap_or_default();
    line.starts_with(REFUSED) && !line.contains(&b'\n')
}

/// Whether what such a router said last is that it had started its program
/// before our request arrived.
fn is_too_late(last_bytes: &[u8]) -> bool {
    let text = last_bytes.strip_suffix(b"\r\n").unwrap_or_default();
    let line = text.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    line.strip_prefix(REFUSED).is_some_and(|why| why.starts_with(proto::TOO_LATE.as_bytes()))
}

/// How long what may be such a line waits for the connection's end: the router
/// says nothing after it.
const WITHHELD: Duration = Duration::from_secs(1);

/// What of the last bytes is of use.
const LAST_BYTES: usize = 512;

/// Whether it may become that: a line that is not endless.
pub fn may_be_refusal(bytes: &[u8]) -> bool {
    let length = bytes.len().min(REFUSED.len());
    let ends_at = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    bytes[..length] == REFUSED[..length] && bytes.len() <= LONGEST_REFUSAL && ends_at == bytes.len()
}

/// How it ended with a server that has said no more than this, and speaks plainly.
///
/// # Errors
/// It has said nothing.
pub fn ended_plainly(said: &[u8]) -> Result<End> {
    match said {
        [] => Err(Error::new("the server closed the connection without a word")),
        said if is_refusal(said) => Ok(refused(said)),
        _ => Ok(End::SpeaksPlainly),
    }
}

/// The end by such a line.
fn refused(bytes: &[u8]) -> End {
    let why = bytes.strip_prefix(REFUSED).unwrap_or(bytes).trim_ascii_end();
    End::Refused(proto::text_of(why))
}

impl Session<'_> {
    pub(super) fn server_said(&mut self) -> Option<End> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = match self.hearing.is_extended() && self.takeover.ours().is_none() {
            true => self.stream.read_passed(&mut buffer, &mut self.arrived, &mut self.peer),
            false => self.stream.read_from(&mut buffer, &mut self.peer),
        };
        let end = match read {
            Read::Bytes(count) => self.heard(&buffer[..count]),
            Read::Blocked => None,
            Read::End | Read::Gone => {
                self.server_is_gone();
                None
            }
        };
        self.buffer = buffer;
        end
    }

    pub(super) fn server_is_gone(&mut self) {
        self.server_ended = true;
        self.next_ping = None;
        self.to_server.clear();
        let rest = self.hearing.rest();
        if !self.needs_more() && !is_refusal(&self.first_bytes) {
            self.show_withheld();
        }
        self.show(&rest);
        // Who has not had the word to go on never will.
        if self.takeover.is_taken() {
            self.takeover = Takeover::default();
        }
    }

    fn heard(&mut self, mut bytes: &[u8]) -> Option<End> {
        if let Input::Ended(_, heard) = &mut self.input {
            *heard = Instant::now();
        }
        let mut output = std::mem::take(&mut self.shown);
        let mut end = None;
        loop {
            output.clear();
            let said = self.hearing.next(&mut bytes, &mut output);
            if !self.hearing.is_extended() && self.first_bytes.len() <= LONGEST_REFUSAL {
                self.first_bytes.extend(output.iter().take(LONGEST_REFUSAL + 1));
            }
            if self.config.protocol == Protocol::Uwsgi && !self.hearing.is_extended() {
                self.last_bytes.extend(&output[output.len().saturating_sub(LAST_BYTES)..]);
                let most = self.last_bytes.len().saturating_sub(LAST_BYTES);
                self.last_bytes.drain(..most);
            }
            self.coming.heard(&output);
            let is_plain = !self.hearing.is_extended() && !self.hearing.is_undecided();
            if self.needs_more() && is_plain && !may_be_refusal(&self.first_bytes) {
                end = Some(End::SpeaksPlainly);
                break;
            }
            // A refusal is told when it is whole: as a line, and beside the output.
            if is_plain && self.may_be_refused(&output) {
                self.withhold(&output);
            } else {
                self.show_withheld();
                self.show(&output);
            }
            let Some(said) = said else {
                break;
            };
            if let Err(why) = self.obey(said) {
                end = Some(End::Lost(why.to_string()));
                break;
            }
        }
        self.shown = output;
        if !self.hearing.is_undecided() && self.held_until.take().is_some() {
            self.release_input();
        }
        let unasked = !self.arrived.descriptors.is_empty() || self.arrived.truncated;
        if end.is_none() && unasked && !self.hearing.may_be_in_an_offer() {
            end = Some(End::Lost(String::from("the router sent descriptors without an offer")));
        }
        // More in each piece of an offer that has no end.
        if end.is_none() && self.arrived.descriptors.len() > MOST_OFFERED {
            end = Some(End::Lost(String::from("the router sent too many descriptors")));
        }
        end
    }

    /// Whether all that a server has said may be a refusal. Where others may be its
    /// words, too, its beginning has to have come at once.
    fn may_be_refused(&self, output: &[u8]) -> bool {
        let is_begun = output.starts_with(REFUSED) || self.withheld.is_some();
        (is_begun || self.needs_more()) && may_be_refusal(&self.first_bytes)
    }

    fn withhold(&mut self, output: &[u8]) {
        let until = Instant::now() + WITHHELD;
        let (withheld, _) = self.withheld.get_or_insert_with(|| (Vec::new(), until));
        withheld.extend_from_slice(output);
    }

    /// It is none.
    pub(super) fn show_withheld(&mut self) {
        if let Some((output, _)) = self.withheld.take() {
            self.show(&output);
        }
    }

    fn obey(&mut self, said: Said) -> Result<()> {
        match said {
            Said::Agreed => {
                let is_unix = self.transport == Transport::Unix;
                let can_take: &[u8] = if is_unix { b"1" } else { b"0" };
                let can_leave = self.terminal.is_some();
                let mut more = vec![(proto::variables::CAN_TAKE, can_take)];
                let asked = reconnect::asked_for(&self.config.which, &self.again);
                let secret = asked.as_ref().and_then(|(_, secret)| secret.as_ref());
                reattach::introduce(self.config, can_leave, self.again.is_awaited(), &mut more);
                let secret = secret.map_or(&[][..], |secret| secret.bytes());
                if can_leave || !secret.is_empty() {
                    more.push((proto::variables::SECRET, secret));
                }
                let mut packets = introduction(self.config, &more);
                match asked {
                    Some((which, _)) => {
                        proto::request::encode(Verb::Attach, which.as_bytes(), &mut packets);
                    }
                    None => self.config.wanted.encode(&mut packets),
                }
                packets.extend(proto::encode_bare(proto::VARIABLES, 0));
                self.to_server.push(&packets);
                if self.transport == Transport::Tcp {
                    self.next_ping = Some(Instant::now() + PING);
                }
            }
            Said::Ended(ended) => {
                // The first one counts.
                if self.ended.is_none() {
                    self.ended = Some(ended);
                    if let Some(ours) = self.takeover.ours_mut() {
                        ours.program_ended();
                    }
                }
            }
            Said::Notice(text) => {
                self.notice(&text);
                self.coming.stays();
            }
            Said::Offer(names) => {
                let arrived = std::mem::take(&mut self.arrived);
                let answer = match self.takeover.offered(&names, arrived)? {
                    Offered::Arrived(ring) => {
                        self.coming.offered(ring);
                        proto::TAKEN
                    }
                    Offered::Lost => {
                        if names.contains(&proto::OFFER_RING) {
                            self.coming.was_lost();
                        }
                        proto::OFFER
                    }
                };
                self.send_packet(&proto::encode_bare(answer, 0));
            }
            Said::Key(key) => self.again.note_key(key, &self.config.which),
            Said::Piece(piece) => self.coming.piece(&piece)?,
            // A gateway that comes after one that was killed says it again.
            Said::Go(_) if self.takeover.ours().is_some() => {}
            Said::Go(before) => {
                self.takeover.go()?;
                // There is no second offer.
                self.stream.refuse_descriptors();
                let comes_back = self.again.arrives();
                self.come(before, comes_back);
                self.release_input();
                // The server was told of it, and has the terminal no more.
                if self.takeover.ours().is_some() && self.input == Input::Told {
                    let now = Instant::now();
                    self.input = Input::Ended(now, now);
                }
                // It may have changed on the way.
                if !self.coming.is_smaller() {
                    self.size_changed();
                }
            }
        }
        Ok(())
    }

    /// Says something beside the output, on a line of its own.
    pub(super) fn notice(&self, text: &str) {
        let name = self.config.name;
        match self.terminal {
            Some(_) => stdio::say_in_raw_mode(&format!("{name} {text}")),
            None => {
                if stdio::is_one_place() && self.tail.is_in_a_line(true) {
                    stdio::end_the_line();
                }
                stdio::say(&format!("{name} {text}"));
            }
        }
    }

    /// The terminal that is ours has something.
    pub(super) fn terminal_said(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        if let Some(ours) = self.takeover.ours_mut() {
            let count = ours.read(&mut buffer, self.coming.keeps());
            self.show(&buffer[..count]);
        }
        self.buffer = buffer;
    }

    /// Looks whether it is over, and how it ended; of a program that nobody tells of
    /// any more it is noted when that was seen.
    pub(super) fn look_for_the_end(&mut self) -> Option<End> {
        if !self.to_output.is_empty() {
            return None;
        }
        let server_ended = self.server_ended;
        match (&self.ended, self.takeover.ours_mut()) {
            // Of one that was left somebody else reads what it says now.
            (Some(ended), Some(ours)) if ended.ending != Ending::Detached => {
                ours.is_drained().then(|| End::Told(ended.clone()))
            }
            (Some(ended), _) => Some(End::Told(ended.clone())),
            (None, Some(ours)) if server_ended => ours.ended_alone().map(End::Told),
            (None, None) if server_ended => Some(self.how_it_ended()),
            _ => None,
        }
    }

    /// Whether the session came to its end, or the server to its own, where
    /// the server has not said so.
    fn how_it_ended(&self) -> End {
        let is_extended = self.hearing.is_extended();
        let why = self.again.why().or_else(|| outcome::why_lost(&self.peer, is_extended));
        if let Some(why) = why {
            return End::Lost(why);
        }
        // What it said in between was the program's.
        if is_too_late(&self.last_bytes) {
            return End::CameTooLate { again: self.early_typed.is_some() };
        }
        // In raw mode, where nobody was asked, a program may have had nothing to
        // say.
        if self.hearing.is_undecided() && self.first_bytes.is_empty() {
            return End::Lost(String::from("it closed before a single byte came"));
        }
        if is_refusal(&self.first_bytes) {
            return refused(&self.first_bytes);
        }
        End::Normal
    }
}
