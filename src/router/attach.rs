//! A client connects: it gets a terminal with the program on it, or one line
//! that says why not.

use std::os::fd::AsFd;
use std::time::Duration;

use super::GatewayLoop;
use super::doors::Caller;
use super::table::{Key, Source};
use super::timers::Due;
use super::traffic::{Attached, Wires};
use crate::session::Session;
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

impl GatewayLoop {
    /// Takes a connection that waits at a socket. One in a turn: a storm of
    /// them does not keep the sessions waiting.
    pub(super) fn accept(&mut self, door: u32) {
        match self.doors.accept(door) {
            Caller::Nobody => {}
            Caller::Client(client, transport, protocol) => {
                if let Err((client, error)) = self.attach(client, transport, protocol) {
                    self.refuse(&client, &error.to_string());
                }
            }
            Caller::Hopeless(client, why) => {
                match client {
                    Some(client) => self.refuse(&client, &why),
                    None => self.doors.log_refusal(&format!("forkptyrouter: {why}")),
                }
                self.pause();
            }
        }
    }

    /// Stops taking connections for a moment: the next one would only find
    /// the same shortage, and the poll would spin.
    pub(super) fn pause(&mut self) {
        if self.doors.close(&self.turn.poller) {
            self.after(PAUSE, Due::Accept);
        }
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
        self.programs.started(pid, key);
        let Some(attached) = self.sessions.get_mut(key) else {
            return Ok(());
        };
        let poller = &self.turn.poller;
        let registered = poller
            .add(attached.wires.client.as_fd(), Source::Client(key).token(), Interest::READ)
            .and_then(|()| {
                let token = Source::Terminal(key).token();
                poller.add(attached.wires.master.as_fd(), token, Interest::READ)
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
        let _ = client.read(&mut self.turn.buffer[..]);
        self.doors.log_refusal(&line);
    }

    fn refuse_session(&mut self, key: Key, why: &str) {
        if let Some(attached) = self.sessions.get_mut(key) {
            let _ = attached
                .wires
                .client
                .write(format!("forkptyrouter: session refused: {why}\r\n").as_bytes());
        }
        self.doors.log_refusal(&format!("forkptyrouter: session refused: {why}"));
        self.abandon(key);
    }
}
