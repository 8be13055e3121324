//! A page of a gateway's sessions, and where the next one begins; the kill of a session.

use super::peers::MAX_MESSAGE;
use super::peers::peer_request::{PageKind, PageRequest};
use crate::event_loop::context::Context;
use crate::event_loop::outcome::Outcome;
use crate::session::ids::LENGTH;

use super::gateway_sessions::GatewaySessions;
use crate::session::selector::SessionSelector;
use crate::session::session_ref::SessionRef;
use fpty::sys::syscall_timeout;

/// The most sessions that one turn looks at, and lists.
const MAX_EXAMINED: usize = 512;
const MAX_LISTED: usize = 32;

/// The most bytes of an entry.
const MAX_ENTRY: usize = 8192;

/// The index behind the last page.
const LAST_PAGE: u32 = u32::MAX;

/// The reply of a gateway that has killed a session.
pub const KILLED: &[u8] = b"1";

/// A page.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The index of the next page; `None`: this is the last.
    pub next: Option<u32>,
    /// Entries of a list with commas between them; or the indexes and ids of matches.
    pub body: Vec<u8>,
}

impl Page {
    /// Encodes a page.
    pub fn encode(&self) -> Vec<u8> {
        [&self.next.unwrap_or(LAST_PAGE).to_le_bytes()[..], &self.body].concat()
    }

    /// Decodes a page.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (next, body) = bytes.split_first_chunk()?;
        let next = Some(u32::from_le_bytes(*next)).filter(|next| *next != LAST_PAGE);
        Some(Self { next, body: body.to_vec() })
    }

    /// The indexes and ids of matches.
    pub fn found(&self) -> impl Iterator<Item = (u32, SessionSelector)> {
        let each = self.body.chunks_exact(4 + LENGTH);
        each.filter_map(|bytes| {
            let (place, id) = bytes.split_first_chunk()?;
            Some((u32::from_le_bytes(*place), SessionSelector::of(id)?))
        })
    }

    fn add_place(&mut self, one: SessionRef, id: &str) {
        if id.len() == LENGTH {
            self.body.extend_from_slice(&GatewaySessions::index_of(one).to_le_bytes());
            self.body.extend_from_slice(id.as_bytes());
        }
    }

    fn add(&mut self, entry: Option<String>) {
        let Some(entry) = entry else { return };
        if !self.body.is_empty() {
            self.body.push(b',');
        }
        self.body.extend_from_slice(entry.as_bytes());
    }
}

impl GatewaySessions<'_> {
    /// A page of this gateway's sessions.
    pub fn page(&self, cx: &mut Context, page_request: PageRequest) -> Page {
        let mut page = Page::default();
        // Their terminals are others' as well, or were.
        let _armed = syscall_timeout::arm();
        if let (PageKind::Matches(by), 0) = (page_request.kind, page_request.from) {
            let matches = self.indexed_matches(&by, page_request.by);
            for one in matches.filter(|one| self.may_see(page_request, *one)).take(MAX_LISTED) {
                page.add_place(one, &self.id_of(cx, one));
            }
        }
        let mut listed = 0;
        for (count, one) in self.iter_from(page_request.from).enumerate() {
            let is_full = page.body.len() > MAX_MESSAGE - MAX_ENTRY;
            if count == MAX_EXAMINED || listed == MAX_LISTED || is_full {
                return Page { next: Some(Self::index_of(one)), ..page };
            }
            if matches!((page_request.kind, one), (PageKind::Matches(_), SessionRef::Detached(_))) {
                break;
            }
            if !self.may_see(page_request, one) {
                continue;
            }
            match page_request.kind {
                PageKind::List => page.add(self.entry(cx, one)),
                PageKind::Statistics => page.add(self.statistics_of(cx, one)),
                PageKind::Matches(by) => {
                    let id = self.id_of(cx, one);
                    if self.is_indexed(one) || !by.matches_prefix(&id) {
                        continue;
                    }
                    page.add_place(one, &id);
                }
            }
            listed += 1;
        }
        page
    }

    /// Whether the requesting user may see a session, which must have started.
    fn may_see(&self, page_request: PageRequest, one: SessionRef) -> bool {
        self.user_of(one).is_some_and(|uid| page_request.may_see(uid))
    }

    /// Terminates a session of this gateway, if this user may. Returns whether there is
    /// one.
    pub fn end(&self, cx: &mut Context, by: u32, place: u32, id: SessionSelector) -> bool {
        let page_request = PageRequest { by, from: place, kind: PageKind::Matches(id) };
        let is_it = |one: &SessionRef| {
            let is_known = Self::index_of(*one) == place && self.may_see(page_request, *one);
            is_known && id.matches_prefix(&self.id_of(cx, *one))
        };
        let found = self.iter_from(place).next().filter(is_it);
        found.into_iter().for_each(|one| cx.push_outcome(Outcome::Terminate(one)));
        found.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_as_they_were_written() {
        let mut body = 7_u32.to_le_bytes().to_vec();
        body.extend_from_slice(b"0123abcd");
        for next in [None, Some(0), Some(1 << 31)] {
            let page = Page { next, body: body.clone() };
            assert_eq!(Page::decode(&page.encode()), Some(page));
        }
        let found: Vec<_> = Page { next: None, body }.found().collect();
        assert_eq!(found, [(7, SessionSelector::of(b"0123abcd").expect("an id"))]);
        assert_eq!(Page::decode(b"abc"), None);
        assert_eq!(Page { next: None, body: b"junk".to_vec() }.found().count(), 0);
    }
}
