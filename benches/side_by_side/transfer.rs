//! Bulk in one direction.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::contestant::{Kind, Mode, Program, Server, Session, World};
use super::{Effort, Result, Values, agent, usage};

/// Bytes of a packet that the C plugin reads whole: its buffer is one page,
/// and what is left in it after a packet it misreads.
const PAGE: usize = 4096;
const HEADER: usize = 4;

const BUFFER: usize = 256 * 1024;

/// Output in raw mode.
pub fn output_raw(world: &World, kind: Kind, effort: Effort) -> Result<Values> {
    let moved = output(world, kind, Mode::Raw, effort)?;
    Ok(moved.values(kind, "output", "output-cpu"))
}

/// Output in uwsgi mode, where it is not framed either.
pub fn output_uwsgi(world: &World, kind: Kind, effort: Effort) -> Result<Values> {
    let moved = output(world, kind, Mode::Uwsgi, effort)?;
    Ok(moved.values(kind, "output-uwsgi", "output-uwsgi-cpu"))
}

/// Input in raw mode.
pub fn input_raw(world: &World, kind: Kind, effort: Effort) -> Result<Values> {
    let buffer = vec![b'x'; BUFFER];
    let moved = input(world, kind, Mode::Raw, &buffer, BUFFER, effort.amount(640))?;
    Ok(moved.values(kind, "input", "input-cpu"))
}

/// Input in packets that fill a page with their headers.
pub fn input_4k(world: &World, kind: Kind, effort: Effort) -> Result<Values> {
    const PACKETS: usize = BUFFER / PAGE;
    let payload = vec![b'x'; PAGE - HEADER];
    let buffer =
        if kind == Kind::Bare { payload.repeat(PACKETS) } else { packet(&payload).repeat(PACKETS) };
    let bytes = PACKETS * payload.len();
    let moved = input(world, kind, Mode::Uwsgi, &buffer, bytes, effort.amount(640))?;
    Ok(moved.values(kind, "input-4k", "input-4k-cpu"))
}

/// Input in packets of one byte: what a client that sends key by key, and is
/// pasted into, amounts to.
pub fn input_1(world: &World, kind: Kind, effort: Effort) -> Result<Values> {
    let one = packet(b"x");
    let packets = BUFFER / one.len();
    let buffer = one.repeat(packets);
    let moved = input(world, kind, Mode::Uwsgi, &buffer, packets, effort.amount(80))?;
    Ok(vec![("input-1", moved.bytes as f64 / moved.wall.as_secs_f64() / 1e6)])
}

fn packet(payload: &[u8]) -> Vec<u8> {
    let size = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_le_bytes();
    [&[0, size[0], size[1], 0], payload].concat()
}

/// Result of a transfer: bytes, time, and the gateway's processor time.
struct Moved {
    bytes: u64,
    wall: Duration,
    cpu: Duration,
}

impl Moved {
    fn values(&self, kind: Kind, rate: &'static str, cost: &'static str) -> Values {
        let mut values = vec![(rate, self.bytes as f64 / self.wall.as_secs_f64() / 1e6)];
        if kind != Kind::Bare {
            values.push((cost, self.cpu.as_secs_f64() / (self.bytes as f64 / 1e9)));
        }
        values
    }
}

/// Output of a server in raw mode, in MB/s.
pub fn output_of(server: &Server<'_>, effort: Effort) -> Result<f64> {
    let moved = output_from(server, Kind::Ours, Mode::Raw, effort)?;
    Ok(moved.bytes as f64 / moved.wall.as_secs_f64() / 1e6)
}

fn output(world: &World, kind: Kind, mode: Mode, effort: Effort) -> Result<Moved> {
    output_from(&world.start(kind, Program::Agent)?, kind, mode, effort)
}

fn output_from(server: &Server<'_>, kind: Kind, mode: Mode, effort: Effort) -> Result<Moved> {
    let mut session = server.open(mode)?;
    let mut buffer = vec![0; BUFFER];
    receive(&mut session, 8 << 20, &mut buffer)?;
    let bytes = effort.amount(160 << 20);
    let before = gateway_cpu(kind, &session)?;
    let since = Instant::now();
    receive(&mut session, bytes, &mut buffer)?;
    let wall = since.elapsed();
    Ok(Moved { bytes, wall, cpu: gateway_cpu(kind, &session)? - before })
}

fn receive(session: &mut Session, bytes: u64, buffer: &mut [u8]) -> Result<()> {
    session.tell(agent::PRODUCE, bytes)?;
    let mut left = bytes;
    while left > 0 {
        match session.wire.read(buffer)? as u64 {
            0 => return Err("output was lost".into()),
            count => left = left.checked_sub(count).ok_or("more output than was written")?,
        }
    }
    Ok(())
}

/// Sends a buffer that carries so many bytes so many times.
fn input(
    world: &World,
    kind: Kind,
    mode: Mode,
    buffer: &[u8],
    carries: usize,
    times: u64,
) -> Result<Moved> {
    let server = world.start(kind, Program::Agent)?;
    let mut session = server.open(mode)?;
    send(&mut session, buffer, carries, times / 16)?;
    let before = gateway_cpu(kind, &session)?;
    let since = Instant::now();
    send(&mut session, buffer, carries, times)?;
    let wall = since.elapsed();
    let cpu = gateway_cpu(kind, &session)? - before;
    Ok(Moved { bytes: carries as u64 * times, wall, cpu })
}

fn send(session: &mut Session, buffer: &[u8], carries: usize, times: u64) -> Result<()> {
    session.tell(agent::CONSUME, carries as u64 * times)?;
    // The C plugin takes one packet a read: what follows the command at once
    // would not be seen.
    std::thread::sleep(Duration::from_millis(2));
    for _ in 0..times {
        session.wire.write_all(buffer).map_err(|error| format!("it takes no more: {error}"))?;
    }
    session.expect(agent::DONE)
}

fn gateway_cpu(kind: Kind, session: &Session) -> Result<Duration> {
    if kind == Kind::Bare { Ok(Duration::ZERO) } else { usage::cpu(&[session.gateway]) }
}
