//! Handover: the terminal's master goes to the client (SCM_RIGHTS), so that on a UNIX socket its
//! bytes do not pass through the gateway at all. Supervision stays here.
//!
//! The offer goes with the descriptors. Until the client has acknowledged them (TAKEN), and what it
//! sent before that is in the terminal, bytes are relayed as ever: a client that is slow to answer,
//! or never does, loses nothing.

use std::os::fd::AsFd;
use std::time::Duration;

use super::relay::{LiveSession, Sessions};
use crate::config::rules::Rules;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{TerminalTimer, Timer};
use fpty::proto::{EndKind, OFFER, OFFER_MASTER, OFFER_PIDFD, OFFER_RING, encode_packet};
use fpty::sys::WriteOutcome;
use fpty::sys::socket::Transport;

/// Resolution of the idle time of a handed-over terminal: a shorter timeout needs the relay.
const IDLE_RESOLUTION: Duration = Duration::from_secs(60);

/// Delay before an offer is tried again that pending output was in the way of.
const OFFER_RETRY: Duration = Duration::from_millis(100);

/// Text for a client that made its terminal block.
pub(crate) const TERMINAL_BLOCKED: &str =
    "session ended: whoever was given its terminal made it wait (O_NONBLOCK)";

impl LiveSession {
    /// Whether the session's terminal may be handed over. This is the one place that decides,
    /// whatever brought the session here, and every offer asks it: bytes that go past the gateway
    /// cannot be recorded.
    pub fn may_be_handed_over(&self, cx: &Context) -> bool {
        // The idle time of a handed-over terminal is known in steps of seconds.
        let allows = |rules: &Rules| {
            rules.handover && rules.timeout.is_none_or(|timeout| timeout >= IDLE_RESOLUTION)
        };
        cx.listeners.rules(self.listener).is_some_and(allows)
            && self.transport == Transport::Unix
            && self.session.accepts_handover()
            // A recording that failed stays with its session.
            && self.io.recording().is_none()
    }

    /// Offers the session's terminal to its client or, where it may not be handed over, the
    /// scrollback.
    pub fn offer(&mut self, cx: &mut Context, key: Key) {
        let may = self.may_be_handed_over(cx);
        let Some(program) = &self.io.program else {
            return;
        };
        if !self.session.can_be_offered() || self.started_poll != 0 {
            if self.session.may_be_offered_later() {
                cx.schedule(OFFER_RETRY, Timer::Terminal(key, TerminalTimer::Offer));
            }
            return;
        }
        // Only the scrollback is offered.
        if let Some(detach_state) = self.session.detach_state_mut().filter(|_| !may) {
            detach_state.relay_only = true;
        }
        let detach_state = self.session.detach_state();
        let relay_only = !may || detach_state.is_some_and(|detach_state| detach_state.relay_only);
        if relay_only && detach_state.is_none() {
            return;
        }
        let pidfd = program.pidfd().filter(|_| !relay_only);
        // Whoever reads the terminal writes the scrollback.
        let ring = detach_state.and_then(|detach_state| detach_state.remains.shared_file());
        let parts = [
            (OFFER_MASTER, Some(self.io.master.as_fd()).filter(|_| !relay_only)),
            (OFFER_PIDFD, pidfd.as_ref().map(AsFd::as_fd)),
            (OFFER_RING, ring),
        ];
        let offered = parts.into_iter().filter_map(|(name, offered)| Some((name, offered?)));
        let (names, descriptors): (Vec<_>, Vec<_>) = offered.unzip();
        let mut packet = Vec::new();
        encode_packet(OFFER, &names, &mut packet);
        if self.transport == Transport::Tcp {
            return self.session.offer_in_pieces(&packet, &mut self.io);
        }
        match self.io.client.write_with_descriptors(&packet, &descriptors) {
            WriteOutcome::Bytes(_) => {
                self.session.set_offered();
                if !relay_only {
                    self.io.master.share();
                }
            }
            WriteOutcome::WouldBlock => {
                cx.schedule(OFFER_RETRY, Timer::Terminal(key, TerminalTimer::Offer))
            }
            // The next event reports the closed connection.
            WriteOutcome::Closed => {}
        }
    }
}

impl Sessions {
    /// Ends a session whose offered terminal blocked the gateway: no other session is to pay for
    /// that. The client is notified once, and not waited for.
    pub fn terminate_blocked(&mut self, cx: &mut Context, key: Key) {
        if let Some(live) = self.get_mut(key) {
            live.session.terminate(EndKind::Operator, TERMINAL_BLOCKED, &mut live.io);
            cx.listeners.log_rejection(&format!("forkptyrouter: {TERMINAL_BLOCKED}"));
        }
    }

    /// Sends GO where it is pending: from here on the terminal is the client's.
    pub fn send_go(&mut self, key: Key) {
        if let Some(live) = self.get_mut(key) {
            if live.session.go_pending() {
                live.session.send_go(&mut live.io);
            }
        }
    }
}
