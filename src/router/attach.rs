//! A client connects: it gets a terminal with the program on it, or one line
//! that says why not.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::table::{Key, Source};
use super::timers::Due;
use super::traffic::{Attached, Wires};
use super::{GatewayLoop, Running};
use crate::session::Session;
use crate::uwsgi::log::log;
use fpty::error::{Error, Result, reason};
use fpty::proto::Protocol;
use fpty::relay::is_free;
use fpty::sys::Size;
use fpty::sys::child::Pid;
use fpty::sys::poll::Interest;
use fpty::sys::pty::{self, Master};
use fpty::sys::socket::{Stream, Transport};

/// How long nobody is accepted after running out of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Refusals that are logged in one second; the rest is counted.
const LOGGED_PER_SECOND: u32 = 5;

/// One descriptor kept aside: to take a connection with when there is no
/// other, and tell it so, instead of leaving it to wait for nothing.
pub struct Spare {
    file: Option<File>,
    second: Instant,
    logged: u32,
    silent: u32,
}

impl Spare {
    /// Takes the descriptor.
    pub fn new() -> Self {
        Self { file: File::open("/").ok(), second: Instant::now(), logged: 0, silent: 0 }
    }

    /// Logs a refusal, or only counts it.
    pub(super) fn log(&mut self, line: &str) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            if self.silent > 0 {
                log(&format!("forkptyrouter: {} more sessions were refused", self.silent));
            }
            (self.second, self.logged, self.silent) = (Instant::now(), 0, 0);
        }
        if self.logged < LOGGED_PER_SECOND {
            self.logged += 1;
            log(line);
        } else {
            self.silent += 1;
        }
    }
}

impl GatewayLoop {
    /// Takes a connection that waits at a socket.
    pub(super) fn accept(&mut self, door: u32) {
        let Some(door) = self.doors.get(door as usize) else {
            return;
        };
        let (listener, protocol) = (door.listener, door.protocol);
        // One in a turn: a storm of them does not keep the sessions waiting.
        match listener.accept() {
            Ok(Some((client, transport))) => {
                if let Err((client, error)) = self.attach(client, transport, protocol) {
                    self.refuse(&client, &error.to_string());
                }
            }
            Ok(None) => {}
            Err(error) => {
                self.spare.file = None;
                let refused = listener.accept();
                let why = format!("cannot take the connection: {}", reason(&error));
                match refused {
                    Ok(Some((client, _))) => self.refuse(&client, &why),
                    _ => self.spare.log(&format!("forkptyrouter: {why}")),
                }
                self.spare.file = File::open("/").ok();
                self.pause();
            }
        }
    }

    /// Starts, or starts again, to take connections.
    pub(super) fn accept_again(&mut self) {
        if self.accepting {
            return;
        }
        self.accepting = true;
        if self.spare.file.is_none() {
            self.spare.file = File::open("/").ok();
        }
        for (index, door) in self.doors.iter().enumerate() {
            // Sockets are counted in dozens.
            let token = Source::Listener(index as u32).token();
            if let Err(error) = self.poller.add(door.listener.as_fd(), token, Interest::READ) {
                log(&format!("forkptyrouter: cannot wait for clients on {}: {error}", door.name));
            }
        }
        if let Some(listener) = self.stats_listener {
            let token = Source::StatsListener.token();
            if let Err(error) = self.poller.add(listener.as_fd(), token, Interest::READ) {
                log(&format!("forkptyrouter: cannot wait for clients of the statistics: {error}"));
            }
        }
    }

    /// Stops taking connections for a moment: the next one would only find
    /// the same shortage, and the poll would spin.
    pub(super) fn pause(&mut self) {
        if !self.accepting {
            return;
        }
        self.accepting = false;
        let doors = self.doors.iter().map(|door| &door.listener);
        for listener in doors.chain(&self.stats_listener) {
            let _ = self.poller.remove(listener.as_fd());
        }
        self.after(PAUSE, Due::Accept);
    }

    /// Makes a session of a connection, or gives it back with the reason.
    fn attach(
        &mut self,
        client: Stream,
        transport: Transport,
        protocol: Protocol,
    ) -> std::result::Result<(), (Stream, Error)> {
        let size = Size { rows: self.config.rows, cols: self.config.cols };
        let (master, pid) = match self.start(size) {
            Ok(started) => started,
            Err(error) => return Err((client, error)),
        };
        let key = self.sessions.insert(Attached::new(
            Session::new(protocol, size),
            Wires { client, master, program: Some(pid) },
            transport,
        ));
        let listed = self.aftercare.as_mut().and_then(|aftercare| aftercare.add(pid));
        self.programs.insert(pid, Running { session: key, listed });
        let Some(attached) = self.sessions.get_mut(key) else {
            return Ok(());
        };
        let registered = self
            .poller
            .add(attached.wires.client.as_fd(), Source::Client(key).token(), Interest::READ)
            .and_then(|()| {
                let token = Source::Terminal(key).token();
                self.poller.add(attached.wires.master.as_fd(), token, Interest::READ)
            });
        if let Err(error) = registered {
            self.refuse_session(key, &format!("cannot wait for the session: {}", reason(&error)));
            return Ok(());
        }
        attached.terminal_interest = Some(Interest::READ);
        if let Some(timeout) = self.config.timeout {
            self.after(timeout, Due::Idle(key));
        }
        Ok(())
    }

    fn start(&self, size: Size) -> Result<(Master, Pid)> {
        // Rust ends the process that finds no memory for some small thing.
        if !is_free(0) {
            return Err(Error::new("out of memory"));
        }
        let (master, slave) = pty::open(size)?;
        let pid = self.program.spawn(&slave)?;
        // Our copy of the slave closes here: the program's are the last ones,
        // so that their end is the end of the output.
        Ok((master, pid))
    }

    /// Tells a client that it gets no session, and logs it.
    fn refuse(&mut self, client: &Stream, why: &str) {
        let line = format!("forkptyrouter: session refused: {why}");
        let _ = client.write(format!("{line}\r\n").as_bytes());
        client.end();
        // Unread input would turn our close into a reset, which may overtake
        // the line.
        let _ = client.read(&mut self.buffer[..]);
        self.spare.log(&line);
    }

    fn refuse_session(&mut self, key: Key, why: &str) {
        if let Some(attached) = self.sessions.get_mut(key) {
            let _ = attached
                .wires
                .client
                .write(format!("forkptyrouter: session refused: {why}\r\n").as_bytes());
        }
        self.spare.log(&format!("forkptyrouter: session refused: {why}"));
        self.abandon(key);
    }
}
