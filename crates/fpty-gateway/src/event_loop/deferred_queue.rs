//! Deferred input: a client that asks for more at once than a turn has time for waits with
//! the rest of what was read, in order, and is not read meanwhile.

use std::collections::VecDeque;

use super::fault_domain::FaultDomain;
use super::slab::Key;
use crate::session::state::CONTROL_BUDGET;

/// The budget of a turn: requests beside input of all clients, once for what they send,
/// once for what was deferred. A signal that drops input takes up to 80 microseconds, so
/// that each half of such a turn takes five milliseconds.
const TURN_BUDGET: usize = 64;

/// Deferred bytes of one client.
#[derive(Debug)]
pub struct DeferredChunk {
    /// The fault domain of the client.
    pub fault_domain: FaultDomain,
    bytes: Vec<u8>,
    /// How many of the bytes were delivered.
    heard: usize,
}

/// Deferred input of all clients, and the rest of the turn's budget.
pub struct DeferredInput {
    waiting: VecDeque<DeferredChunk>,
    acts: usize,
}

impl DeferredChunk {
    /// The bytes that are not delivered.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.heard..]
    }
}

impl DeferredInput {
    /// No deferred input.
    pub fn new() -> Self {
        Self { waiting: VecDeque::new(), acts: TURN_BUDGET }
    }

    /// Whether nothing is deferred: then the loop may wait.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Delivers a client's input within the budget; each client has at least one request.
    pub fn with_budget<T>(&mut self, hear: impl FnOnce(&mut usize) -> T) -> T {
        let most = self.acts.clamp(1, CONTROL_BUDGET);
        let mut acts = most;
        let heard = hear(&mut acts);
        self.acts = self.acts.saturating_sub(most - acts);
        heard
    }

    /// Whether the turn has budget left.
    pub fn has_budget(&self) -> bool {
        self.acts > 0
    }

    /// Takes all deferred chunks, in order.
    pub fn take_waiting(&mut self) -> VecDeque<DeferredChunk> {
        std::mem::take(&mut self.waiting)
    }

    /// Puts a chunk back, of which the last `left` bytes are not delivered.
    pub fn put_back(&mut self, mut chunk: DeferredChunk, left: usize) {
        chunk.heard = chunk.bytes.len() - left;
        if left > 0 {
            self.waiting.push_back(chunk);
        }
    }

    /// Resets the budget.
    pub fn reset_budget(&mut self) {
        self.acts = TURN_BUDGET;
    }

    /// Whether input of a session is deferred.
    pub fn has(&self, key: Key) -> bool {
        self.waiting
            .iter()
            .any(|chunk| matches!(chunk.fault_domain, FaultDomain::Session(it) if it == key))
    }

    /// Defers input. Returns whether there was memory for it.
    pub fn defer(&mut self, fault_domain: FaultDomain, chunk: &[u8]) -> bool {
        let mut bytes = Vec::new();
        if !fpty::backlog::has_free_memory(chunk.len())
            || bytes.try_reserve_exact(chunk.len()).is_err()
        {
            return false;
        }
        bytes.extend_from_slice(chunk);
        self.waiting.push_back(DeferredChunk { fault_domain, bytes, heard: 0 });
        true
    }
}
