//! What a gateway answers that is asked about its sessions: some of them, and where
//! they go on.

use super::peers::LONGEST;
use super::peers::session_request::{Asking, Wanted};
use crate::event_loop::context::Context;
use crate::event_loop::outcome::Outcome;
use crate::session::ids::LENGTH;

use super::sessions::View;
use crate::event_loop::subject::Subject;
use crate::session::selector::SessionSelector;
use fpty::sys::itimer_guard;

/// Sessions that one turn looks at, and lists.
const LOOKED_AT: usize = 512;
const LISTED: usize = 32;

/// No session has more bytes than this.
const LONGEST_ENTRY: usize = 8192;

/// In the place of a place: that was all.
const NO_MORE: u32 = u32::MAX;

/// How another gateway says that it has ended a session.
pub const ENDED: &[u8] = b"1";

/// What it has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Where it goes on; `None`: that was all.
    pub next: Option<u32>,
    /// Entries of a list with commas between them; or the places and ids of
    /// what was sought.
    pub body: Vec<u8>,
}

impl Piece {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        [&self.next.unwrap_or(NO_MORE).to_le_bytes()[..], &self.body].concat()
    }

    /// As it is read.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (next, body) = bytes.split_first_chunk()?;
        let next = Some(u32::from_le_bytes(*next)).filter(|next| *next != NO_MORE);
        Some(Self { next, body: body.to_vec() })
    }

    /// The places and ids of what was sought.
    pub fn found(&self) -> impl Iterator<Item = (u32, SessionSelector)> {
        let each = self.body.chunks_exact(4 + LENGTH);
        each.filter_map(|bytes| {
            let (place, id) = bytes.split_first_chunk()?;
            Some((u32::from_le_bytes(*place), SessionSelector::of(id)?))
        })
    }

    fn add_place(&mut self, place: u32, id: &str) {
        if id.len() == LENGTH {
            self.body.extend_from_slice(&place.to_le_bytes());
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

impl View<'_> {
    /// Some of our sessions.
    pub fn piece(&self, cx: &mut Context, asking: Asking) -> Piece {
        let mut piece = Piece::default();
        // Their terminals are others' as well, or were.
        let _armed = itimer_guard::arm();
        if let (Wanted::Places(by), 0) = (asking.wanted, asking.from) {
            self.add_meant(cx, asking, by, &mut piece);
        }
        let mut listed = 0;
        for (count, (place, one)) in self.all_from(asking.from as usize).enumerate() {
            // Places are fewer than there can be descriptors, twice.
            let place = place as u32;
            let is_full = piece.body.len() > LONGEST - LONGEST_ENTRY;
            if count == LOOKED_AT || listed == LISTED || is_full {
                return Piece { next: Some(place), ..piece };
            }
            if matches!((asking.wanted, one), (Wanted::Places(_), Subject::Detached(_))) {
                break;
            }
            if !self.user_of(one).is_some_and(|whose| asking.may_know(whose)) {
                continue;
            }
            match asking.wanted {
                Wanted::List => piece.add(self.entry(cx, one)),
                Wanted::Statistics => piece.add(self.statistics_of(cx, one)),
                Wanted::Places(by) => {
                    let id = self.id_of(cx, one);
                    if self.has_index(one) || !by.begins(&id) {
                        continue;
                    }
                    piece.add_place(place, &id);
                }
            }
            listed += 1;
        }
        piece
    }

    /// Adds those that are found without looking through all.
    fn add_meant(&self, cx: &Context, asking: Asking, by: SessionSelector, piece: &mut Piece) {
        let is_known = |one: Subject| self.user_of(one).is_some_and(|whose| asking.may_know(whose));
        let meant = self.meant(&by, asking.by).filter(|(_, one)| is_known(*one));
        meant
            .take(LISTED)
            .for_each(|(place, one)| piece.add_place(place as u32, &self.id_of(cx, one)));
    }

    /// Has a session of ours ended that somebody may end; returns whether there is
    /// one.
    pub fn end(&self, cx: &mut Context, by: u32, place: u32, id: SessionSelector) -> bool {
        let asking = Asking { by, from: place, wanted: Wanted::Places(id) };
        let is_there = |(at, _): &(usize, _)| *at == place as usize;
        let Some((_, one)) = self.all_from(place as usize).next().filter(is_there) else {
            return false;
        };
        let is_known = self.user_of(one).is_some_and(|uid| asking.may_know(uid));
        let is_it = is_known && id.begins(&self.id_of(cx, one));
        if is_it {
            cx.then(Outcome::End(one));
        }
        is_it
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
            let piece = Piece { next, body: body.clone() };
            assert_eq!(Piece::decode(&piece.encode()), Some(piece));
        }
        let found: Vec<_> = Piece { next: None, body }.found().collect();
        assert_eq!(found, [(7, SessionSelector::of(b"0123abcd").expect("an id"))]);
        assert_eq!(Piece::decode(b"abc"), None);
        assert_eq!(Piece { next: None, body: b"junk".to_vec() }.found().count(), 0);
    }
}
