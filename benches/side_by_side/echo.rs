//! One byte there and back: what a person who types feels.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::contestant::{Kind, Mode, Program, Server, Session, World};
use super::{Effort, Result, Values, agent, usage};

const WARM_UP: usize = 500;
const IDLE: usize = 100;

/// Nothing else happens.
pub fn alone(world: &World, kind: Kind, effort: Effort) -> Result<Values> {
    let server = world.start(kind, Program::Agent)?;
    let mut session = server.open(Mode::Raw)?;
    let echoes = Echoes::of(&mut session, kind, effort.time(400))?;
    let mut values = vec![
        ("echo-p50", echoes.percentile(0.5)),
        ("echo-p99", echoes.percentile(0.99)),
        ("echo-p999", echoes.percentile(0.999)),
    ];
    if kind != Kind::Bare {
        values.push(("echo-cpu", echoes.cpu.as_secs_f64() * 1e6 / echoes.nanos.len() as f64));
    }
    Ok(values)
}

/// The p99 of a server of ours, in microseconds.
pub fn p99_of(server: &Server<'_>, effort: Effort) -> Result<f64> {
    let mut session = server.open(Mode::Raw)?;
    Ok(Echoes::of(&mut session, Kind::Ours, effort.time(400))?.percentile(0.99))
}

/// A hundred other sessions are open, and silent.
pub fn beside_idle(world: &World, kind: Kind, effort: Effort) -> Result<Values> {
    let server = world.start(kind, Program::Agent)?;
    let idle: Result<Vec<_>> = (0..IDLE).map(|_| server.open(Mode::Raw)).collect();
    let idle = idle?;
    let mut session = server.open(Mode::Raw)?;
    let echoes = Echoes::of(&mut session, kind, effort.time(400))?;
    drop(idle);
    Ok(vec![
        ("echo-idle-p50", echoes.percentile(0.5)),
        ("echo-idle-p99", echoes.percentile(0.99)),
        ("echo-idle-p999", echoes.percentile(0.999)),
    ])
}

/// Another session writes as fast as its client reads, which is very fast.
pub fn beside_busy(world: &World, kind: Kind, effort: Effort) -> Result<Values> {
    let server = world.start(kind, Program::Agent)?;
    let mut busy = server.open(Mode::Raw)?;
    let mut session = server.open(Mode::Raw)?;
    let (stop, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
    busy.tell(agent::PRODUCE, 0)?;
    let (echoes, moved, wall) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 256 * 1024];
            while !stop.load(Ordering::Relaxed) {
                match busy.wire.read(&mut buffer) {
                    Ok(0) | Err(_) => return,
                    Ok(count) => bytes.fetch_add(count as u64, Ordering::Relaxed),
                };
            }
        });
        let before = bytes.load(Ordering::Relaxed);
        let since = Instant::now();
        let echoes = Echoes::of(&mut session, kind, effort.time(1200));
        let wall = since.elapsed();
        let moved = bytes.load(Ordering::Relaxed) - before;
        stop.store(true, Ordering::Relaxed);
        (echoes, moved, wall)
    });
    let echoes = echoes?;
    Ok(vec![
        ("echo-busy-p50", echoes.percentile(0.5)),
        ("echo-busy-p99", echoes.percentile(0.99)),
        ("echo-busy-p999", echoes.percentile(0.999)),
        ("echo-busy-output", moved as f64 / wall.as_secs_f64() / 1e6),
    ])
}

/// How long each took, sorted, and what they cost the gateway.
struct Echoes {
    nanos: Vec<u32>,
    cpu: Duration,
}

impl Echoes {
    fn of(session: &mut Session, kind: Kind, how_long: Duration) -> Result<Self> {
        session.tell(agent::ECHO, 0)?;
        let started = Instant::now();
        for _ in 0..WARM_UP {
            echo(session)?;
            if started.elapsed() > how_long / 4 {
                break;
            }
        }
        let gateway = [session.gateway];
        let cpu = || if kind == Kind::Bare { Ok(Duration::ZERO) } else { usage::cpu(&gateway) };
        let mut nanos: Vec<u32> = Vec::with_capacity(1 << 19);
        let before = cpu()?;
        let started = Instant::now();
        let mut now = started;
        while now - started < how_long && nanos.len() < nanos.capacity() {
            echo(session)?;
            let then = std::mem::replace(&mut now, Instant::now());
            nanos.push(u32::try_from((now - then).as_nanos()).unwrap_or(u32::MAX));
        }
        let cpu = cpu()? - before;
        nanos.sort_unstable();
        Ok(Self { nanos, cpu })
    }

    /// In microseconds.
    fn percentile(&self, part: f64) -> f64 {
        // At most the length, as part is below 1.
        let index = (self.nanos.len() as f64 * part) as usize;
        self.nanos.get(index).map_or(f64::NAN, |nanos| f64::from(*nanos) / 1e3)
    }
}

fn echo(session: &mut Session) -> Result<()> {
    let mut byte = [b'k'];
    session.wire.write_all(&byte)?;
    match session.wire.read(&mut byte)? {
        1 => Ok(()),
        _ => Err("the session ended".into()),
    }
}
