//! A client with a control request: what it asks for, and its answer.

use std::time::Instant;

use super::peers::peer_request::PageKind;
use super::statistics;
use crate::event_loop::context::Context;
use fpty::backlog::Backlog;
use fpty::fair_share::Principal;
use fpty::proto::{EndKind, NO_SUCH_SESSION, NOTICE, SessionEnd, encode_input, encode_packet};
use fpty::sys::poll::Interest;
use fpty::sys::socket::Stream;

use super::page_cursor::{NextPage, PageCursor};
use super::session_page::{KILLED, Page};
use super::statistics::{Request, StatisticsResponse};
use crate::session::selector::SessionSelector;
use fpty::sys::clock;

/// A control request.
pub enum ControlRequest {
    /// The statistics; by HTTP until the request is complete.
    Statistics(Option<Request>),
    /// The list.
    List,
    /// The kill of a session.
    Kill(KillSearch),
}

/// The search for a session to kill.
pub struct KillSearch {
    selector: SessionSelector,
    found: Vec<KillMatch>,
    /// A peer is killing the session.
    is_ending: bool,
}

/// A match.
#[derive(Clone, Copy)]
pub struct KillMatch {
    /// The gateway that has the session; `None`: this one.
    pub gateway: Option<usize>,
    /// The index of the session at that gateway.
    pub place: u32,
    /// The id of the session.
    pub id: SessionSelector,
}

/// A control client.
pub struct ControlClient {
    /// The client's connection.
    pub client: Stream,
    /// The principal that the client counts for.
    pub principal: Principal,
    /// Time at which the client connected.
    pub since: Instant,
    /// The request.
    pub control_request: ControlRequest,
    /// The cursor of the client's list.
    pub cursor: PageCursor,
    /// An entry was listed.
    listed: bool,
    /// The answer, as far as it is not sent.
    pub answer: Backlog,
    /// The client has read some of the answer since the last check.
    pub reads: bool,
    /// The answer is complete.
    pub over: bool,
}

impl ControlClient {
    /// A client with this request.
    pub fn new(client: Stream, control_request: ControlRequest) -> Self {
        let by = client.peer_uid().unwrap_or(u32::MAX);
        let cursor = match &control_request {
            // Whoever may ask for those has all of them.
            ControlRequest::Statistics(_) => PageCursor::new(0, PageKind::Statistics),
            ControlRequest::List => PageCursor::new(by, PageKind::List),
            ControlRequest::Kill(search) => PageCursor::new(by, PageKind::Matches(search.selector)),
        };
        Self {
            principal: Principal::of(&client),
            client,
            since: clock::now(),
            control_request,
            cursor,
            listed: false,
            answer: Backlog::default(),
            reads: false,
            over: false,
        }
    }

    /// Whether the client asks for the statistics.
    pub fn is_of_statistics(&self) -> bool {
        matches!(self.control_request, ControlRequest::Statistics(_))
    }

    /// The interest at the poller.
    pub fn interest(&self) -> Interest {
        let read = matches!(self.control_request, ControlRequest::Statistics(Some(_)));
        // Until another gateway has answered there is nothing to write.
        Interest { read, write: !read && (!self.cursor.waits || !self.answer.is_empty()) }
    }

    /// Sets the response of the statistics.
    pub fn set_response(&mut self, cx: &Context, response: StatisticsResponse) {
        self.control_request = ControlRequest::Statistics(None);
        let (text, lists) = statistics::answer(cx, response);
        self.answer.push(text.as_bytes());
        self.over = !lists;
    }

    fn push_text(&mut self, text: &[u8]) {
        if self.is_of_statistics() {
            return self.answer.push(text);
        }
        let mut packets = Vec::new();
        encode_input(text, &mut packets);
        self.answer.push(&packets);
    }

    /// Ends the answer.
    fn push_end(&mut self, ended: &SessionEnd) {
        self.answer.push(&ended.packet());
        self.over = true;
    }

    /// Ends the answer with success.
    fn push_success(&mut self) {
        self.push_end(&SessionEnd { ending: EndKind::Exit, value: 0, text: String::new() });
    }

    /// Ends the answer with a rejection.
    pub fn refuse(&mut self, why: impl Into<String>) {
        self.push_end(&SessionEnd::new(EndKind::Refused, why));
    }

    /// Adds a page of a gateway.
    pub fn add(&mut self, gateway: Option<usize>, page: &Page) {
        let begins = match &mut self.control_request {
            ControlRequest::Kill(search) => {
                let found = page.found().map(|(place, id)| KillMatch { gateway, place, id });
                return search.found.extend(found);
            }
            ControlRequest::List => "[",
            ControlRequest::Statistics(_) => "",
        };
        if !page.body.is_empty() {
            let before = if std::mem::replace(&mut self.listed, true) { "," } else { begins };
            let text = [before.as_bytes(), &page.body].concat();
            self.push_text(&text);
        }
    }

    /// Whether the search is ambiguous already, so that no more gateways have to be asked.
    pub fn is_ambiguous(&self) -> bool {
        match &self.control_request {
            ControlRequest::Kill(search) => search.found.len() > 1 && !search.selector.is_full_id(),
            _ => false,
        }
    }

    /// All gateways have answered: the session to kill, if there is one.
    pub fn conclude(&mut self) -> Option<KillMatch> {
        let unanswered = self.cursor.unanswered;
        match &mut self.control_request {
            ControlRequest::Statistics(_) => {
                let lacks = match unanswered {
                    0 => String::new(),
                    count => format!(",\"unheard\":{count}"),
                };
                self.push_text(format!("]{lacks}}}").as_bytes());
                self.over = true;
            }
            ControlRequest::List => self.end_of_list(),
            ControlRequest::Kill(search) => match search.unique_match(unanswered) {
                Ok(found) => {
                    search.is_ending = found.gateway.is_some();
                    return Some(found);
                }
                Err(why) => self.refuse(why),
            },
        }
        None
    }

    /// Ends the list.
    pub fn end_of_list(&mut self) {
        self.push_text(if self.listed { b"]" } else { b"[]" });
        if self.cursor.unanswered > 0 {
            let count = self.cursor.unanswered;
            let line = format!("sessions lack: gateways that do not answer: {count}");
            let mut packet = Vec::new();
            encode_packet(NOTICE, line.as_bytes(), &mut packet);
            self.answer.push(&packet);
        }
        self.push_success();
    }

    /// Answers a kill.
    pub fn end_of_kill(&mut self, was_ended: bool) {
        match was_ended {
            true => self.push_success(),
            false => self.refuse(NO_SUCH_SESSION),
        }
    }

    /// A peer has replied, or not in time.
    pub fn peer_replied(&mut self, answer: Option<&[u8]>) {
        if matches!(&self.control_request, ControlRequest::Kill(search) if search.is_ending) {
            self.cursor.waits = false;
            return match answer {
                Some(answer) => self.end_of_kill(answer == KILLED),
                None => self.refuse("the session's gateway does not answer"),
            };
        }
        if let Some(NextPage::Page(gateway, page)) = self.cursor.answered(answer) {
            self.add(gateway, &page);
        }
    }
}

impl KillSearch {
    /// A search without a match.
    pub fn of(selector: SessionSelector) -> Self {
        Self { selector, found: Vec::new(), is_ending: false }
    }

    /// The only match.
    ///
    /// # Errors
    /// No match, or more than one.
    fn unique_match(&self, unanswered: u32) -> Result<KillMatch, String> {
        // Somebody may have named a session like another's id.
        let whole = self.found.iter().find(|found| found.id.is_same(&self.selector));
        let found = whole.map_or(self.found.as_slice(), std::slice::from_ref);
        match found {
            [] if unanswered > 0 => {
                Err(format!("{NO_SUCH_SESSION}, but for gateways that do not answer"))
            }
            [] => Err(String::from(NO_SUCH_SESSION)),
            [_] if unanswered > 0 && !self.selector.is_full_id() => {
                Err(String::from("a gateway does not answer: give the whole id"))
            }
            [found] => Ok(*found),
            [..] => Err(format!("several sessions are meant by {}", self.selector)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ids: &[&str]) -> Vec<KillMatch> {
        let of = |id: &&str| SessionSelector::of(id.as_bytes()).expect("an id");
        ids.iter().map(|id| KillMatch { gateway: None, place: 1, id: of(id) }).collect()
    }

    #[test]
    fn which_one_is_meant() {
        let meant = |selector: &str, ids: &[&str], unanswered| {
            let selector = SessionSelector::of(selector.as_bytes()).expect("one");
            let search = KillSearch { found: found(ids), ..KillSearch::of(selector) };
            search.unique_match(unanswered).map(|found| found.id.to_string())
        };
        assert_eq!(meant("0a", &["0a234567"], 0).as_deref(), Ok("0a234567"));
        let several = Err(String::from("several sessions are meant by 0a"));
        assert_eq!(meant("0a", &["0a234567", "0a234568"], 0), several);
        // One may be called like another's id.
        let whole = meant("0A234567", &["zzzzzzzz", "0a234567"], 0);
        assert_eq!(whole.as_deref(), Ok("0a234567"));
        assert_eq!(meant("0a", &[], 0), Err(String::from(NO_SUCH_SESSION)));
        assert!(meant("0a", &[], 1).is_err_and(|why| why.contains("do not answer")));
        assert!(meant("0a", &["0a234567"], 1).is_err_and(|why| why.contains("the whole id")));
        assert_eq!(meant("0a234567", &["0a234567"], 1).as_deref(), Ok("0a234567"));
    }
}
