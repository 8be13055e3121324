//! The statistics as JSON: a corerouter's names, what was counted, and the
//! open sessions, piece by piece.

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::router::GatewayLoop;
use crate::router::siblings::{Asker, LONGEST, Question};
use crate::router::table::Key;
use crate::router::told::counters::Counted;
use crate::router::told::{Gone, Refusal, Subject};
use crate::uwsgi::server;
use fpty::text::shown;

/// Sessions that one turn lists.
const AT_ONCE: usize = 32;

/// No session has more bytes than this.
const LONGEST_SESSION: usize = 4096;

/// In the place of a place: that was all.
const NO_MORE: u32 = u32::MAX;

/// What the C corerouter reports, under its names, and what was counted.
#[derive(Serialize)]
struct Report<'a> {
    version: &'a str,
    pid: u32,
    uid: u32,
    gid: u32,
    cwd: String,
    active_sessions: u64,
    forkptyrouter: Vec<&'a str>,
    cheap: u8,
    counters: Counters<'a>,
}

#[derive(Serialize)]
struct Counters<'a> {
    accepted: u64,
    refused: ByReason<'a>,
    ended: ByReason<'a>,
    bytes_in: u64,
    bytes_out: u64,
    peak_sessions: u64,
}

/// Numbers, by the words for them.
struct ByReason<'a>(Vec<&'static str>, &'a [u64]);

impl Serialize for ByReason<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (word, count) in self.0.iter().zip(self.1) {
            map.serialize_entry(word, count)?;
        }
        map.end()
    }
}

impl<'a> Counters<'a> {
    fn of(counted: &'a Counted) -> Self {
        let refused = Refusal::ALL.into_iter().map(Refusal::word).collect();
        let ended = Gone::ALL.into_iter().map(Gone::word).collect();
        Self {
            accepted: counted.accepted,
            refused: ByReason(refused, &counted.refused),
            ended: ByReason(ended, &counted.ended),
            bytes_in: counted.bytes_in,
            bytes_out: counted.bytes_out,
            peak_sessions: counted.peak,
        }
    }
}

/// How far a list of sessions is.
#[derive(Debug, Default)]
pub struct Listing {
    /// Whose sessions come next, by its number; `None`: our own.
    whose: Option<usize>,
    /// The first place of that one's that was not looked at.
    next: usize,
    is_under_way: bool,
    /// Gateways that did not answer.
    unheard: u32,
}

/// What a list goes on with.
#[derive(Debug, PartialEq, Eq)]
pub enum Goes {
    /// More of it, for the reader.
    On(String),
    /// Another gateway was asked, and answers before long.
    Asked,
    /// The end of it.
    Over(String),
}

impl GatewayLoop {
    /// The report, up to the list of sessions.
    pub(super) fn report(&self) -> String {
        let counted = self.cx.told.counters.now();
        let report = Report {
            version: server::version(),
            pid: std::process::id(),
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            cwd: std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default(),
            active_sessions: counted.sessions,
            forkptyrouter: self.cx.doors.names().collect(),
            cheap: 0,
            counters: Counters::of(&counted),
        };
        // JSON leaves some characters as they are that a terminal obeys.
        let mut text = shown(&serde_json::to_string(&report).unwrap_or_default()).into_owned();
        // The list comes piece by piece, and then the end.
        text.pop();
        text.push_str(",\"sessions\":[");
        text
    }

    /// Some more of the list.
    pub(super) fn list(&mut self, key: Key, listing: &mut Listing) -> Goes {
        if listing.whose.is_none() {
            let (some, next) = self.some_sessions(listing.next);
            if let Some(text) = listing.add(&some, next) {
                return Goes::On(text);
            }
            listing.whose = Some(0);
        }
        loop {
            let first = listing.whose.unwrap_or_default();
            let Some(whom) = self.siblings.others().find(|number| *number >= first) else {
                return Goes::Over(listing.end());
            };
            listing.whose = Some(whom);
            // Fewer than there can be descriptors.
            let question = Question::Sessions(listing.next as u32);
            if self.ask(whom, question, Asker::Statistics(key)) {
                return Goes::Asked;
            }
            listing.is_unheard();
        }
    }

    /// Sessions from this place on, one behind the other, and where they go on.
    fn some_sessions(&self, from: usize) -> (String, Option<usize>) {
        let mut text = String::new();
        for (count, (place, subject)) in self.subjects_from(from).enumerate() {
            if count == AT_ONCE || text.len() > LONGEST - LONGEST_SESSION {
                return (text, Some(place));
            }
            let session = match subject {
                Subject::Session(key) => self.session_as_json(key),
                Subject::Command(key) => self.command_as_json(key),
            };
            if let Some(session) = session {
                if !text.is_empty() {
                    text.push(',');
                }
                text.push_str(&session);
            }
        }
        (text, None)
    }

    /// The same for another gateway: where they go on, and the text.
    pub(crate) fn sessions_for_another(&self, from: u32) -> Vec<u8> {
        let (text, next) = self.some_sessions(from as usize);
        let next = next.map_or(NO_MORE, |next| next as u32);
        [&next.to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn session_as_json(&self, key: Key) -> Option<String> {
        let facts = self.cx.told.of(Subject::Session(key))?;
        // Not one whose program may yet turn out not to be executable.
        let attached = self.sessions.get(key).filter(|attached| attached.starting == 0)?;
        let is_handed_over = attached.session.is_handed_over();
        let idle = match is_handed_over {
            true => attached.wires.master.idle_for(),
            false => Some(attached.idle_for().unwrap_or_else(|| facts.started.elapsed())),
        };
        let size = attached.wires.master.size();
        let traffic = attached.wires.traffic.as_ref().filter(|_| !is_handed_over);
        let bytes = traffic.map(|traffic| traffic.bytes()).unzip();
        Some(facts.as_json(size, idle, is_handed_over, bytes))
    }
}

impl Listing {
    /// Adds sessions of the gateway whose turn it is; `None`: there was
    /// nothing to add, and nothing comes.
    fn add(&mut self, some: &str, next: Option<usize>) -> Option<String> {
        self.next = next.unwrap_or(0);
        if next.is_none() {
            self.whose = Some(self.whose.map_or(0, |whose| whose + 1));
        }
        if some.is_empty() {
            // Whoever reads is kept waiting by a blank.
            return next.map(|_| String::from(" "));
        }
        let comma = if std::mem::replace(&mut self.is_under_way, true) { "," } else { "" };
        Some(format!("{comma}{some}"))
    }

    /// Adds what another gateway has answered.
    pub fn add_answer(&mut self, answer: Option<&[u8]>) -> Option<String> {
        let read = answer.and_then(|answer| {
            let (next, text) = answer.split_first_chunk()?;
            Some((u32::from_le_bytes(*next), std::str::from_utf8(text).ok()?))
        });
        match read {
            Some((NO_MORE, text)) => self.add(text, None),
            Some((next, text)) => self.add(text, Some(next as usize)),
            None => {
                self.is_unheard();
                None
            }
        }
    }

    /// The gateway whose turn it was says nothing.
    fn is_unheard(&mut self) {
        self.unheard += 1;
        self.next = 0;
        self.whose = self.whose.map(|whose| whose + 1);
    }

    /// What ends the list, and the whole.
    fn end(&self) -> String {
        match self.unheard {
            0 => String::from("]}"),
            count => format!("],\"unheard\":{count}}}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_several_gateways_make_one_list() {
        let mut listing = Listing::default();
        let mut text = String::from("{\"sessions\":[");
        let mut add = |piece: Option<String>| text.push_str(&piece.unwrap_or_default());
        add(listing.add("1,2", Some(32)));
        assert_eq!((listing.whose, listing.next), (None, 32));
        add(listing.add("3", None));
        assert_eq!((listing.whose, listing.next), (Some(0), 0));
        listing.whose = Some(1);
        add(listing.add_answer(Some(&[&7_u32.to_le_bytes()[..], b"4"].concat())));
        assert_eq!((listing.whose, listing.next), (Some(1), 7));
        assert_eq!(listing.add_answer(Some(&NO_MORE.to_le_bytes())), None);
        assert_eq!((listing.whose, listing.next), (Some(2), 0));
        assert_eq!(listing.add_answer(None), None);
        assert_eq!(listing.add_answer(Some(b"x")), None);
        add(listing.add_answer(Some(&[&NO_MORE.to_le_bytes()[..], b"5"].concat())));
        text.push_str(&listing.end());
        assert_eq!(text, "{\"sessions\":[1,2,3,4,5],\"unheard\":2}");
    }

    #[test]
    fn a_list_of_nobody_is_one() {
        let mut listing = Listing::default();
        assert_eq!(listing.add("", Some(3)).as_deref(), Some(" "));
        assert_eq!(listing.add("", None), None);
        assert_eq!(listing.end(), "]}");
    }
}
