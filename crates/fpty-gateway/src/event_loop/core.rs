//! The core: what each transition of a session takes.

use super::context::Context;
use crate::process::process_table::ProcessTable;
use crate::session::relay::Sessions;

/// The context of the event loop, the live sessions, and the processes.
pub struct Core {
    /// The context of the event loop.
    pub cx: Context,
    /// Live sessions: those with a client.
    pub sessions: Sessions,
    /// Processes of the gateway.
    pub processes: ProcessTable,
}
