//! Sessions that are over at once: how many a second, and whether each
//! delivers all that its program wrote.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::contestant::{Kind, LINE, Mode, Program, Server, Session, World};
use super::{Effort, Result, Values, handed};

/// A session that takes longer than this will never end.
const TOO_LONG: Duration = Duration::from_secs(1);

/// One after another.
pub fn one_by_one(world: &World, kind: Kind, effort: Effort) -> Result<Values> {
    let server = world.start(kind, Program::Line)?;
    let ended = sessions(&server, 1, effort.time(400))?;
    Ok(vec![("short", ended.per_second), ("short-lost", ended.lost)])
}

/// One after another, in extended mode, by clients that say all at once.
pub fn extended(world: &World, kind: Kind, effort: Effort) -> Result<Values> {
    let server = world.start(kind, Program::Line)?;
    let ended = sessions_by(&server, 1, effort.time(400), true)?;
    Ok(vec![("short-extended", ended.per_second), ("short-extended-lost", ended.lost)])
}

/// Eight at a time.
pub fn eight_at_a_time(world: &World, kind: Kind, effort: Effort) -> Result<Values> {
    let server = world.start(kind, Program::Line)?;
    let ended = sessions(&server, 8, effort.time(400))?;
    Ok(vec![
        ("short-8", ended.per_second),
        ("short-8-complete", ended.complete()),
        ("short-8-lost", ended.lost),
    ])
}

/// One after another, from a server of 512 MB.
pub fn large_server(world: &World, kind: Kind, effort: Effort) -> Result<Values> {
    let ended = from_a_server_of(512, world, kind, effort)?;
    Ok(vec![("short-512", ended.per_second), ("short-512-lost", ended.lost)])
}

/// One after another, from a server of 2 GB.
pub fn very_large_server(world: &World, kind: Kind, effort: Effort) -> Result<Values> {
    let ended = from_a_server_of(2048, world, kind, effort)?;
    Ok(vec![("short-2048", ended.per_second), ("short-2048-lost", ended.lost)])
}

fn from_a_server_of(megabytes: u32, world: &World, kind: Kind, effort: Effort) -> Result<Ended> {
    let server = world.start_large(kind, Program::Line, megabytes)?;
    sessions(&server, 1, effort.time(600))
}

struct Ended {
    /// All that ended, complete or not: that favours whoever loses output.
    per_second: f64,
    /// The percentage without their whole output.
    lost: f64,
}

impl Ended {
    /// Sessions a second that delivered everything.
    fn complete(&self) -> f64 {
        self.per_second * (1.0 - self.lost / 100.0)
    }
}

/// A session on its way.
struct Running {
    session: Session,
    since: Instant,
    got: [u8; 256],
    have: usize,
    extended: bool,
}

fn sessions(server: &Server<'_>, width: usize, how_long: Duration) -> Result<Ended> {
    sessions_by(server, width, how_long, false)
}

fn sessions_by(
    server: &Server<'_>,
    width: usize,
    how_long: Duration,
    extended: bool,
) -> Result<Ended> {
    let begin = |server: &Server<'_>| begin(server, extended);
    // The first one finds the gateway still starting.
    for _ in 0..20 {
        let mut first = begin(server)?;
        while !first.reads_its_end() {}
    }
    let started = Instant::now();
    let mut running: Vec<Running> = Vec::with_capacity(width);
    let (mut complete, mut lost) = (0u64, 0u64);
    let mut last = started;
    loop {
        let on = started.elapsed() < how_long;
        while on && running.len() < width {
            running.push(begin(server)?);
        }
        if running.is_empty() {
            break;
        }
        let ready = wait(&running)?;
        for index in (0..running.len()).rev() {
            let each = &mut running[index];
            let over = ready[index] && each.reads_its_end();
            if !over && each.since.elapsed() < TOO_LONG {
                continue;
            }
            if over {
                last = Instant::now();
            }
            if over && each.is_complete() {
                complete += 1;
            } else {
                lost += 1;
            }
            drop(running.swap_remove(index));
        }
    }
    let all = (complete + lost) as f64;
    let seconds = (last - started).as_secs_f64();
    Ok(Ended { per_second: all / seconds, lost: 100.0 * lost as f64 / all })
}

fn begin(server: &Server<'_>, extended: bool) -> Result<Running> {
    let mut session = server.connect(if extended { Mode::Uwsgi } else { Mode::Raw })?;
    if extended {
        session.wire.write_all(handed::PLAIN)?;
    }
    Ok(Running { session, since: Instant::now(), got: [0; 256], have: 0, extended })
}

impl Running {
    /// Whether all that the program wrote arrived and, in extended mode, how it
    /// ended.
    fn is_complete(&self) -> bool {
        if !self.extended {
            return self.got[..self.have] == *LINE;
        }
        let mut bytes = self.got[..self.have].to_vec();
        let (mut output, mut ended) = (Vec::new(), false);
        while let Some((kind, payload)) = handed::next(&mut bytes) {
            match kind {
                0 => output.extend(payload),
                110 => ended = payload.starts_with(&[0, 0]),
                _ => {}
            }
        }
        ended && output == *LINE
    }

    /// Reads once; whether that was the end.
    fn reads_its_end(&mut self) -> bool {
        match self.session.wire.read(&mut self.got[self.have..]) {
            // A bare terminal ends with an error.
            Ok(0) | Err(_) => true,
            Ok(count) => {
                self.have += count;
                false
            }
        }
    }
}

fn wait(running: &[Running]) -> Result<Vec<bool>> {
    let mut waiting: Vec<PollFd> = running
        .iter()
        .map(|each| PollFd::new(each.session.wire.as_fd(), PollFlags::POLLIN))
        .collect();
    poll(&mut waiting, PollTimeout::from(100u8))?;
    Ok(waiting.iter().map(|each| each.any().unwrap_or(false)).collect())
}
