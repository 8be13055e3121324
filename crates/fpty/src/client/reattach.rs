//! A session that can be left and found again: what is kept of it for whoever
//! comes, how it is left, and what is shown to who comes back.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::bracketed_paste::{self, Pastes};
use super::outcome::End;
use super::poll::give_last_word;
#[cfg(feature = "paint")]
use super::restore_screen::{Left, paint, paint_beside};
use super::session::Session;
use super::{Client, Which};
use crate::error::{Context, Result};
use crate::proto::{self, Ended, Ending, Protocol, variables};
use crate::scrollback::checkpoints::Past;
use crate::scrollback::{Pieces, Remains, Seen};
use crate::sys::{Size, pty};
use crate::terminal::modes::Modes;

/// How long a server may take to let a session go on alone.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a terminal is a little smaller, so that its program draws it anew.
const SMALLER: Duration = Duration::from_millis(60);

/// What is known of a session that can be left.
#[derive(Default)]
pub struct Coming {
    kept: Kept,
    /// What was kept of the output, until the word to go on.
    offered: Option<Before>,
    /// There was output before that: it is a new session, and was shown.
    is_new: bool,
    /// The server was asked to let the session go on alone: until then it may
    /// answer.
    leaving: Option<Instant>,
    /// It is to be asked that yet.
    to_leave: bool,
    /// The terminal is smaller than it should be until then.
    smaller: Option<Instant>,
    pastes: Pastes,
}

/// What was kept of the output before us.
enum Before {
    /// It is in a ring; others write it still.
    Ring(OwnedFd),
    /// It comes in pieces.
    Pieces(Pieces),
}

impl Before {
    /// What was in force where it begins, and the output from there; `None`:
    /// nothing is known.
    fn output(self, until: Option<u64>) -> Result<Option<(Past, Vec<u8>)>> {
        match self {
            Self::Ring(ring) => Ok(Seen::received(ring)?.output(until)),
            Self::Pieces(pieces) => Ok(pieces.output()),
        }
    }
}

/// What is kept of the output.
#[derive(Default)]
enum Kept {
    /// Nothing: the session ends with us.
    #[default]
    Nothing,
    /// The output, since we read the terminal.
    Output(Box<Remains>),
    /// The modes, since the server keeps the output.
    Modes(Box<Modes>),
}

impl Coming {
    /// A ring came with an offer.
    pub fn offered(&mut self, ring: Option<OwnedFd>) {
        self.offered = ring.map(Before::Ring);
    }

    /// The ring that was offered is lost, and what is in it comes in pieces.
    pub fn was_lost(&mut self) {
        self.offered = Some(Before::Pieces(Pieces::default()));
    }

    /// One of those.
    ///
    /// # Errors
    /// They have no end.
    pub fn piece(&mut self, piece: &[u8]) -> Result<()> {
        match &mut self.offered {
            Some(Before::Pieces(pieces)) => pieces.push(piece),
            _ => Ok(()),
        }
    }

    /// What keeps output that we read from the terminal.
    pub fn keeps(&mut self) -> Option<&mut Remains> {
        match &mut self.kept {
            Kept::Output(remains) => Some(remains),
            Kept::Nothing | Kept::Modes(_) => None,
        }
    }

    /// Input that is for the terminal.
    pub fn typed(&mut self, input: &[u8]) {
        if let Kept::Output(remains) = &mut self.kept {
            if let Some(pastes) = self.pastes.follow(input) {
                remains.pastes(pastes);
            }
        }
    }

    /// Output that the server relays.
    #[inline]
    pub fn heard(&mut self, output: &[u8]) {
        match &mut self.kept {
            Kept::Modes(modes) => modes.follow(output),
            Kept::Nothing => self.is_new |= !output.is_empty(),
            Kept::Output(_) => {}
        }
    }

    /// Whether the terminal is smaller than it should be, for a moment.
    pub fn is_smaller(&self) -> bool {
        self.smaller.is_some()
    }

    /// The terminal has this size from here on.
    pub fn resized(&mut self, size: Size) {
        self.smaller = None;
        match &mut self.kept {
            Kept::Nothing => {}
            Kept::Output(remains) => remains.resized(size),
            Kept::Modes(modes) => modes.resized(),
        }
    }

    /// It goes on as it was: the server has said why.
    pub fn stays(&mut self) {
        self.leaving = None;
    }

    /// When something is due.
    pub fn when(&self) -> Option<Instant> {
        [self.leaving, self.smaller].into_iter().flatten().min()
    }

    /// What is on in our terminal.
    fn modes(&self) -> Option<&Modes> {
        match &self.kept {
            Kept::Nothing => None,
            Kept::Output(remains) => Some(remains.modes()),
            Kept::Modes(modes) => Some(modes),
        }
    }
}

/// Adds what is said of this in the introduction; `can_leave`: there is a
/// person at a terminal. Whose connection broke wants that session and no
/// other, and has nobody go who has come to it since.
pub fn introduce<'a>(
    config: &'a Client,
    can_leave: bool,
    was_lost: bool,
    pairs: &mut Vec<(&'a [u8], &'a [u8])>,
) {
    let mut say = |name, value| pairs.push((name, value));
    if can_leave || config.which != Which::New {
        say(variables::CAN_LEAVE, b"1");
    }
    if config.read_only {
        say(variables::READ_ONLY, b"1");
    }
    if was_lost {
        return;
    }
    match &config.which {
        Which::New | Which::Left(_) => {}
        Which::Named(name) => say(variables::SESSION_NAME, name.as_bytes()),
        Which::Either(name) => {
            say(variables::SESSION_NAME, name.as_bytes());
            say(variables::BEGIN, b"1");
        }
    }
    if config.steal {
        say(variables::STEAL, b"1");
    }
}

impl Session<'_> {
    /// The person wants to leave, and the session to go on.
    pub(super) fn detach(&mut self) -> Option<End> {
        if self.config.read_only {
            // Who only watches leaves nothing.
            return Some(End::Left);
        }
        let why_not = if self.config.protocol == Protocol::Raw {
            Some("raw mode cannot say so")
        } else if self.server_ended {
            Some("the gateway is gone")
        } else if self.hearing.is_undecided() && self.holds_input() {
            Some("the session has not begun yet")
        } else if !self.hearing.is_extended() {
            Some("the server is too old for it")
        } else {
            None
        };
        match why_not {
            Some(why) => self.notice(&format!("cannot detach: {why}")),
            None if self.coming.leaving.is_some() => {}
            None => {
                self.coming.leaving = Some(Instant::now() + PATIENCE);
                self.coming.to_leave = true;
            }
        }
        None
    }

    /// Asks the server to let the session go on alone, where the person wants that.
    /// What was typed before goes first: while a terminal is on its way to us
    /// it is kept, and a server that is asked then never hands the terminal over.
    pub(super) fn ask_to_leave(&mut self) {
        if self.coming.to_leave && !self.holds_input() {
            self.coming.to_leave = false;
            self.send_packet(&proto::encode_bare(proto::DETACH, 0));
        }
    }

    /// Whether the terminal is not ours to read any more.
    pub(super) fn is_leaving(&self) -> bool {
        let is_left = |ended: &Ended| ended.ending == Ending::Detached;
        self.coming.leaving.is_some() || self.ended.as_ref().is_some_and(is_left)
    }

    /// The person leaves, and the session is to end.
    pub(super) fn end_for_good(&mut self) {
        if !self.hearing.is_extended() || self.server_ended || self.config.read_only {
            return;
        }
        let mut packet = Vec::new();
        proto::encode_packet(proto::DETACH, proto::FOR_GOOD, &mut packet);
        self.to_server.push(&packet);
        let (stream, peer) = (&self.stream, &mut self.peer);
        give_last_word(&mut self.to_server, stream, |bytes| stream.write_to(bytes, peer).taken());
    }

    /// Does what is due.
    pub(super) fn stay(&mut self, now: Instant) {
        if self.coming.leaving.is_some_and(|until| now >= until) {
            self.coming.leaving = None;
            self.coming.to_leave = false;
            self.notice("cannot detach: the server does not answer");
        }
        if self.coming.smaller.is_some_and(|until| now >= until) {
            self.coming.smaller = None;
            self.size_changed();
        }
    }

    /// The word to go on: from here on we know what is in the ring. `before`:
    /// how much output there was, where the server goes on relaying it;
    /// `comes_back`: the connection broke before.
    pub(super) fn come(&mut self, before: Option<u64>, comes_back: bool) {
        let Some(offered) = self.coming.offered.take() else {
            return;
        };
        let ring = match &offered {
            Before::Ring(ring) => Some(ring.try_clone().context("cannot use kept output")),
            Before::Pieces(_) => None,
        };
        let seen = offered.output(before);
        let is_new = !comes_back && matches!(self.config.which, Which::New | Which::Named(_));
        let (mut modes, mut shown) = (Modes::default(), false);
        match seen {
            Ok(Some((past, output))) if is_new || self.coming.is_new => {
                modes = past.after(&output);
            }
            Ok(Some((past, output))) if !output.is_empty() || past.from > 0 => {
                (modes, shown) = (self.show_again(past, output), true);
            }
            Ok(_) => {}
            Err(error) => self.notice(&error.to_string()),
        }
        let draws_all = modes.is_alternate();
        let is_ours = self.takeover.ours().is_some();
        let ring = ring.filter(|_| is_ours).map(|ring| ring.and_then(Remains::go_on));
        self.coming.kept = match ring {
            Some(Ok(remains)) => Kept::Output(Box::new(remains)),
            // It was said above.
            Some(Err(_)) => Kept::Nothing,
            None => Kept::Modes(Box::new(modes)),
        };
        if let Kept::Output(remains) = &mut self.coming.kept {
            // Who had the terminal before was lost in the midst of a paste.
            if remains.is_in_a_paste() {
                remains.pastes(false);
                if remains.modes().brackets_pastes() {
                    self.to_terminal.push(bracketed_paste::END);
                }
            }
        }
        let Some(size) = pty::size_of_ours().filter(|_| !self.config.read_only) else {
            return;
        };
        let had = self.takeover.ours().and_then(|ours| ours.size());
        self.coming.resized(size);
        let is_same = had.is_none_or(|had| had == size);
        let draws = shown && (draws_all || is_same);
        if draws {
            // A terminal of the size that it has had tells its program
            // nothing, and a screen that is drawn as a whole is better drawn
            // by who knows it: it is smaller for a moment.
            let rows = if size.rows > 1 { size.rows - 1 } else { 2 };
            self.set_size(Size { rows, ..size });
            self.coming.smaller = Some(Instant::now() + SMALLER);
        }
    }

    /// Shows what was on the screen; returns the modes that are in force then.
    #[cfg(feature = "paint")]
    fn show_again(&mut self, past: Past, output: Vec<u8>) -> Modes {
        let size = pty::size_of_ours().map_or(past.size, |size| (size.rows, size.cols));
        let left = Left { past, output };
        let painted =
            if self.config.read_only { paint_beside(left, size) } else { paint(left, size) };
        self.show(&painted.bytes);
        painted.modes
    }

    #[cfg(not(feature = "paint"))]
    fn show_again(&mut self, past: Past, output: Vec<u8>) -> Modes {
        let rows = pty::size_of_ours().map_or(past.size.0, |size| size.rows);
        let (bytes, modes) = super::replay::replay(past, &output, rows);
        self.show(&bytes);
        modes
    }

    /// Gives our terminal back as it was, where it is known what is on in it:
    /// not after a program that has ended by itself, and had its last word.
    pub(super) fn give_back(&mut self, end: &End) {
        let own = matches!(end, End::Told(ended) if ended.ending == Ending::Exit);
        let unseen = matches!(end, End::OutputClosed | End::OutputFailed(_));
        let (Some(modes), false, true) =
            (self.coming.modes(), own || unseen, self.terminal.is_some())
        else {
            return;
        };
        let mut bytes = Vec::new();
        modes.undo(&mut bytes);
        if !modes.is_alternate() {
            bytes.extend_from_slice(b"\r\n");
        }
        self.show_at_last(&bytes);
    }

    /// Shows something although nobody waits for our output any more.
    pub(super) fn show_at_last(&mut self, bytes: &[u8]) {
        self.show(bytes);
        let (output, failure) = (&self.output, &self.failure);
        let write = |bytes: &[u8]| output.write_noting(bytes, failure).taken();
        give_last_word(&mut self.to_output, output, write);
    }
}
