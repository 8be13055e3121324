//! The gateway: gives every client that connects a terminal of its own with
//! a program of the instance behind it.
//!
//! | file | subject |
//! | --- | --- |
//! | `event_loop.rs` | the loop: waits, hands each event to whom it concerns, and does what comes of it |
//! | `start.rs` | what there is when it begins |
//! | `doors.rs` | the sockets; what is said to those who cannot come in |
//! | `admission.rs` | who may come in |
//! | `secrets.rs` | who may come to a session that was left |
//! | `seats.rs` | how many there may be, and how fast they may come |
//! | `attach.rs` | a client connects: its terminal and its program |
//! | `greet.rs` | what a client says before its program starts |
//! | `latecomers.rs` | who is waited for longer before that |
//! | `requests.rs` | which program a client asks for |
//! | `command.rs` | commands without a terminal |
//! | `web.rs` | web pages that come where a terminal is |
//! | `handover.rs` | the terminal itself is given to a client |
//! | `behind.rs`, `hearing.rs` | clients that ask for more than one turn has time for; they are heard |
//! | `traffic.rs` | bytes between a client and its terminal |
//! | `observed.rs` | what is noted of them, where somebody wants to know |
//! | `idle.rs` | what may take only so long, and be idle only for so long |
//! | `quiet.rs` | ends that nothing tells of, and the end of the input |
//! | `lifecycle.rs` | the life of a session: who hears of its beginning and its end |
//! | `depart.rs` | a session ends |
//! | `lives.rs` | how a session begins, is left, found again, and ends |
//! | `closing.rs` | connections to which the last word was said |
//! | `programs.rs` | programs: which run, and how they ended |
//! | `hang_up.rs` | those that lose their client are hung up |
//! | `killing.rs` | who does not end by that is killed |
//! | `memory.rs`, `layout.rs` | what gateways share; how much of it each part takes |
//! | `supervisor/` | what outlives a gateway, and who sees to it |
//! | `left/` | sessions that can be left and found again |
//! | `told/` | what is told of sessions: audit, counters |
//! | `listing/` | clients that ask who is there, end sessions, or ask for the statistics |
//! | `siblings/` | what gateways ask each other |
//! | `seeking.rs` | clients whose session another gateway may have |
//! | `record/` | recordings, and the process that writes them |
//! | `stats/` | the statistics |
//! | `described.rs` | what lists have of a session |
//! | `codec.rs` | how processes of ours speak to each other |
//! | `context.rs` | what every part is given |
//! | `asked_for.rs` | what sessions have asked to have run |
//! | `outcome.rs` | what parts have the loop do |
//! | `whose.rs` | whom something is about |
//! | `recovery.rs`, `fault.rs` | what a panic ends; panics on demand, for tests |
//! | `exchange.rs` | programs that answer each other in quick succession |
//! | `ids.rs`, `beginning.rs` | the ids of sessions; which one is meant by what was typed |
//! | `tallies.rs` | numbers that all gateways see: who has a name, and how much there is |
//! | `table.rs`, `timers.rs` | sessions by number, and what is due when |

pub(crate) mod command;
pub mod config;
pub(crate) mod connection;
pub(crate) mod control;
pub(crate) mod detach;
pub(crate) mod event_loop;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub(crate) mod observe;
pub(crate) mod process;
pub(crate) mod session;

use crate::gateway::config::gateway_config::Router;
use crate::uwsgi::gateway::Gateway;
use fpty::error::Result;

/// Runs a gateway; returns only when it cannot go on.
pub fn run(gateway: Gateway, config: Router) -> Result<()> {
    let router = crate::gateway::event_loop::assemble::assemble(&gateway, config)?;
    crate::gateway::event_loop::run::run(&gateway, router)
}
