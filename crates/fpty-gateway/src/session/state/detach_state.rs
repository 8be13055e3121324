//! What a session has more that can be left and found again: its last output
//! is kept, and who comes back sees nothing of it before the word to go on.

use fpty::proto::session_key::SessionKey;
use fpty::proto::{Decoder, Ended, GO, KEY, encode_bare};
use fpty::scrollback::Remains;
use fpty::sys::Size;

use super::extended::{Extended, HandOver};
use super::{Client, Session, SessionEffects, Shutdown};

/// What is kept, and how it is with the client that has come for it.
#[derive(Debug)]
pub struct DetachState {
    /// The last output.
    pub remains: Remains,
    /// The client has come back, and was not told to go on: its terminal is not
    /// read until then.
    pub awaiting_go: bool,
    /// The terminal is not handed over: what is offered is the remains.
    pub relay_only: bool,
}

impl Session {
    /// A session of a gateway that was here before us, whose client has its
    /// terminal.
    pub fn restored(size: Size, detach_state: Option<DetachState>) -> Self {
        let mut session = Self::raw(size);
        session.accept_first_bytes();
        let mut decoder = Decoder::default();
        decoder.extend();
        session.decoder = Some(decoder);
        session.extended = Some(Box::new(Extended {
            hand_over: HandOver::Theirs,
            detach_state: detach_state.map(Box::new),
            ..Extended::default()
        }));
        session
    }

    /// The session can be left from now on.
    pub fn make_detachable(&mut self, detach_state: DetachState) {
        if let Some(extended) = &mut self.extended {
            extended.detach_state = Some(Box::new(detach_state));
        }
    }

    /// The client is told by what it finds its session again.
    pub fn send_key(&mut self, key: &SessionKey, effects: &mut impl SessionEffects) {
        self.send_packet(KEY, &key.payload(), effects);
    }

    /// What is kept, where the session can be left.
    pub fn detach_state(&self) -> Option<&DetachState> {
        self.extended.as_ref()?.detach_state.as_deref()
    }

    /// The same, to be written.
    pub fn detach_state_mut(&mut self) -> Option<&mut DetachState> {
        self.extended.as_mut()?.detach_state.as_deref_mut()
    }

    /// Its terminal is not handed over: what is kept is all that is offered.
    pub fn set_relay_only(&mut self) {
        if let Some(detach_state) = self.detach_state_mut() {
            detach_state.relay_only = true;
        }
    }

    /// The same, for good: it is kept elsewhere from now on.
    pub fn take_detach_state(&mut self) -> Option<Box<DetachState>> {
        self.extended.as_mut()?.detach_state.take()
    }

    /// Whether the client has come back, and waits for the word to go on.
    pub fn is_awaiting_go(&self) -> bool {
        self.detach_state().is_some_and(|detach_state| detach_state.awaiting_go)
    }

    /// Whether the session could go on without its client: it was not ended,
    /// neither by the client nor by us, and its program runs.
    pub fn may_outlive_client(&self) -> bool {
        let extended = self.extended.as_ref();
        extended.is_some_and(|extended| !extended.ended_by_client && !extended.end_sent)
            && self.program_runs
    }

    /// How the program has ended, where the client was not told, and somebody
    /// else may come for it, or does: a client that had to go `for_another` was told
    /// that alone.
    pub fn take_unsent_end(&mut self, for_another: bool) -> Option<Ended> {
        let is_terminated = self.shutdown != Shutdown::Running;
        let extended = self.extended.as_mut()?;
        let is_told = is_terminated || (extended.end_sent && !for_another);
        if is_told || extended.ended_by_client || extended.detach_state.is_none() {
            return None;
        }
        extended.ended.take()
    }

    /// The client cannot leave: says why, and goes on. What it sent after that
    /// may still have to be heard.
    pub fn refuse_detach(&mut self, why: &str, behind: bool, effects: &mut impl SessionEffects) {
        if self.client == Client::Detaching {
            self.client = if behind { Client::Deferred } else { Client::Open };
        }
        self.notice(&format!("cannot detach: {why}"), effects);
    }

    /// The session goes on without this client: it is told so, where that does
    /// not have to wait for what it does not read.
    pub fn detach_client(&mut self, why: &Ended, effects: &mut impl SessionEffects) {
        if self.release_client(effects) {
            let _ = effects.write_client(&why.packet());
        }
    }

    /// The same, where it is told by others. Whether it can be.
    pub fn release_client(&mut self, effects: &mut impl SessionEffects) -> bool {
        if let Some(extended) = &mut self.extended {
            extended.end_sent = true;
        }
        self.output.flush(|bytes| effects.write_client(bytes).taken()) && self.output.is_empty()
    }

    /// Whether the client was not told to go on, although the terminal is its
    /// own.
    pub fn go_pending(&self) -> bool {
        self.extended.as_ref().is_some_and(|extended| extended.go_pending)
    }

    /// Tells the client to go on; once more where a gateway before us may have,
    /// or not.
    pub fn send_go(&mut self, effects: &mut impl SessionEffects) {
        if let Some(extended) = &mut self.extended {
            extended.go_pending = false;
            self.send_output(&encode_bare(GO, 0), effects);
            self.confirm_attach(effects);
        }
    }

    /// A client that has come back was told to go on.
    pub(crate) fn confirm_attach(&mut self, effects: &mut impl SessionEffects) {
        let Some(detach_state) = self.detach_state_mut() else {
            return;
        };
        if std::mem::take(&mut detach_state.awaiting_go) && !self.program_runs {
            // What is left in a terminal that is the client's is its to read.
            self.terminal_open &= !self.is_handed_over();
            self.send_end(effects);
        }
    }

    /// Keeps output, with its header, of a terminal that is ours; whether it
    /// is for the client as well.
    #[inline]
    pub(crate) fn retain_output(&mut self, packet: &[u8]) -> bool {
        let Some(detach_state) = self.detach_state_mut() else {
            return true;
        };
        if let Some(output) = packet.get(fpty::proto::HEADER..) {
            detach_state.remains.keep(output);
        }
        !detach_state.awaiting_go
    }

    /// The terminal gets the size that the client has said: not while that
    /// waits for what was on it in another one.
    pub(crate) fn resize(&mut self, effects: &mut impl SessionEffects) {
        let (size, is_theirs) = (self.size, self.is_handed_over());
        if let Some(detach_state) = self.detach_state_mut() {
            if detach_state.awaiting_go {
                return;
            }
            if !is_theirs {
                detach_state.remains.resized(size);
            }
        }
        effects.resize(size);
    }
}
