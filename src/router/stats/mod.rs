//! The statistics, to whoever connects: the JSON of a corerouter and more, and
//! by HTTP the metrics that Prometheus reads.
//!
//! | file | subject |
//! | --- | --- |
//! | `mod.rs` | clients: they ask, and read at their own pace |
//! | `request.rs` | what one asks for |
//! | `report.rs` | the JSON |
//! | `prometheus.rs` | the metrics |

mod prometheus;
mod report;
mod request;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::GatewayLoop;
use super::closing::LastWord;
use super::fault;
use super::recovery::Whose;
use super::table::{Key, Source, Table};
use super::timers::Due;
use crate::shares::{self, Who};
use fpty::relay::Backlog;
use fpty::sys::Read;
use fpty::sys::poll::{Interest, Ready};
use fpty::sys::socket::Stream;

use report::{Goes, Listing};
use request::{Asked, Request};

/// Clients of the statistics at once; for a further one, the one that has
/// taken longest is let go, of whoever has most of them.
const CLIENTS: usize = 32;

/// How long one may take to ask, and how long not to read.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take in all.
const LONGEST: Duration = Duration::from_secs(60);

/// Somebody who asks.
pub struct StatsClient {
    stream: Stream,
    /// Whose share of the places it has.
    who: Who,
    since: Instant,
    request: Request,
    answer: Backlog,
    asked: bool,
    /// It has taken something of late.
    reads: bool,
    /// What the answer goes on with.
    listing: Option<Listing>,
    /// Another gateway is to say what.
    waits: bool,
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
        let stream = match self.cx.doors.accept_statistics() {
            Ok(Some(stream)) => stream,
            Ok(None) => return,
            // It goes on waiting, and would be told of again at once.
            Err(_) => return self.cx.pause(),
        };
        let who = Who::of(&stream);
        let clients = self.statistics.clients.iter();
        let places = clients.map(|(key, client)| (key, client.who, client.since));
        if let Some(slowest) = shares::in_the_way(places, who, CLIENTS, CLIENTS) {
            self.close_stats(slowest);
        }
        let key = self.statistics.clients.insert(StatsClient {
            stream,
            who,
            since: Instant::now(),
            request: Request::default(),
            answer: Backlog::default(),
            asked: false,
            reads: false,
            listing: None,
            waits: false,
        });
        self.cx.faults.made = Some(Whose::Stats(key));
        fault::point("statistics");
        let Some(client) = self.statistics.clients.get_mut(key) else {
            return;
        };
        let token = Source::Stats(key).token();
        if self.cx.poller.add(client.stream.as_fd(), token, Interest::READ).is_err() {
            self.statistics.clients.remove(key);
            return;
        }
        self.cx.after(PATIENCE, Due::Stats(key));
        // Without stats-http nobody has to ask.
        if !self.statistics.http {
            self.answer_stats(key, Asked::Plain);
        }
    }

    /// A client of the statistics asked, or takes more of the answer.
    pub(super) fn stats_ready(&mut self, key: Key, ready: Ready) {
        let Some(client) = self.statistics.clients.get_mut(key) else {
            return;
        };
        if ready.read || ready.hang_up {
            let read = client.stream.read(&mut self.cx.buffer[..4096]);
            match read {
                Read::Bytes(count) if !client.asked => {
                    fault::strike("statistics", || &self.cx.buffer[..count]);
                    match client.request.hear(&self.cx.buffer[..count]) {
                        Some(asked) => return self.answer_stats(key, asked),
                        None => return,
                    }
                }
                Read::Bytes(_) | Read::Blocked => {}
                Read::End if !client.asked && !ready.hang_up => match client.request.end() {
                    Some(asked) => return self.answer_stats(key, asked),
                    None => return self.close_stats(key),
                },
                Read::End if client.asked && !ready.hang_up => {
                    let _ = self.cx.poller.change(
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

    /// One has had its time, and more of it if it reads.
    pub(super) fn hurry_stats(&mut self, key: Key) {
        let Some(client) = self.statistics.clients.get_mut(key) else {
            return;
        };
        // It says no more, and has said enough, perhaps.
        if let Some(asked) = client.request.end().filter(|_| !client.asked) {
            self.cx.after(PATIENCE, Due::Stats(key));
            return self.answer_stats(key, asked);
        }
        if std::mem::take(&mut client.reads) && client.since.elapsed() < LONGEST {
            return self.cx.after(PATIENCE, Due::Stats(key));
        }
        self.close_stats(key);
    }

    fn answer_stats(&mut self, key: Key, asked: Asked) {
        let (body, listing) = match asked {
            Asked::Metrics => (prometheus::text(&self.cx.told.counters.now()), None),
            Asked::Head(_) => (String::new(), None),
            Asked::Not(_, _, why) => (format!("{why}\n"), None),
            Asked::Plain | Asked::Json => (self.report(), Some(Listing::default())),
        };
        if let Some(client) = self.statistics.clients.get_mut(key) {
            client.asked = true;
            client.answer.push(asked.head().as_bytes());
            client.answer.push(body.as_bytes());
            client.listing = listing;
        }
        self.send_stats(key);
    }

    fn send_stats(&mut self, key: Key) {
        let Some(client) = self.statistics.clients.get_mut(key).filter(|client| client.asked)
        else {
            return;
        };
        let before = client.answer.len();
        let takes = client.answer.flush(|bytes| client.stream.write(bytes).taken());
        client.reads |= client.answer.len() < before;
        // A little at a time: sessions do not wait for a list of them, nor
        // does a list wait in memory for its reader.
        let is_taken = takes && client.answer.is_empty() && !client.waits;
        if let Some(mut listing) = client.listing.take_if(|_| is_taken) {
            let goes = self.list(key, &mut listing);
            let Some(client) = self.statistics.clients.get_mut(key) else {
                return;
            };
            client.waits = goes == Goes::Asked;
            match goes {
                Goes::On(text) => client.answer.push(text.as_bytes()),
                Goes::Over(text) => {
                    client.answer.push(text.as_bytes());
                    return self.send_stats(key);
                }
                Goes::Asked => {}
            }
            client.listing = Some(listing);
        }
        let Some(client) = self.statistics.clients.get_mut(key) else {
            return;
        };
        if takes && (client.waits || !client.answer.is_empty()) {
            let token = Source::Stats(key).token();
            // Until another gateway has answered there is nothing to write.
            let interest = Interest { read: false, write: !client.answer.is_empty() };
            let _ = self.cx.poller.change(client.stream.as_fd(), token, interest);
            return;
        }
        if let Some(client) = self.statistics.clients.remove(key) {
            self.cx.close_when_read(client.stream, LastWord::Eof);
        }
    }

    /// Another gateway has answered, or has not.
    pub(super) fn listed(&mut self, key: Key, answer: Option<&[u8]>) {
        let Some(client) = self.statistics.clients.get_mut(key).filter(|client| client.waits)
        else {
            return;
        };
        client.waits = false;
        let text = client.listing.as_mut().and_then(|listing| listing.add_answer(answer));
        client.answer.push(text.unwrap_or_default().as_bytes());
        self.send_stats(key);
    }

    /// Lets a client of the statistics go.
    pub(super) fn close_stats(&mut self, key: Key) {
        if let Some(client) = self.statistics.clients.remove(key) {
            let _ = self.cx.poller.remove(client.stream.as_fd());
        }
    }
}
