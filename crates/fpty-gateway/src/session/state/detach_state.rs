//! What a session has more that can be left and found again: its last output
//! is kept, and who comes back sees nothing of it before the word to go on.

use fpty::proto::session_key::SessionKey;
use fpty::proto::{ClientPacketDecoder, GO, SESSION_KEY, SessionEnd, encode_bare};
use fpty::scrollback::ScrollbackWriter;
use fpty::sys::Size;

use super::extended::{Extended, HandOver};
use super::{Client, Ends, Fate, Session};

/// What is kept, and how it is with the client that has come for it.
#[derive(Debug)]
pub struct Kept {
    /// The last output.
    pub remains: ScrollbackWriter,
    /// The client has come back, and was not told to go on: its terminal is not
    /// read until then.
    pub hidden: bool,
    /// The terminal is not handed over: what is offered is the remains.
    pub relays: bool,
}

impl Session {
    /// A session of a gateway that was here before us, whose client has its
    /// terminal.
    pub fn resumed(size: Size, kept: Option<Kept>) -> Self {
        let mut session = Self::raw(size);
        session.accept_first();
        let mut decoder = ClientPacketDecoder::default();
        decoder.set_extended();
        session.decoder = Some(decoder);
        session.extended = Some(Box::new(Extended {
            hand_over: HandOver::Theirs,
            kept: kept.map(Box::new),
            ..Extended::default()
        }));
        session
    }

    /// The session can be left from now on.
    pub fn keep(&mut self, kept: Kept) {
        if let Some(extended) = &mut self.extended {
            extended.kept = Some(Box::new(kept));
        }
    }

    /// The client is told by what it finds its session again.
    pub fn tell_key(&mut self, key: &SessionKey, ends: &mut impl Ends) {
        self.tell(SESSION_KEY, &key.payload(), ends);
    }

    /// What is kept, where the session can be left.
    pub fn kept(&self) -> Option<&Kept> {
        self.extended.as_ref()?.kept.as_deref()
    }

    /// The same, to be written.
    pub fn kept_mut(&mut self) -> Option<&mut Kept> {
        self.extended.as_mut()?.kept.as_deref_mut()
    }

    /// Its terminal is not handed over: what is kept is all that is offered.
    pub fn relays_for_good(&mut self) {
        if let Some(kept) = self.kept_mut() {
            kept.relays = true;
        }
    }

    /// The same, for good: it is kept elsewhere from now on.
    pub fn take_kept(&mut self) -> Option<Box<Kept>> {
        self.extended.as_mut()?.kept.take()
    }

    /// Whether the client has come back, and waits for the word to go on.
    pub fn is_hidden(&self) -> bool {
        self.kept().is_some_and(|kept| kept.hidden)
    }

    /// Whether the session could go on without its client: it was not ended,
    /// neither by the client nor by us, and its program runs.
    pub fn may_go_on_alone(&self) -> bool {
        let extended = self.extended.as_ref();
        extended.is_some_and(|extended| !extended.for_good && !extended.told) && self.program_runs
    }

    /// How the program has ended, where the client was not told, and somebody
    /// else may come for it, or does: a client that had to go `for_another` was told
    /// that alone.
    pub fn take_untold_end(&mut self, for_another: bool) -> Option<SessionEnd> {
        let is_dismissed = self.fate != Fate::Open;
        let extended = self.extended.as_mut()?;
        let is_told = is_dismissed || (extended.told && !for_another);
        if is_told || extended.for_good || extended.kept.is_none() {
            return None;
        }
        extended.ended.take()
    }

    /// The client cannot leave: says why, and goes on. What it sent after that
    /// may still have to be heard.
    pub fn stays(&mut self, why: &str, behind: bool, ends: &mut impl Ends) {
        if self.client == Client::Leaves {
            self.client = if behind { Client::Behind } else { Client::Open };
        }
        self.notice(&format!("cannot detach: {why}"), ends);
    }

    /// The session goes on without this client: it is told so, where that does
    /// not have to wait for what it does not read.
    pub fn part_from_client(&mut self, why: &SessionEnd, ends: &mut impl Ends) {
        if self.leaves_client(ends) {
            let _ = ends.write_client(&why.packet());
        }
    }

    /// The same, where it is told by others. Whether it can be.
    pub fn leaves_client(&mut self, ends: &mut impl Ends) -> bool {
        if let Some(extended) = &mut self.extended {
            extended.told = true;
        }
        self.output.flush(|bytes| ends.write_client(bytes).taken()) && self.output.is_empty()
    }

    /// Whether the client was not told to go on, although the terminal is its
    /// own.
    pub fn owes_go(&self) -> bool {
        self.extended.as_ref().is_some_and(|extended| extended.owes_go)
    }

    /// Tells the client to go on; once more where a gateway before us may have,
    /// or not.
    pub fn say_go(&mut self, ends: &mut impl Ends) {
        if let Some(extended) = &mut self.extended {
            extended.owes_go = false;
            self.give_output(&encode_bare(GO, 0), ends);
            self.arrive(ends);
        }
    }

    /// A client that has come back was told to go on.
    pub(crate) fn arrive(&mut self, ends: &mut impl Ends) {
        let Some(kept) = self.kept_mut() else {
            return;
        };
        if std::mem::take(&mut kept.hidden) && !self.program_runs {
            // What is left in a terminal that is the client's is its to read.
            self.terminal_open &= !self.is_handed_over();
            self.tell_the_end(ends);
        }
    }

    /// Keeps output, with its header, of a terminal that is ours; whether it
    /// is for the client as well.
    #[inline]
    pub(crate) fn keep_output(&mut self, packet: &[u8]) -> bool {
        let Some(kept) = self.kept_mut() else {
            return true;
        };
        if let Some(output) = packet.get(fpty::proto::HEADER..) {
            kept.remains.write(output);
        }
        !kept.hidden
    }

    /// The terminal gets the size that the client has said: not while that
    /// waits for what was on it in another one.
    pub(crate) fn resize(&mut self, ends: &mut impl Ends) {
        let (size, is_theirs) = (self.size, self.is_handed_over());
        if let Some(kept) = self.kept_mut() {
            if kept.hidden {
                return;
            }
            if !is_theirs {
                kept.remains.resized(size);
            }
        }
        ends.resize(size);
    }
}
