//! Somebody who asks: what for, and what it is answered.

use std::time::Instant;

use super::peers::session_request::Wanted;
use super::statistics;
use crate::event_loop::context::Context;
use fpty::backlog::Backlog;
use fpty::fair_share::Who;
use fpty::proto::{Ended, Ending, NO_SUCH, NOTICE, encode_input, encode_packet};
use fpty::sys::poll::Interest;
use fpty::sys::socket::Stream;

use super::page::{ENDED, Piece};
use super::pages::{Next, Pages};
use super::statistics::{Asked, Request};
use crate::session::selector::SessionSelector;

/// What one asks for.
pub enum Wants {
    /// Statistics, and it has not said yet which.
    Some(Request),
    /// Statistics.
    Statistics,
    /// The list.
    List,
    /// The end of a session.
    End(Search),
}

/// A session that is sought.
pub struct Search {
    sought: SessionSelector,
    found: Vec<Found>,
    /// Another gateway is ending it.
    is_ending: bool,
}

impl Search {
    /// Nothing was found so far.
    pub fn of(sought: SessionSelector) -> Self {
        Self { sought, found: Vec::new(), is_ending: false }
    }
}

/// A session that was found.
#[derive(Clone, Copy)]
pub struct Found {
    /// The gateway that has it; `None`: we.
    pub whose: Option<usize>,
    /// Where it is there.
    pub place: u32,
    /// Its id.
    pub id: SessionSelector,
}

/// Somebody who asks.
pub struct Inquirer {
    /// Its connection.
    pub client: Stream,
    /// Whose share of the places it has.
    pub who: Who,
    /// Since when.
    pub since: Instant,
    /// What it asks for.
    pub wants: Wants,
    /// How far its list is.
    pub pages: Pages,
    /// Something was listed.
    listed: bool,
    /// What it has not taken yet.
    pub answer: Backlog,
    /// It has taken something of late.
    pub reads: bool,
    /// The answer is complete.
    pub over: bool,
}

impl Inquirer {
    /// One who asks for this.
    pub fn new(client: Stream, wants: Wants) -> Self {
        let by = client.peer_uid().unwrap_or(u32::MAX);
        let pages = match &wants {
            // Whoever may ask for those has all of them.
            Wants::Some(_) | Wants::Statistics => Pages::new(0, Wanted::Statistics),
            Wants::List => Pages::new(by, Wanted::List),
            Wants::End(search) => Pages::new(by, Wanted::Places(search.sought)),
        };
        Self {
            who: Who::of(&client),
            client,
            since: Instant::now(),
            wants,
            pages,
            listed: false,
            answer: Backlog::default(),
            reads: false,
            over: false,
        }
    }

    /// Whether it asks for statistics.
    pub fn is_of_statistics(&self) -> bool {
        matches!(self.wants, Wants::Some(_) | Wants::Statistics)
    }

    /// What is waited for.
    pub fn interest(&self) -> Interest {
        let read = matches!(self.wants, Wants::Some(_));
        // Until another gateway has answered there is nothing to write.
        Interest { read, write: !read && (!self.pages.waits || !self.answer.is_empty()) }
    }

    /// It has said which statistics it wants.
    pub fn asks(&mut self, cx: &Context, asked: Asked) {
        self.wants = Wants::Statistics;
        let (text, lists) = statistics::answer(cx, asked);
        self.answer.push(text.as_bytes());
        self.over = !lists;
    }

    fn says(&mut self, text: &[u8]) {
        if self.is_of_statistics() {
            return self.answer.push(text);
        }
        let mut packets = Vec::new();
        encode_input(text, &mut packets);
        self.answer.push(&packets);
    }

    /// That was all, and why.
    pub fn ends(&mut self, ended: &Ended) {
        self.answer.push(&ended.packet());
        self.over = true;
    }

    /// It has what it asked for.
    fn succeeds(&mut self) {
        self.ends(&Ended { ending: Ending::Exit, value: 0, text: String::new() });
    }

    /// It gets nothing, and is told why.
    pub fn refuse(&mut self, why: impl Into<String>) {
        self.ends(&Ended::because(Ending::Refused, why));
    }

    /// Adds what a gateway has.
    pub fn add(&mut self, whose: Option<usize>, piece: &Piece) {
        let begins = match &mut self.wants {
            Wants::End(search) => {
                let found = piece.found().map(|(place, id)| Found { whose, place, id });
                return search.found.extend(found);
            }
            Wants::List => "[",
            Wants::Some(_) | Wants::Statistics => "",
        };
        if !piece.body.is_empty() {
            let before = if std::mem::replace(&mut self.listed, true) { "," } else { begins };
            let text = [before.as_bytes(), &piece.body].concat();
            self.says(&text);
        }
    }

    /// Whether nobody else has to be asked: several are meant already, among which
    /// there is none that has the whole as its id.
    pub fn knows_enough(&self) -> bool {
        match &self.wants {
            Wants::End(search) => search.found.len() > 1 && !search.sought.is_full_id(),
            _ => false,
        }
    }

    /// All gateways have been asked: which session is to be ended, if one is.
    pub fn conclude(&mut self) -> Option<Found> {
        let unheard = self.pages.unheard;
        match &mut self.wants {
            Wants::Some(_) | Wants::Statistics => {
                let lacks = match unheard {
                    0 => String::new(),
                    count => format!(",\"unheard\":{count}"),
                };
                self.says(format!("]{lacks}}}").as_bytes());
                self.over = true;
                None
            }
            Wants::List => {
                self.end_of_list();
                None
            }
            Wants::End(search) => match search.meant(unheard) {
                Ok(found) => {
                    search.is_ending = found.whose.is_some();
                    Some(found)
                }
                Err(why) => {
                    self.refuse(why);
                    None
                }
            },
        }
    }

    /// That was the whole list.
    pub fn end_of_list(&mut self) {
        self.says(if self.listed { b"]" } else { b"[]" });
        if self.pages.unheard > 0 {
            let count = self.pages.unheard;
            let line = format!("sessions lack: gateways that do not answer: {count}");
            let mut packet = Vec::new();
            encode_packet(NOTICE, line.as_bytes(), &mut packet);
            self.answer.push(&packet);
        }
        self.succeeds();
    }

    /// A session was ended, or was not there any more.
    pub fn end_of_kill(&mut self, was_ended: bool) {
        match was_ended {
            true => self.succeeds(),
            false => self.refuse(NO_SUCH),
        }
    }

    /// Another gateway has answered, or has not.
    pub fn hears(&mut self, answer: Option<&[u8]>) {
        if matches!(&self.wants, Wants::End(search) if search.is_ending) {
            self.pages.waits = false;
            return match answer {
                Some(answer) => self.end_of_kill(answer == ENDED),
                None => self.refuse("the session's gateway does not answer"),
            };
        }
        if let Some(Next::Page(whose, piece)) = self.pages.answered(answer) {
            self.add(whose, &piece);
        }
    }
}

impl Search {
    /// The one that is meant.
    ///
    /// # Errors
    /// There is none, or more than one.
    fn meant(&self, unheard: u32) -> Result<Found, String> {
        // Somebody may have named a session like another's id.
        let whole = self.found.iter().find(|found| found.id.is_same(&self.sought));
        let found = whole.map_or(self.found.as_slice(), std::slice::from_ref);
        match found {
            [] if unheard > 0 => Err(format!("{NO_SUCH}, but for gateways that do not answer")),
            [] => Err(String::from(NO_SUCH)),
            [_] if unheard > 0 && !self.sought.is_full_id() => {
                Err(String::from("a gateway does not answer: give the whole id"))
            }
            [found] => Ok(*found),
            [..] => Err(format!("several sessions are meant by {}", self.sought)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ids: &[&str]) -> Vec<Found> {
        let of = |id: &&str| SessionSelector::of(id.as_bytes()).expect("an id");
        ids.iter().map(|id| Found { whose: None, place: 1, id: of(id) }).collect()
    }

    #[test]
    fn which_one_is_meant() {
        let meant = |sought: &str, ids: &[&str], unheard| {
            let sought = SessionSelector::of(sought.as_bytes()).expect("one");
            let search = Search { found: found(ids), ..Search::of(sought) };
            search.meant(unheard).map(|found| found.id.to_string())
        };
        assert_eq!(meant("0a", &["0a234567"], 0).as_deref(), Ok("0a234567"));
        let several = Err(String::from("several sessions are meant by 0a"));
        assert_eq!(meant("0a", &["0a234567", "0a234568"], 0), several);
        // One may be called like another's id.
        let whole = meant("0A234567", &["zzzzzzzz", "0a234567"], 0);
        assert_eq!(whole.as_deref(), Ok("0a234567"));
        assert_eq!(meant("0a", &[], 0), Err(String::from(NO_SUCH)));
        assert!(meant("0a", &[], 1).is_err_and(|why| why.contains("do not answer")));
        assert!(meant("0a", &["0a234567"], 1).is_err_and(|why| why.contains("the whole id")));
        assert_eq!(meant("0a234567", &["0a234567"], 1).as_deref(), Ok("0a234567"));
    }
}
