//! The statistics: the JSON of a corerouter, to whoever connects.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::GatewayLoop;
use super::table::{Key, Source, Table};
use super::timers::Due;
use crate::uwsgi::server;
use fpty::relay::Backlog;
use fpty::sys::Read;
use fpty::sys::poll::{Interest, Ready};
use fpty::sys::socket::Stream;

/// Clients of the statistics at once; for a further one, the one that has
/// taken longest is let go.
const CLIENTS: usize = 32;

/// How long one may take to ask and to read.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the C corerouter reports, under its names.
#[derive(Serialize)]
struct Report<'a> {
    version: &'a str,
    pid: u32,
    uid: u32,
    gid: u32,
    cwd: String,
    active_sessions: usize,
    forkptyrouter: Vec<&'a str>,
    cheap: u8,
}

/// Somebody who asks.
pub struct StatsClient {
    stream: Stream,
    since: Instant,
    answer: Backlog,
    asked: bool,
}

/// Everybody who asks.
pub struct Statistics {
    clients: Table<StatsClient>,
    /// Whether they ask by HTTP.
    http: bool,
}

impl Statistics {
    /// Nobody yet.
    pub fn new(http: bool) -> Self {
        Self { clients: Table::new(), http }
    }

    /// Whether this one is still there.
    pub fn has(&self, key: Key) -> bool {
        self.clients.has(key)
    }
}

impl GatewayLoop {
    /// Takes the next client of the statistics.
    pub(super) fn accept_stats(&mut self) {
        let stream = match self.doors.accept_statistics() {
            Ok(Some(stream)) => stream,
            Ok(None) => return,
            // It goes on waiting, and would be told of again at once.
            Err(_) => return self.pause(),
        };
        let clients = &mut self.statistics.clients;
        if clients.len() >= CLIENTS {
            let slowest = clients.iter().min_by_key(|(_, client)| client.since);
            if let Some((key, _)) = slowest {
                self.close_stats(key);
            }
        }
        let key = self.statistics.clients.insert(StatsClient {
            stream,
            since: Instant::now(),
            answer: Backlog::default(),
            asked: false,
        });
        let Some(client) = self.statistics.clients.get_mut(key) else {
            return;
        };
        let token = Source::Stats(key).token();
        if self.turn.poller.add(client.stream.as_fd(), token, Interest::READ).is_err() {
            self.statistics.clients.remove(key);
            return;
        }
        self.after(PATIENCE, Due::Stats(key));
        // Without stats-http nobody has to ask.
        if !self.statistics.http {
            self.answer_stats(key);
        }
    }

    /// A client of the statistics asked, or takes more of the answer.
    pub(super) fn stats_ready(&mut self, key: Key, ready: Ready) {
        let Some(client) = self.statistics.clients.get_mut(key) else {
            return;
        };
        if ready.read || ready.hang_up {
            match client.stream.read(&mut self.turn.buffer[..4096]) {
                // Any request gets the same answer.
                Read::Bytes(_) if !client.asked => return self.answer_stats(key),
                Read::Bytes(_) | Read::Blocked => {}
                Read::End if client.asked && !ready.hang_up => {
                    let _ = self.turn.poller.change(
                        client.stream.as_fd(),
                        Source::Stats(key).token(),
                        Interest { read: false, write: true },
                    );
                }
                Read::End | Read::Gone => return self.close_stats(key),
            }
        }
        self.send_stats(key);
    }

    fn answer_stats(&mut self, key: Key) {
        let mut answer = String::new();
        if self.statistics.http {
            answer.push_str(
                "HTTP/1.0 200 OK\r\nConnection: close\r\nAccess-Control-Allow-Origin: *\r\n\
                 Content-Type: application/json\r\n\r\n",
            );
        }
        answer.push_str(&self.statistics());
        if let Some(client) = self.statistics.clients.get_mut(key) {
            client.asked = true;
            client.answer.push(answer.as_bytes());
        }
        self.send_stats(key);
    }

    fn send_stats(&mut self, key: Key) {
        let Some(client) = self.statistics.clients.get_mut(key).filter(|client| client.asked)
        else {
            return;
        };
        let reads = client.answer.flush(|bytes| client.stream.write(bytes).taken());
        if reads && !client.answer.is_empty() {
            let token = Source::Stats(key).token();
            let interest = Interest { read: false, write: true };
            let _ = self.turn.poller.change(client.stream.as_fd(), token, interest);
            return;
        }
        client.stream.end();
        let _ = client.stream.read(&mut self.turn.buffer[..]);
        self.close_stats(key);
    }

    /// Lets a client of the statistics go.
    pub(super) fn close_stats(&mut self, key: Key) {
        if let Some(client) = self.statistics.clients.remove(key) {
            let _ = self.turn.poller.remove(client.stream.as_fd());
        }
    }

    fn statistics(&self) -> String {
        let report = Report {
            version: server::version(),
            pid: std::process::id(),
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            cwd: std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default(),
            active_sessions: self.sessions.len() + self.commands.len(),
            forkptyrouter: self.doors.names().collect(),
            cheap: 0,
        };
        serde_json::to_string(&report).unwrap_or_default()
    }
}
