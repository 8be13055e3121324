//! Detachable sessions: the scrollback is kept, and a client that attaches sees no output before
//! GO.

use fpty::backlog::Backlog;
use fpty::proto::session_key::SessionKey;
use fpty::proto::{ClientPacketDecoder, GO, SESSION_KEY, SessionEnd, encode_bare};
use fpty::sys::Size;

use super::extended_state::{DetachState, Extended, HandOver};
use super::{Client, Session, SessionEffects, Shutdown};

impl Session {
    /// A session of an earlier gateway, whose client has the terminal.
    pub fn restored(size: Size, detach_state: Option<DetachState>) -> Self {
        let mut session = Self::raw(size);
        session.accept_first_bytes();
        let mut decoder = ClientPacketDecoder::default();
        decoder.set_extended();
        session.decoder = Some(decoder);
        session.extended = Some(Box::new(Extended {
            hand_over: HandOver::Completed,
            detach_state: detach_state.map(Box::new),
            ..Extended::default()
        }));
        session
    }

    /// Makes the session detachable.
    pub fn make_detachable(&mut self, detach_state: DetachState) {
        if let Some(extended) = &mut self.extended {
            extended.detach_state = Some(Box::new(detach_state));
        }
    }

    /// Sends the session's id and secret, by which the client attaches again.
    pub fn send_key(&mut self, key: &SessionKey, effects: &mut impl SessionEffects) {
        self.send_packet(SESSION_KEY, &key.payload(), effects);
    }

    /// State of a detachable session.
    pub fn detach_state(&self) -> Option<&DetachState> {
        self.extended.as_ref()?.detach_state.as_deref()
    }

    /// State of a detachable session, mutable.
    pub fn detach_state_mut(&mut self) -> Option<&mut DetachState> {
        self.extended.as_mut()?.detach_state.as_deref_mut()
    }

    /// Excludes the hand-over: only the scrollback is offered.
    pub fn set_relay_only(&mut self) {
        if let Some(detach_state) = self.detach_state_mut() {
            detach_state.relay_only = true;
        }
    }

    /// Takes the state of a detachable session, which is kept elsewhere from now on.
    pub fn take_detach_state(&mut self) -> Option<Box<DetachState>> {
        self.extended.as_mut()?.detach_state.take()
    }

    /// Whether the client has attached and waits for GO.
    pub fn is_awaiting_go(&self) -> bool {
        self.detach_state().is_some_and(|detach_state| detach_state.awaiting_go)
    }

    /// Whether the session may outlive its client: neither the client nor the gateway has ended it,
    /// and the program runs.
    pub fn may_outlive_client(&self) -> bool {
        let extended = self.extended.as_ref();
        extended.is_some_and(|extended| !extended.ended_by_client && !extended.end_sent)
            && self.program_runs
    }

    /// The program's end, where the client was not sent it and another client may attach to read
    /// it, or waits for it: a client that was detached `for_another` has read that alone.
    pub fn take_unsent_end(&mut self, for_another: bool) -> Option<SessionEnd> {
        let is_terminated = self.shutdown != Shutdown::Running;
        let extended = self.extended.as_mut()?;
        let is_told = is_terminated || (extended.end_sent && !for_another);
        if is_told || extended.ended_by_client || extended.detach_state.is_none() {
            return None;
        }
        extended.ended.take()
    }

    /// Refuses to detach: the client gets the reason, and goes on. Deferred input that it sent
    /// after the request is still to be decoded.
    pub fn refuse_detach(&mut self, why: &str, behind: bool, effects: &mut impl SessionEffects) {
        if self.client == Client::Detaching {
            self.client = if behind { Client::Deferred } else { Client::Open };
        }
        self.notice(&format!("cannot detach: {why}"), effects);
    }

    /// Detaches the client: it gets the reason, behind all pending output.
    pub fn detach_client(&mut self, why: &SessionEnd, effects: &mut impl SessionEffects) {
        if let Some(extended) = &mut self.extended {
            extended.end_sent = true;
        }
        self.send_output(&why.packet(), effects);
    }

    /// Takes output that the client has not read, for the lingering close of its connection.
    pub fn take_output(&mut self) -> Backlog {
        std::mem::take(&mut self.output)
    }

    /// Whether GO is to be sent yet for a terminal that is the client's.
    pub fn go_pending(&self) -> bool {
        self.extended.as_ref().is_some_and(|extended| extended.go_pending)
    }

    /// Sends GO; once more where an earlier gateway may have sent it, or not.
    pub fn send_go(&mut self, effects: &mut impl SessionEffects) {
        if let Some(extended) = &mut self.extended {
            extended.go_pending = false;
            self.send_output(&encode_bare(GO, 0), effects);
            self.confirm_attach(effects);
        }
    }

    /// A client that has attached was sent GO.
    pub(crate) fn confirm_attach(&mut self, effects: &mut impl SessionEffects) {
        let Some(detach_state) = self.detach_state_mut() else {
            return;
        };
        if std::mem::take(&mut detach_state.awaiting_go) && !self.program_runs {
            // The rest of a handed-over terminal's output is the client's to read.
            self.terminal_open &= !self.is_handed_over();
            self.send_end(effects);
        }
    }

    /// Keeps output, behind its header, in the scrollback. Whether the client gets it as well.
    #[inline]
    pub(crate) fn retain_output(&mut self, packet: &[u8]) -> bool {
        let Some(detach_state) = self.detach_state_mut() else {
            return true;
        };
        if let Some(output) = packet.get(fpty::proto::HEADER..) {
            detach_state.remains.write(output);
        }
        !detach_state.awaiting_go
    }

    /// Sets the size that the client has sent; not before GO, while the client waits for a screen
    /// of another size.
    pub(crate) fn resize(&mut self, effects: &mut impl SessionEffects) {
        let (size, is_handed_over) = (self.size, self.is_handed_over());
        if let Some(detach_state) = self.detach_state_mut() {
            if detach_state.awaiting_go {
                return;
            }
            if !is_handed_over {
                detach_state.remains.resized(size);
            }
        }
        effects.resize(size);
    }
}
