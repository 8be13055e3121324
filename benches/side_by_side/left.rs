//! Sessions that were left: what each costs the gateway, and what it takes to come to
//! one, leave it, list and end it among few and among thousands.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::contestant::{Kind, Program, Server, World};
use super::{Effort, Result, Values, handed, report, usage};

/// More than a page of a list has, so that pages are alike.
const FEW: usize = 40;
const MANY: usize = 8000;

/// A process has some beside two for each session.
const DESCRIPTORS: u64 = 2 * MANY as u64 + 1000;

const TERMINALS: &str = "/proc/sys/kernel/pty/max";
const OPEN: &str = "/proc/sys/kernel/pty/nr";

/// First packets of a client of ours; then it asks, or says that this was all.
const HELLO: &[u8] = b"\0\x01\0\x66\0\x18\0\x64\0\x50\0\x65\0\x10\0\x67\x0b\0fpty.detach\x01\x001";
const ALL: &[u8] = b"\0\0\0\x67";
const DETACH: &[u8] = b"\0\0\0\x6d";

const REQUEST: u8 = 105;
const END: u8 = 110;
const OFFER: u8 = 112;
const KEY: u8 = 115;

/// Among as many as a page of a list and a half.
pub fn few(world: &World, kind: Kind, effort: Effort) -> Result<Values> {
    let rows = ["left-attach", "left-leave", "left-list", "left-end", "left-memory", "left-cpu"];
    let found = among(FEW, world, kind, effort)?;
    // So few say nothing of what grows.
    Ok(rows.into_iter().zip(found).filter(|(row, _)| !row.ends_with("memory")).collect())
}

/// Among thousands, where the machine has room for them.
pub fn many(world: &World, kind: Kind, effort: Effort) -> Result<Values> {
    let most = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?.1;
    if most < DESCRIPTORS {
        let why =
            format!("a process may have {most} descriptors here (ulimit -Hn), not {DESCRIPTORS}");
        return Err(why.into());
    }
    let _room = Room::for_terminals(MANY + 500)?;
    let rows = [
        "left-8000-attach",
        "left-8000-leave",
        "left-8000-list",
        "left-8000-end",
        "left-8000-memory",
        "left-8000-cpu",
    ];
    Ok(rows.into_iter().zip(among(MANY, world, kind, effort)?).collect())
}

/// As many terminals as that there may be, for a while.
struct Room {
    before: Option<String>,
}

impl Room {
    fn for_terminals(count: usize) -> Result<Self> {
        let before = fs::read_to_string(TERMINALS)?;
        let (most, open) = (before.trim().parse::<usize>()?, open_terminals()?);
        if most >= open + count {
            return Ok(Self { before: None });
        }
        match fs::write(TERMINALS, (open + count).to_string()) {
            Ok(()) => Ok(Self { before: Some(before) }),
            Err(error) => {
                let why = format!("there are {most} terminals here (kernel.pty.max): {error}");
                Err(why.into())
            }
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = fs::write(TERMINALS, before);
        }
    }
}

fn open_terminals() -> Result<usize> {
    Ok(fs::read_to_string(OPEN)?.trim().parse()?)
}

/// Attach, leave, list and end in microseconds; own memory each in KB; percent of a
/// processor while all are silent.
fn among(count: usize, world: &World, kind: Kind, effort: Effort) -> Result<[f64; 6]> {
    let before = open_terminals()?;
    let server = world.start_detachable(kind, Program::Silent)?;
    let found = measure(count, &server, effort);
    drop(server);
    // What keeps them ends them: that takes a while, and processor time.
    let until = Instant::now() + Duration::from_secs(20);
    while open_terminals()? > before && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    found
}

fn measure(count: usize, server: &Server<'_>, effort: Effort) -> Result<[f64; 6]> {
    let mut ids = Vec::with_capacity(count);
    let (mut gateway, mut memory) = (0, 0);
    while ids.len() < count {
        if ids.len() == FEW / 2 {
            gateway = gateway_of(server)?;
            memory = usage::anonymous_memory(gateway)?;
        }
        let mut client = Client::asks(server, None)?;
        let key = client.until(KEY)?;
        ids.push(key[key.len().saturating_sub(8)..].to_vec());
        client.leaves()?;
    }
    let grown = usage::anonymous_memory(gateway)?.saturating_sub(memory);
    let memory = grown as f64 / 1024.0 / (count - FEW / 2) as f64;
    // The last connections are closed by then.
    std::thread::sleep(Duration::from_millis(1500));
    let (since, used) = (Instant::now(), usage::cpu(&[gateway])?);
    std::thread::sleep(effort.time(2000));
    let used = usage::cpu(&[gateway])? - used;
    let cpu = used.as_secs_f64() * 100.0 / since.elapsed().as_secs_f64();

    let rounds = effort.amount(80) as usize;
    let (mut attach, mut leave, mut list, mut end) = (vec![], vec![], vec![], vec![]);
    let timed = |times: &mut Vec<f64>, since: Instant| {
        times.push(since.elapsed().as_secs_f64() * 1e6);
    };
    for round in 0..rounds {
        // Here and there.
        let id = &ids[round * 7919 % ids.len()];
        let since = Instant::now();
        let mut client = Client::asks(server, Some((b'a', id)))?;
        client.until(OFFER)?;
        timed(&mut attach, since);
        let since = Instant::now();
        client.leaves()?;
        timed(&mut leave, since);
        let since = Instant::now();
        Client::asks(server, Some((b'l', b"")))?.until(0)?;
        timed(&mut list, since);
    }
    for id in ids.iter().rev().take(rounds.min(FEW / 2)) {
        let since = Instant::now();
        Client::asks(server, Some((b'k', id)))?.until(END)?;
        timed(&mut end, since);
    }
    let median = |times| report::median(times).unwrap_or(f64::NAN);
    Ok([median(attach), median(leave), median(list), median(end), memory, cpu])
}

/// The parent of a program that is listed.
fn gateway_of(server: &Server<'_>) -> Result<i32> {
    let list = Client::asks(server, Some((b'l', b"")))?.until(0)?;
    let list = String::from_utf8_lossy(&list).into_owned();
    let (_, pid) = list.split_once("\"pid\":").ok_or("nothing is listed")?;
    let pid = pid.split(',').next().unwrap_or_default();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    Ok(parent.ok_or("no PPid")?.trim().parse()?)
}

/// A client in extended mode that can leave.
struct Client {
    stream: UnixStream,
    bytes: Vec<u8>,
}

impl Client {
    fn asks(server: &Server<'_>, request: Option<(u8, &[u8])>) -> Result<Self> {
        let mut stream = server.connect_stream()?;
        let mut said = HELLO.to_vec();
        if let Some((letter, which)) = request {
            said.extend([0, 1 + which.len() as u8, 0, REQUEST, letter]);
            said.extend(which);
        }
        said.extend(ALL);
        stream.write_all(&said)?;
        Ok(Self { stream, bytes: Vec::new() })
    }

    /// Payload of the next packet of this kind. (Descriptors that are offered close, as
    /// they are not received.)
    fn until(&mut self, wanted: u8) -> Result<Vec<u8>> {
        loop {
            while let Some((kind, payload)) = handed::next(&mut self.bytes) {
                if kind == wanted {
                    return Ok(payload);
                }
                if kind == END {
                    return Err(String::from_utf8_lossy(&payload).into());
                }
            }
            let mut buffer = [0; 32 * 1024];
            match self.stream.read(&mut buffer)? {
                0 => return Err("a session ended before it was left".into()),
                count => self.bytes.extend(&buffer[..count]),
            }
        }
    }

    fn leaves(mut self) -> Result<()> {
        self.stream.write_all(DETACH)?;
        self.until(END).map(drop)
    }
}
