//! A session that can be detached: the scrollback that the client keeps of it, and
//! where a detach that was asked for stands.

use std::os::fd::OwnedFd;
use std::time::Instant;

use super::bracketed_paste::PasteTracker;
use super::config::{ClientConfig, SessionChoice};
use crate::error::Result;
use crate::proto::variables;
use crate::scrollback::checkpoints::Checkpoint;
use crate::scrollback::{RingPieces, ScrollbackReader, ScrollbackWriter};
use crate::sys::Size;
use crate::terminal::modes::Modes;

/// The state of a session that can be detached.
#[derive(Default)]
pub struct Detachable {
    pub(super) scrollback: Scrollback,
    /// What was kept of the output, until the word to go on.
    pub(super) offered: Option<EarlierOutput>,
    /// Output came before the scrollback was offered: the session is new, and was
    /// shown.
    pub(super) is_new: bool,
    /// The server was asked to let the session go on alone: until then it may
    /// answer.
    pub(super) detaching: Option<Instant>,
    /// The detach request is still to be sent.
    pub(super) detach_request_due: bool,
    /// The terminal is smaller than it should be until then.
    pub(super) shrunk_until: Option<Instant>,
    pub(super) pastes: PasteTracker,
}

/// What was kept of the output before us.
pub(super) enum EarlierOutput {
    /// The ring itself; others may still write it.
    Ring(OwnedFd),
    /// The ring's content as it comes in packets.
    RingPieces(RingPieces),
}

impl EarlierOutput {
    /// What was in force where it begins, and the output from there; `None`:
    /// nothing is known.
    pub(super) fn output(self, until: Option<u64>) -> Result<Option<(Checkpoint, Vec<u8>)>> {
        match self {
            Self::Ring(ring) => Ok(ScrollbackReader::open(ring)?.output(until)),
            Self::RingPieces(pieces) => Ok(pieces.output()),
        }
    }
}

/// What is kept of the output.
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
    /// A piece of the ring has come.
    ///
    /// # Errors
    /// They have no end.
    pub fn piece(&mut self, piece: &[u8]) -> Result<()> {
        match &mut self.offered {
            Some(EarlierOutput::RingPieces(pieces)) => pieces.push(piece),
            _ => Ok(()),
        }
    }

    /// What keeps output that we read from the terminal.
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

    /// What is on in our terminal.
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
