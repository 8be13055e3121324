//! The terminal itself is given to a client: on a UNIX socket its bytes need
//! not pass through here at all. What stays here is the supervision.
//!
//! The offer goes with the descriptors; until the client has said that it has
//! them, and what it sent before that is in the terminal, bytes are relayed as
//! ever. So a client that is slow to answer, or never does, loses nothing.

use std::os::fd::AsFd;
use std::time::Duration;

use super::relay::{Attached, Sessions};
use crate::config::rules::Rules;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{Due, TerminalDue};
use fpty::proto::{EndKind, OFFER, OFFER_MASTER, OFFER_PIDFD, OFFER_RING, encode_packet};
use fpty::sys::WriteOutcome;
use fpty::sys::socket::Transport;

/// An idle timeout that is shorter than this is to be exact.
const ROUGHLY: Duration = Duration::from_secs(60);

/// How soon an offer is tried again that output was in the way of.
const AGAIN: Duration = Duration::from_millis(100);

/// What a client is told that has made its terminal wait.
pub(crate) const HELD_UP: &str =
    "session ended: whoever was given its terminal made it wait (O_NONBLOCK)";

impl Attached {
    /// Whether a session's terminal may be given to its client. This is the one
    /// place that says so, whatever brought the session here, and every offer
    /// asks it: what goes past the gateway is recorded by nobody.
    fn may_be_handed_over(&self, cx: &Context) -> bool {
        cx.doors.rules(self.door).is_some_and(is_handed_over_by)
            && self.transport == Transport::Unix
            && self.session.can_take()
            && !self.wires.is_recorded()
    }

    /// Offers a session's terminal to its client, or, where that may not be
    /// handed over, what is kept of its output.
    pub fn offer(&mut self, cx: &mut Context, key: Key) {
        let may = self.may_be_handed_over(cx);
        let Some(program) = &self.wires.program else {
            return;
        };
        if !self.session.can_be_offered() || self.starting != 0 {
            if self.session.may_be_offered_later() {
                cx.after(AGAIN, Due::Terminal(key, TerminalDue::Offer));
            }
            return;
        }
        if !may {
            self.session.relays_for_good();
        }
        let (mut names, mut descriptors) = (Vec::new(), Vec::new());
        let kept = self.session.kept();
        let relays = !may || kept.is_some_and(|kept| kept.relays);
        if relays && kept.is_none() {
            return;
        }
        let pidfd = program.pidfd().filter(|_| !relays);
        if !relays {
            names.push(OFFER_MASTER);
            descriptors.push(self.wires.master.as_fd());
        }
        if let Some(pidfd) = &pidfd {
            names.push(OFFER_PIDFD);
            descriptors.push(pidfd.as_fd());
        }
        // Whoever reads the terminal writes it.
        if let Some(ring) = kept.and_then(|kept| kept.remains.shared_file()) {
            names.push(OFFER_RING);
            descriptors.push(ring);
        }
        let mut packet = Vec::new();
        encode_packet(OFFER, &names, &mut packet);
        if self.transport == Transport::Tcp {
            return self.session.offer_in_pieces(&packet, &mut self.wires);
        }
        match self.wires.client.write_with_descriptors(&packet, &descriptors) {
            WriteOutcome::Bytes(_) => {
                self.session.offered();
                if !relays {
                    self.wires.master.share();
                }
            }
            WriteOutcome::WouldBlock => cx.after(AGAIN, Due::Terminal(key, TerminalDue::Offer)),
            // The next event says so.
            WriteOutcome::Closed => {}
        }
    }
}

impl Sessions {
    /// A terminal that was offered made us wait: nobody else is to pay for that. It
    /// is told once, and not waited for.
    pub fn dismiss_held_up(&mut self, cx: &mut Context, key: Key) {
        if let Some(attached) = self.get_mut(key) {
            attached.session.dismiss(EndKind::Operator, HELD_UP, &mut attached.wires);
            cx.doors.log_refusal(&format!("forkptyrouter: {HELD_UP}"));
        }
    }

    /// See [`Attached::may_be_handed_over`].
    pub fn may_be_handed_over(&self, cx: &Context, key: Key) -> bool {
        self.get(key).is_some_and(|attached| attached.may_be_handed_over(cx))
    }

    /// From here on a session's terminal is its client's: it is told so.
    pub fn say_go(&mut self, key: Key) {
        if let Some(attached) = self.get_mut(key) {
            if attached.session.owes_go() {
                attached.session.say_go(&mut attached.wires);
            }
        }
    }
}

/// Whether terminals are handed over where these rules hold.
fn is_handed_over_by(rules: &Rules) -> bool {
    // Of one that was handed over the idle time is known roughly.
    rules.handover && rules.timeout.is_none_or(|timeout| timeout >= ROUGHLY)
}
