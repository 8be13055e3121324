//! Steps of an instance's master for its gateways: before it gives anything up, before it forks
//! them, in each of them, and at its end or before it executes itself.

use std::sync::atomic::AtomicU64;

use crate::config::options::GatewayConfig;
use crate::control::peers;
use crate::event_loop::startup;
use crate::observe::metrics::counters;
use crate::observe::recording::recorder_launcher;
use crate::process::shared_memory::{self, MemoryOptions, Region};
use crate::process::supervisor::{leftovers, supervisor_link};
use crate::process::{gateway_token, memory_layout};
use fpty::error::Result;

/// Before privileges, the root or a namespace are given up: what needs them is opened
/// and started. `config`: as far as it is known by then, where there are clients at all.
///
/// # Errors
/// A folder for recordings cannot be used, or the recorder cannot be started.
pub fn before_jail(config: Option<&GatewayConfig>) -> Result<()> {
    if config.is_some() {
        gateway_token::reserve();
    }
    let rules = config.into_iter().flat_map(GatewayConfig::rules_before_jail);
    recorder_launcher::start(rules.map(|rules| rules.record))
}

/// Before the gateways are forked: what they share, and how they reach each other.
pub fn before_gateways(config: &GatewayConfig) {
    let wants = MemoryOptions {
        gateways: config.processes as usize,
        limits: config.has_limits(),
        audit: config.any(|rules| rules.audit.is_some()),
        detach: config.any(|rules| rules.detach.sessions > 0),
    };
    shared_memory::reserve(wants, memory_layout::region_words);
    counters::register();
    supervisor_link::reserve(config.any(|rules| rules.handover || rules.detach.sessions > 0));
    peers::reserve(config.processes);
}

/// Words in which each gateway says, by its process id, that its clients know that the
/// instance stops; `None`: they share no memory.
pub fn stop_words() -> Option<&'static [AtomicU64]> {
    shared_memory::region(Region::ClientsNotified)
}

/// Is the gateway of this number; returns only when it cannot go on.
///
/// # Errors
/// The gateway cannot start, or cannot go on.
pub fn run_gateway(ordinal: usize, config: GatewayConfig) -> Result<()> {
    gateway_token::register_gateway(ordinal);
    startup::start(ordinal, config)?.run()
}

/// At the end of the master, or before it executes itself: the gateways are gone.
pub fn after_gateways(config: &GatewayConfig) {
    supervisor_link::before_exec();
    gateway_token::before_exec();
    shared_memory::before_exec();
    leftovers::after_master_end(config.hangup_grace);
    recorder_launcher::before_exec();
}
