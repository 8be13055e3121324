//! Some sessions of one gateway, for whoever asks, and the end of one.

use std::time::Duration;

use crate::router::GatewayLoop;
use crate::router::ids::LENGTH;
use crate::router::left::Listed;
use crate::router::siblings::LONGEST;
use crate::router::table::Key;
use crate::router::timers::Due;
use crate::router::told::Subject;
use fpty::proto::Ending;

use super::beginning::Beginning;

/// Sessions that one turn looks at, and lists.
const LOOKED_AT: usize = 512;
const LISTED: usize = 32;

/// No session has more bytes than this.
const LONGEST_ENTRY: usize = 8192;

/// The places of commands come after those of sessions, of which there are
/// fewer than there can be descriptors.
const COMMANDS: usize = 1 << 31;

/// And those of sessions that were left after these.
const LEFT: usize = 3 << 30;

/// In the place of a place: that was all.
const NO_MORE: u32 = u32::MAX;

/// How another gateway says that it has ended a session.
pub const ENDED: &[u8] = b"1";

/// How long a client may take to hear that its session was ended.
const LAST_WORD: Duration = Duration::from_secs(5);

/// What its client is told.
const BY_AN_OPERATOR: &str = "session ended by an operator (fpty --kill)";

/// What is asked of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asking {
    /// The user who asks.
    pub by: u32,
    /// From which place on.
    pub from: u32,
    /// How the ids begin that are sought; `None`: a list is wanted.
    pub beginning: Option<Beginning>,
}

impl Asking {
    /// Whether a session of this user may be known to whoever asks.
    fn may_know(&self, uid: Option<u32>) -> bool {
        self.by == 0 || uid == Some(self.by)
    }
}

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::router) enum One {
    /// A session or command with its client.
    Here(Subject),
    /// A session that was left.
    Left(Key),
}

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
    pub fn found(&self) -> impl Iterator<Item = (u32, Beginning)> {
        let each = self.body.chunks_exact(4 + LENGTH);
        each.filter_map(|bytes| {
            let (place, id) = bytes.split_first_chunk()?;
            Some((u32::from_le_bytes(*place), Beginning::of(id)?))
        })
    }
}

impl GatewayLoop {
    /// Sessions and commands from this place on, each with its place.
    pub(in crate::router) fn subjects_from(
        &self,
        from: usize,
    ) -> impl Iterator<Item = (usize, Subject)> {
        let sessions = self.sessions.from(from).map(|(place, key)| (place, Subject::Session(key)));
        let commands = self.commands_from(from.saturating_sub(COMMANDS));
        sessions.chain(commands.map(|(place, key)| (COMMANDS + place, Subject::Command(key))))
    }

    /// The same, and then those that were left.
    fn all_from(&self, from: usize) -> impl Iterator<Item = (usize, One)> {
        let here = self.subjects_from(from).map(|(place, it)| (place, One::Here(it)));
        let left = self.left.iter().flat_map(move |left| left.from(from.saturating_sub(LEFT)));
        here.chain(left.map(|(place, key)| (LEFT + place, One::Left(key))))
    }

    /// Some of our sessions.
    pub(in crate::router) fn piece(&self, asking: Asking) -> Piece {
        let (mut body, mut listed) = (Vec::new(), 0);
        for (count, (place, one)) in self.all_from(asking.from as usize).enumerate() {
            // Places are fewer than there can be descriptors, twice.
            let place = place as u32;
            if count == LOOKED_AT || listed == LISTED || body.len() > LONGEST - LONGEST_ENTRY {
                return Piece { next: Some(place), body };
            }
            if !self.user_of(one).is_some_and(|uid| asking.may_know(uid)) {
                continue;
            }
            match asking.beginning {
                Some(beginning) => {
                    let id = self.listed_id(one);
                    // Names are one's own, also for root: a stranger may have
                    // called anything like that.
                    let is_own = self.user_of(one) == Some(Some(asking.by));
                    let is_named = || is_own && self.has_name(one, beginning);
                    let is_meant = beginning.begins(&id) || is_named();
                    if is_meant && id.len() == LENGTH {
                        body.extend_from_slice(&place.to_le_bytes());
                        body.extend_from_slice(id.as_bytes());
                        listed += 1;
                    }
                }
                None => {
                    if !body.is_empty() {
                        body.push(b',');
                    }
                    body.extend(self.entry(one));
                    listed += 1;
                }
            }
        }
        Piece { next: None, body }
    }

    /// Ends a session of ours that somebody may end; returns whether there
    /// is one.
    pub(in crate::router) fn end_by(&mut self, by: u32, place: u32, id: Beginning) -> bool {
        let asking = Asking { by, from: place, beginning: Some(id) };
        let there = self.all_from(place as usize).next();
        let Some(one) = there.filter(|(at, _)| *at == place as usize).map(|(_, it)| it) else {
            return false;
        };
        let is_known = self.user_of(one).is_some_and(|uid| asking.may_know(uid));
        if !is_known || !id.begins(&self.listed_id(one)) {
            return false;
        }
        match one {
            One::Here(Subject::Session(key)) => self.end_session(key),
            One::Here(Subject::Command(key)) => self.end_command(key, BY_AN_OPERATOR, LAST_WORD),
            One::Left(key) => self.with_left(|left, cx, _, _| left.end_left(cx, key)),
        }
        true
    }

    fn end_session(&mut self, key: Key) {
        if let Some(attached) = self.sessions.get_mut(key) {
            attached.session.dismiss(Ending::Operator, BY_AN_OPERATOR, &mut attached.wires);
            self.cx.after(LAST_WORD, Due::Dismissed(key));
            self.settle(key);
        }
    }

    /// Whose a session is that has begun and goes on, or was left; `Some(None)`:
    /// nobody knows.
    fn user_of(&self, one: One) -> Option<Option<u32>> {
        let client = match one {
            One::Left(key) => return Some(Some(self.left.as_ref()?.alone_or_over(key)?.uid)),
            One::Here(Subject::Session(key)) => {
                let attached = self.sessions.get(key)?;
                // Not one whose program may yet turn out not to be executable.
                if attached.starting != 0 || attached.session.dismissed().is_some() {
                    return None;
                }
                // Root may have come back to another's.
                match self.left_session(key).filter(|left| !left.is_bound) {
                    Some(left) => return Some(Some(left.uid)),
                    None => &attached.wires.client,
                }
            }
            One::Here(Subject::Command(key)) => self.client_of_command(key)?,
        };
        Some(client.peer_uid())
    }

    /// What is known of a session that can be left.
    pub(super) fn left_session(&self, key: Key) -> Option<Listed<'_>> {
        self.left.as_ref()?.of_session(key)
    }

    fn has_name(&self, one: One, name: Beginning) -> bool {
        let left = match one {
            One::Here(Subject::Session(key)) => self.left_session(key),
            One::Here(Subject::Command(_)) => None,
            One::Left(key) => self.left.as_ref().and_then(|left| left.alone_or_over(key)),
        };
        left.is_some_and(|left| name.is_name(left.name))
    }

    /// The id of one.
    pub(super) fn listed_id(&self, one: One) -> String {
        match one {
            One::Left(key) => {
                let left = self.left.as_ref().and_then(|left| left.alone_or_over(key));
                left.map(|left| left.id.to_owned()).unwrap_or_default()
            }
            One::Here(Subject::Session(key)) => match self.left_session(key) {
                Some(left) => left.id.to_owned(),
                None => self.cx.ids.of(key),
            },
            One::Here(Subject::Command(key)) => self.cx.ids.of(("command", key)),
        }
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
        assert_eq!(found, [(7, Beginning::of(b"0123abcd").expect("an id"))]);
        assert_eq!(Piece::decode(b"abc"), None);
        assert_eq!(Piece { next: None, body: b"junk".to_vec() }.found().count(), 0);
    }

    #[test]
    fn root_knows_all_and_others_their_own() {
        let by = |by| Asking { by, from: 0, beginning: None };
        assert!(by(0).may_know(None) && by(0).may_know(Some(7)));
        assert!(by(7).may_know(Some(7)) && !by(7).may_know(Some(8)) && !by(7).may_know(None));
    }
}
