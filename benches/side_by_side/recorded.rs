//! Sessions that are recorded, and what that costs.

use super::contestant::{Kind, Program, World};
use super::{Effort, Result, Values, echo, transfer};

/// Output and echo, with a recording of each and without, one after the other.
pub fn both(world: &World, kind: Kind, effort: Effort) -> Result<Values> {
    let plain = echo::p99_of(&world.start(kind, Program::Agent)?, effort)?;
    let server = world.start_recorded(Program::Agent)?;
    let recorded = echo::p99_of(&server, effort)?;
    Ok(vec![
        ("recorded-output", transfer::output_of(&server, effort)?),
        ("recorded-echo-p99", recorded),
        ("recorded-echo-ratio", recorded / plain),
    ])
}
