//! Detach and reattach: the scrollback that the client keeps of a session, how a session is
//! detached, what is shown to who attaches to it, and how the person's own terminal is reset.

use std::ops::ControlFlow::{self, Break, Continue};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::bracketed_paste::{PASTE_END, PasteTracker};
use super::config::{ClientConfig, SessionChoice};
use super::outcome::End;
#[cfg(feature = "paint")]
use super::restore_screen;
use super::state::Session;
use crate::error::Context;
use crate::proto::{self, EndKind, Protocol, SessionEnd, variables};
use crate::scrollback::checkpoints::Checkpoint;
use crate::scrollback::{RingPieces, ScrollbackReader, ScrollbackWriter};
use crate::sys::{Size, pty};
use crate::terminal::modes::Modes;

/// How long a server may take to let a session go on alone.
const DETACH_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a terminal is a little smaller, so that its program draws it anew.
const REDRAW_RESIZE: Duration = Duration::from_millis(60);

/// The state of a session that can be detached.
#[derive(Default)]
pub struct Detachable {
    pub(super) scrollback: Scrollback,
    /// Output from before this client, until GO.
    pub(super) offered: Option<EarlierOutput>,
    /// Output came before the scrollback was offered: the session is new, and was
    /// shown.
    pub(super) is_new: bool,
    /// The server was asked to let the session go on alone: until then it may
    /// answer.
    pub(super) detaching: Option<Instant>,
    /// The detach request is still to be sent.
    pub(super) detach_request_due: bool,
    /// Until then the terminal is smaller than it should be.
    pub(super) shrunk_until: Option<Instant>,
    pub(super) pastes: PasteTracker,
}

/// Output of the session from before this client.
pub(super) enum EarlierOutput {
    /// The ring itself; others may still write it.
    Ring(OwnedFd),
    /// The ring's content as it comes in packets.
    RingPieces(RingPieces),
}

/// Scrollback of the session, at this client.
#[derive(Default)]
pub(super) enum Scrollback {
    /// No scrollback: the session ends with its client.
    #[default]
    None,
    /// The output, since we read the terminal.
    Writer(Box<ScrollbackWriter>),
    /// The modes, since the server keeps the output.
    Modes(Box<Modes>),
}

impl Detachable {
    /// The writer of the scrollback, where we read the terminal.
    pub fn writer(&mut self) -> Option<&mut ScrollbackWriter> {
        match &mut self.scrollback {
            Scrollback::Writer(remains) => Some(remains),
            Scrollback::None | Scrollback::Modes(_) => None,
        }
    }

    /// Input that is for the terminal.
    pub fn track_input(&mut self, input: &[u8]) {
        if let Scrollback::Writer(remains) = &mut self.scrollback {
            if let Some(pastes) = self.pastes.follow(input) {
                remains.set_pasting(pastes);
            }
        }
    }

    /// Output that the server relays.
    #[inline]
    pub fn track_output(&mut self, output: &[u8]) {
        match &mut self.scrollback {
            Scrollback::Modes(modes) => modes.follow(output),
            Scrollback::None => self.is_new |= !output.is_empty(),
            Scrollback::Writer(_) => {}
        }
    }

    /// The terminal has this size from here on.
    pub fn resized(&mut self, size: Size) {
        self.shrunk_until = None;
        match &mut self.scrollback {
            Scrollback::None => {}
            Scrollback::Writer(remains) => remains.resized(size),
            Scrollback::Modes(modes) => modes.resized(),
        }
    }

    /// The modes of our terminal.
    pub(super) fn modes(&self) -> Option<&Modes> {
        match &self.scrollback {
            Scrollback::None => None,
            Scrollback::Writer(remains) => Some(remains.modes()),
            Scrollback::Modes(modes) => Some(modes),
        }
    }
}

/// Adds what is said of this in the introduction; `can_leave`: there is a
/// person at a terminal. Whose connection broke wants that session and no
/// other, and has nobody go who has come to it since.
pub fn add_variables<'a>(
    config: &'a ClientConfig,
    can_leave: bool,
    was_lost: bool,
    pairs: &mut Vec<(&'a [u8], &'a [u8])>,
) {
    let mut say = |name, value| pairs.push((name, value));
    if can_leave || config.session != SessionChoice::New {
        say(variables::CAN_DETACH, b"1");
    }
    if config.read_only {
        say(variables::READ_ONLY, b"1");
    }
    if was_lost {
        return;
    }
    match &config.session {
        SessionChoice::New | SessionChoice::Attach(_) => {}
        SessionChoice::NewNamed(name) => say(variables::SESSION_NAME, name.as_bytes()),
        SessionChoice::AttachOrNew(name) => {
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
    pub(super) fn detach(&mut self) -> ControlFlow<End> {
        if self.config.read_only {
            // A viewer has nothing to detach.
            return Break(End::Disconnected);
        }
        let why_not = if self.config.protocol == Protocol::Raw {
            Some("raw mode cannot say so")
        } else if self.connection.has_ended {
            Some("the gateway is gone")
        } else if self.decoder.is_undecided() && self.holds_input() {
            Some("the session has not begun yet")
        } else if !self.decoder.is_extended() {
            Some("the server is too old for it")
        } else {
            None
        };
        match why_not {
            Some(why) => self.notice(&format!("cannot detach: {why}")),
            None if self.detachable.detaching.is_some() => {}
            None => {
                self.detachable.detaching = Some(Instant::now() + DETACH_TIMEOUT);
                self.detachable.detach_request_due = true;
            }
        }
        Continue(())
    }

    /// Asks the server to let the session go on alone, where the person wants that.
    /// What was typed before goes first: while a terminal is on its way to us
    /// it is kept, and a server that is asked then never hands the terminal over.
    pub(super) fn send_detach_request(&mut self) {
        if self.detachable.detach_request_due && !self.holds_input() {
            self.detachable.detach_request_due = false;
            self.connection.send(&proto::encode_bare(proto::DETACH, 0));
        }
    }

    /// Whether the terminal is not ours to read any more.
    pub(super) fn is_detaching(&self) -> bool {
        let is_detached = |ended: &SessionEnd| ended.ending == EndKind::Detached;
        self.detachable.detaching.is_some() || self.ended.as_ref().is_some_and(is_detached)
    }

    /// The person leaves, and the session is to end.
    pub(super) fn end_session(&mut self) {
        if !self.decoder.is_extended() || self.connection.has_ended || self.config.read_only {
            return;
        }
        let mut packet = Vec::new();
        proto::encode_packet(proto::DETACH, proto::DETACH_AND_END, &mut packet);
        self.connection.send(&packet);
        self.connection.flush_with_timeout();
    }

    /// Does what is due.
    pub(super) fn run_detach_timers(&mut self, now: Instant) {
        if self.detachable.detaching.is_some_and(|until| now >= until) {
            self.detachable.detaching = None;
            self.detachable.detach_request_due = false;
            self.notice("cannot detach: the server does not answer");
        }
        if self.detachable.shrunk_until.is_some_and(|until| now >= until) {
            self.detachable.shrunk_until = None;
            self.size_changed();
        }
    }

    /// The word to go on: from here on we know what is in the ring. `before`:
    /// how much output there was, where the server goes on relaying it;
    /// `reconnects`: the connection broke before.
    pub(super) fn resume_after_go(&mut self, before: Option<u64>, reconnects: bool) {
        let Some(offered) = self.detachable.offered.take() else {
            return;
        };
        let (ring, seen) = match offered {
            EarlierOutput::Ring(ring) => (
                Some(ring.try_clone().context("cannot use the ring")),
                ScrollbackReader::open(ring).map(|ring| ring.output(before)),
            ),
            EarlierOutput::RingPieces(pieces) => (None, Ok(pieces.output())),
        };
        let is_new = !reconnects
            && matches!(self.config.session, SessionChoice::New | SessionChoice::NewNamed(_));
        let (mut modes, mut shown) = (Modes::default(), false);
        match seen {
            Ok(Some((checkpoint, output))) if is_new || self.detachable.is_new => {
                modes = checkpoint.modes_after(&output);
            }
            Ok(Some((checkpoint, output))) if !output.is_empty() || checkpoint.from > 0 => {
                (modes, shown) = (self.restore_screen(checkpoint, output), true);
            }
            Ok(_) => {}
            Err(error) => self.notice(&error.to_string()),
        }
        let draws_all = modes.is_alternate();
        let is_ours = self.handover.terminal().is_some();
        let ring = ring.filter(|_| is_ours).map(|ring| ring.and_then(ScrollbackWriter::resume));
        self.detachable.scrollback = match ring {
            Some(Ok(remains)) => Scrollback::Writer(Box::new(remains)),
            // It was said above.
            Some(Err(_)) => Scrollback::None,
            None => Scrollback::Modes(Box::new(modes)),
        };
        if let Scrollback::Writer(remains) = &mut self.detachable.scrollback {
            // Who had the terminal before was lost in the midst of a paste.
            if remains.is_pasting() {
                remains.set_pasting(false);
                if remains.modes().has_bracketed_paste() {
                    self.to_terminal.push(PASTE_END);
                }
            }
        }
        let Some(size) = pty::own_size().filter(|_| !self.config.read_only) else {
            return;
        };
        let had = self.handover.terminal().and_then(|ours| ours.size());
        self.detachable.resized(size);
        let is_same = had.is_none_or(|had| had == size);
        let draws = shown && (draws_all || is_same);
        if draws {
            // A terminal of the size that it has had tells its program
            // nothing, and a screen that is drawn as a whole is better drawn
            // by who knows it: it is smaller for a moment.
            let rows = if size.rows > 1 { size.rows - 1 } else { 2 };
            self.set_size(Size { rows, ..size });
            self.detachable.shrunk_until = Some(Instant::now() + REDRAW_RESIZE);
        }
    }

    /// Shows what was on the screen; returns the modes that are in force then.
    #[cfg(feature = "paint")]
    fn restore_screen(&mut self, checkpoint: Checkpoint, output: Vec<u8>) -> Modes {
        let size = pty::own_size().map_or(checkpoint.size, |size| (size.rows, size.cols));
        let left = (checkpoint, output);
        let painted = match self.config.read_only {
            true => restore_screen::restore_for_viewer(left, size),
            false => restore_screen::paint(left, size),
        };
        self.show(&painted.bytes);
        painted.modes
    }

    #[cfg(not(feature = "paint"))]
    fn restore_screen(&mut self, checkpoint: Checkpoint, output: Vec<u8>) -> Modes {
        let rows = pty::own_size().map_or(checkpoint.size.0, |size| size.rows);
        let (bytes, modes) = super::replay::replay(checkpoint, &output, rows);
        self.show(&bytes);
        modes
    }

    /// Gives our terminal back as it was, where it is known what is on in it:
    /// not after a program that has ended by itself, and had its last word.
    pub(super) fn reset_terminal(&mut self, end: &End) {
        let own = matches!(end, End::Ended(ended) if ended.ending == EndKind::Exit);
        let unseen = matches!(end, End::OutputClosed | End::OutputFailed(_));
        let (Some(modes), false, true) =
            (self.detachable.modes(), own || unseen, self.terminal.is_some())
        else {
            return;
        };
        let mut bytes = Vec::new();
        modes.reset(&mut bytes);
        if !modes.is_alternate() {
            bytes.extend_from_slice(b"\r\n");
        }
        self.show_and_flush(&bytes);
    }
}
