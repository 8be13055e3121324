//! Clients that asked for more at once than one turn has time for: the rest of
//! what was read of them waits, in order, and they are not read meanwhile.

use std::collections::VecDeque;

use super::slab::Key;
use super::subject::Whose;
use crate::session::state::CONTROL_BUDGET;

/// What all clients may ask for in one turn beside input, once for what they
/// send, once for what had to wait. A signal that drops input takes up to 80
/// microseconds, so that a turn with as many takes five milliseconds each.
const ALL_ACTS: usize = 64;

/// What is left to be heard of a client.
#[derive(Debug)]
pub struct Rest {
    whose: Whose,
    bytes: Vec<u8>,
    /// Of these so many were heard.
    heard: usize,
}

/// Those whose turn is still to come, and what this turn has time for.
pub struct Behind {
    waiting: VecDeque<Rest>,
    acts: usize,
}

impl Rest {
    /// Whose it is.
    pub fn whose(&self) -> Whose {
        self.whose
    }

    /// What is to be heard.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.heard..]
    }
}

impl Behind {
    /// Nobody.
    pub fn new() -> Self {
        Self { waiting: VecDeque::new(), acts: ALL_ACTS }
    }

    /// Whether nobody waits: then the loop may.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Has a client ask for what it may; whoever it is may for something.
    pub fn share<T>(&mut self, hear: impl FnOnce(&mut usize) -> T) -> T {
        let most = self.acts.clamp(1, CONTROL_BUDGET);
        let mut acts = most;
        let heard = hear(&mut acts);
        self.acts = self.acts.saturating_sub(most - acts);
        heard
    }

    /// Whether this turn has time for more.
    pub fn has_time(&self) -> bool {
        self.acts > 0
    }

    /// Takes all that wait, in order.
    pub fn take_waiting(&mut self) -> VecDeque<Rest> {
        std::mem::take(&mut self.waiting)
    }

    /// The last so many bytes wait on.
    pub fn wait_on(&mut self, mut rest: Rest, left: usize) {
        rest.heard = rest.bytes.len() - left;
        if left > 0 {
            self.waiting.push_back(rest);
        }
    }

    /// What there is time for begins anew.
    pub fn renew(&mut self) {
        self.acts = ALL_ACTS;
    }

    /// Whether more of a session's client is to be heard.
    pub fn has(&self, key: Key) -> bool {
        self.waiting.iter().any(|rest| matches!(rest.whose, Whose::Session(it) if it == key))
    }

    /// Keeps what was not heard. Whether there was memory for it.
    pub fn keep(&mut self, whose: Whose, rest: &[u8]) -> bool {
        let mut bytes = Vec::new();
        if !fpty::backlog::is_free(rest.len()) || bytes.try_reserve_exact(rest.len()).is_err() {
            return false;
        }
        bytes.extend_from_slice(rest);
        self.waiting.push_back(Rest { whose, bytes, heard: 0 });
        true
    }
}
