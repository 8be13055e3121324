//! Cost of open and silent sessions to the gateway.

use std::time::{Duration, Instant};

use super::contestant::{Kind, Mode, Program, Session, World};
use super::{Effort, Result, Values, usage};

/// Opened before the memory is counted, so that only what grows is.
const FIRST: usize = 100;
const COUNTED: usize = 500;
const MANY: usize = 1000;

/// Memory by 500 idle sessions, processor time with 1000.
pub fn memory_and_cpu(world: &World, kind: Kind, effort: Effort) -> Result<Values> {
    let server = world.start(kind, Program::Agent)?;
    let mut open: Vec<Session> = Vec::with_capacity(MANY);
    let until = |open: &mut Vec<Session>, count| -> Result<()> {
        while open.len() < count {
            open.push(server.open(Mode::Raw)?);
        }
        // The last one's program has just spoken.
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    };
    until(&mut open, FIRST)?;
    let before = usage::private_memory(&gateways(&open))?;
    until(&mut open, FIRST + COUNTED)?;
    let after = usage::private_memory(&gateways(&open))?;
    let memory = after.saturating_sub(before) as f64 / 1024.0 / COUNTED as f64;

    until(&mut open, MANY)?;
    let gateways = gateways(&open);
    let (since, before) = (Instant::now(), usage::cpu(&gateways)?);
    std::thread::sleep(effort.time(2000));
    let used = usage::cpu(&gateways)? - before;
    let share = used.as_secs_f64() * 100.0 / since.elapsed().as_secs_f64();
    Ok(vec![("idle-memory", memory), ("idle-cpu", share)])
}

/// The processes between the clients and their programs: one, or (socat) one
/// a session.
fn gateways(open: &[Session]) -> Vec<i32> {
    let mut pids: Vec<i32> = open.iter().map(|session| session.gateway).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}
