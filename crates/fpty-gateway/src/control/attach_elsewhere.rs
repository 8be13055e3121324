//! Clients that want a session which another gateway may have: that one is found,
//! and goes on with the client as if it had come there. Several gateways are one.
//!
//! Who has a name all of them see (`tallies.rs`). For the rest they are asked, all at
//! once, and whoever does not answer in time is done without. The client goes to
//! another gateway as its connection with what it has said; until that one says that
//! it has it, the connection is here, too, so that a gateway which is killed or hangs
//! leaves nobody without an answer.

use std::os::fd::{AsFd, OwnedFd};

use super::peers::attach_request::{Best, Fits, Name, Sought, name};
use super::peers::{Asker, Handed, PATIENCE, Posed, Question, Siblings};
use crate::config::rules::Rules;
use crate::connection::client_hello::{Greeting, Heard, Opening};
use crate::connection::handshake::Opened;
use crate::connection::listeners::Newcomer;
use crate::connection::session_access::{self, NOBODY};
use crate::detach::DetachRegistry;
use crate::event_loop::context::{BUFFER, Context};
use crate::event_loop::fault_injection;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::{Key, Table};
use crate::process::ipc;
use crate::session::relay::Sessions;
use crate::session::selector::SessionSelector;
use fpty::error::reason;
use fpty::proto::session_key::Secret;
use fpty::proto::{
    END_OF_STREAM, Ended, Ending, HELLO, NO_SUCH, VARIABLES, VERSION, encode_bare, encode_input,
    encode_rows_and_cols, request, variables,
};
use fpty::sys::clock::BootInstant;
use fpty::sys::memfd_message;
use fpty::sys::peer_process::Passed;
use fpty::sys::socket::{Stream, Transport};

/// How another gateway says that it goes on with a client.
pub const TAKEN: &[u8] = b"1";

/// So often a client goes on to another gateway: a session may end, and begin
/// elsewhere, while it is on its way.
const HOPS: u8 = 3;

/// What a client has said is no longer than this.
const LONGEST: usize = 4 * 1024 * 1024;

/// Why somebody gets nothing.
const NO_SUCH_HEARD: &str = "there is no such session, but for gateways that do not answer";
const SILENT: &str = "the session's gateway does not answer: try again";
const MOVES: &str = "the session begins elsewhere right now: try again";

/// Everybody who seeks a session.
#[derive(Default)]
pub struct Seekers(Table<Seeker>);

/// Somebody who does.
struct Seeker {
    opened: Box<Opened>,
    /// What it sent after its request.
    rest: Vec<u8>,
    /// What was found so far.
    best: Best,
    /// Gateways that have not answered yet.
    asked: u32,
    /// Some will not.
    unheard: bool,
}

/// Where somebody goes that wants a session.
#[must_use]
pub enum Goes {
    /// It stays here. What it sent after its request stands in the turn's buffer.
    Here(Box<Opened>),
    /// Others are asked, or one of them has it; or it gets nothing.
    Away,
}

impl Sought {
    /// What somebody seeks; `None`: nothing that there could be.
    fn of(cx: &Context, opened: &Opened) -> Option<Self> {
        let newcomer = &opened.newcomer;
        let allows = |rules: &Rules| rules.detach.sessions > 0;
        let is_allowed = cx.doors.rules(newcomer.door).is_some_and(allows);
        if !is_allowed {
            return None;
        }
        let uid = session_access::user_of(&newcomer.client);
        let secret = opened.opening.variables.get(variables::SECRET).and_then(Secret::read);
        if uid == NOBODY && secret.is_none() {
            return None;
        }
        let (_, which) = opened.opening.request.clone().read().ok()??;
        let which = match which.as_slice() {
            [] => None,
            which => Some(SessionSelector::of(which)?),
        };
        Some(Self { door: newcomer.door, uid, which, secret })
    }

    /// The key of its name.
    fn name(&self) -> Option<Name> {
        // Nobody has none.
        Some(name(self.door, self.uid, self.which.filter(|_| self.uid != NOBODY)?))
    }
}

impl Seekers {
    /// One is closed as it is.
    pub fn drop_one(&mut self, key: Key) {
        self.0.remove(key);
    }

    /// One gets no answer, for no fault of its own.
    pub fn end(&mut self, cx: &mut Context, key: Key, why: &str) {
        if let Some(one) = self.0.remove(key) {
            cx.reject(one.opened.newcomer, true, Ended::because(Ending::Refused, why));
        }
    }

    /// A client wants a session, which may be another gateway's. So many have had it
    /// before.
    pub fn seek(
        &mut self,
        cx: &mut Context,
        siblings: &mut Siblings,
        here: Option<(&mut DetachRegistry, &Sessions)>,
        opened: Box<Opened>,
        hops: u8,
    ) -> Goes {
        // Whoever cannot have one hears so here.
        let may = siblings.there_are() && opened.newcomer.seat.is_ok();
        let here = here.filter(|_| may);
        let sought = here.as_ref().and_then(|_| Sought::of(cx, &opened));
        let (Some((registry, sessions)), Some(sought)) = (here, sought) else {
            return Goes::Here(opened);
        };
        fault_injection::point("seeking");
        if opened.opening.variables.get(variables::BEGIN) == Some(b"1") {
            return self.begin(cx, siblings, opened, &sought, hops);
        }
        if hops > 0 {
            return Goes::Here(opened);
        }
        // Somebody may have named a session like another's id.
        if !sought.which.is_some_and(|which| which.is_full_id()) {
            match sought.name().and_then(|name| cx.tallies.whose(name)) {
                Some(whose) if whose == cx.ordinal => return Goes::Here(opened),
                Some(whose) => return self.hand(cx, siblings, opened, whose, hops),
                None => {}
            }
        }
        let mut best = Best::default();
        match registry.find_for_peer(sessions, &sought) {
            Some(found) if found.fits == Fits::Whole => return Goes::Here(opened),
            Some(found) => best.add(cx.ordinal, found),
            None => {}
        }
        self.ask(cx, siblings, opened, sought, best);
        Goes::Away
    }

    /// A session is to begin, if nobody has that name. Of two that come at once at
    /// two gateways one begins it, and the other one's client goes there, too.
    fn begin(
        &mut self,
        cx: &mut Context,
        siblings: &mut Siblings,
        mut opened: Box<Opened>,
        sought: &Sought,
        hops: u8,
    ) -> Goes {
        match sought.name().map(|name| cx.tallies.claim(name, 1)) {
            Some(Err(whose)) if whose != cx.ordinal => self.hand(cx, siblings, opened, whose, hops),
            name => {
                opened.name = name.and_then(Result::ok);
                Goes::Here(opened)
            }
        }
    }

    /// Asks all others.
    fn ask(
        &mut self,
        cx: &mut Context,
        siblings: &mut Siblings,
        opened: Box<Opened>,
        sought: Sought,
        best: Best,
    ) {
        let rest = cx.take_input();
        let key = self.0.insert(Seeker { opened, rest, best, asked: 0, unheard: false });
        let others: Vec<usize> = siblings.others().collect();
        let mut asked = 0;
        for whom in &others {
            let question = Question::Seek(sought.clone());
            asked += u32::from(siblings.ask(cx, *whom, question, &[], Asker::Seeker(key, *whom)));
        }
        let Some(one) = self.0.get_mut(key) else { return };
        (one.asked, one.unheard) = (asked, (asked as usize) < others.len());
        if asked == 0 {
            cx.then(Outcome::Sought(key));
        }
    }

    /// Another gateway has said what it has, or has not.
    pub fn hear(&mut self, cx: &mut Context, key: Key, whom: usize, answer: Option<&[u8]>) {
        let Some(one) = self.0.get_mut(key) else { return };
        one.asked = one.asked.saturating_sub(1);
        match answer {
            Some([]) => {}
            Some(answer) => {
                ipc::decode(answer).into_iter().for_each(|found| one.best.add(whom, found));
            }
            None => one.unheard = true,
        }
        if one.asked == 0 || one.best.is_certain() {
            cx.then(Outcome::Sought(key));
        }
    }

    /// It is known whose the session is.
    pub fn conclude(&mut self, cx: &mut Context, siblings: &mut Siblings, key: Key) -> Goes {
        let Some(one) = self.0.remove(key) else { return Goes::Away };
        let Seeker { opened, rest, best, unheard, .. } = *one;
        cx.input.clear();
        cx.input.extend_from_slice(&rest);
        let why = match best.whose() {
            Some(whose) if whose == cx.ordinal => return Goes::Here(opened),
            Some(whose) => return self.hand(cx, siblings, opened, whose, 0),
            None if unheard => NO_SUCH_HEARD,
            None => NO_SUCH,
        };
        cx.reject(opened.newcomer, true, Ended::because(Ending::Refused, why));
        Goes::Away
    }

    /// Another gateway goes on with a client. What that sent after its request stands
    /// in the turn's buffer.
    fn hand(
        &mut self,
        cx: &mut Context,
        siblings: &mut Siblings,
        mut opened: Box<Opened>,
        whom: usize,
        hops: u8,
    ) -> Goes {
        let refused = |why: &str| Ended::because(Ending::Refused, why);
        if hops >= HOPS {
            cx.reject(opened.newcomer, true, refused(MOVES));
            return Goes::Away;
        }
        // It takes one there.
        opened.newcomer.seat = Ok(None);
        let said = match memfd_message::of(&said(&opened.opening, &cx.input)) {
            Ok(said) => said,
            Err(error) => {
                let why = format!("cannot pass the client on: {}", reason(&error));
                cx.reject(opened.newcomer, true, refused(&why));
                return Goes::Away;
            }
        };
        let (door, ended) = (opened.newcomer.door, opened.ended);
        let until = (BootInstant::now() + PATIENCE).as_nanos();
        let question = Question::Take(Handed { door, until, hops: hops + 1, ended });
        let (rest, best) = (Vec::new(), Best::default());
        let key = self.0.insert(Seeker { opened, rest, best, asked: 0, unheard: false });
        let Some(one) = self.0.get(key) else { return Goes::Away };
        let descriptors = [one.opened.newcomer.client.as_fd(), said.as_fd()];
        if !siblings.ask(cx, whom, question, &descriptors, Asker::Handed(key)) {
            self.end(cx, key, SILENT);
        }
        Goes::Away
    }

    /// Another gateway has a client, or has not.
    pub fn handed(&mut self, cx: &mut Context, key: Key, answer: Option<&[u8]>) {
        match answer {
            Some(TAKEN) => {
                // It is closed here as it is, without a word: it goes on there.
                let one = self.0.remove(key);
                drop(one.map(|one| OwnedFd::from(one.opened.newcomer.client)));
            }
            Some(_) | None => self.end(cx, key, SILENT),
        }
    }
}

/// Another gateway's client, as if it had come here; `None`: it has gone on without
/// us. What it sent after its request stands in the turn's buffer.
pub fn arrives(cx: &mut Context, posed: &mut Posed, handed: Handed) -> Option<Box<Opened>> {
    let [client, said] = std::mem::take(&mut posed.passed).try_into().ok()?;
    let Handed { door, until, ended, .. } = handed;
    let rules = cx.doors.rules(door).filter(|_| BootInstant::now().as_nanos() < until)?;
    let said = memfd_message::read(said, LONGEST).ok()?;
    let (opening, rest) = heard(&said)?;
    let client = Stream::of_stranger(client);
    let transport = match client.peer_address() {
        Some(_) => Transport::Tcp,
        None => Transport::Unix,
    };
    let seat = cx.seats.take(rules, &client);
    let origin = cx.told.origin_of(door, &opening);
    cx.input.clear();
    cx.input.extend_from_slice(rest.get(..BUFFER).unwrap_or(rest));
    let newcomer = Newcomer { client, transport, door, seat, origin };
    let arrived = Passed::default();
    Some(Box::new(Opened { newcomer, opening, arrived, ended, name: None }))
}

/// What a client has said, as it would say it. (Streams that it passes are those of a
/// command, which nobody comes back to.)
fn said(opening: &Opening, rest: &[u8]) -> Vec<u8> {
    let mut said = encode_bare(HELLO, VERSION).to_vec();
    // 0 is none.
    let (rows, cols) = (opening.rows.unwrap_or(0), opening.cols.unwrap_or(0));
    said.extend(encode_rows_and_cols(rows, cols));
    variables::encode(opening.variables.iter(), &mut said);
    if let Ok(Some((verb, data))) = opening.request.clone().read() {
        request::encode(verb, &data, &mut said);
    }
    encode_input(&opening.input, &mut said);
    if opening.input_ended {
        said.extend(encode_bare(END_OF_STREAM, 0));
    }
    said.extend(encode_bare(VARIABLES, 0));
    said.extend_from_slice(rest);
    said
}

/// What is heard of that, and what comes after it.
fn heard(mut said: &[u8]) -> Option<(Opening, &[u8])> {
    let mut greeting = Greeting::default();
    loop {
        match greeting.hear(&mut said) {
            // It has had that.
            Heard::Answer(_) => {}
            Heard::Begin => return greeting.is_extended().then(|| (greeting.opening(), said)),
            Heard::Waiting | Heard::Refuse(_) | Heard::Web => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpty::proto::request::Verb;

    #[test]
    fn what_a_client_has_said_is_heard_by_another_gateway() {
        let mut bytes = encode_bare(HELLO, VERSION).to_vec();
        bytes.extend(encode_rows_and_cols(0, 99));
        request::encode(Verb::Attach, b"job", &mut bytes);
        let large = vec![b'v'; 60_000];
        let pairs = [(&b"TERM"[..], &b"foot"[..]), (b"LARGE", &large), (b"fpty.steal", b"1")];
        variables::encode(pairs, &mut bytes);
        encode_input(&[b'i'; 200_000], &mut bytes);
        bytes.extend(encode_bare(END_OF_STREAM, 0));
        bytes.extend(encode_bare(VARIABLES, 0));
        bytes.extend(encode_bare(107, 0));
        let (opening, rest) = heard(&bytes).expect("a whole request");
        let again = said(&opening, rest);
        let (twice, rest) = heard(&again).expect("a whole request");
        assert_eq!(rest, encode_bare(107, 0));
        assert_eq!((twice.rows, twice.cols, twice.extended), (None, Some(99), true));
        assert!(twice.input_ended && twice.input == opening.input);
        for (name, value) in pairs {
            assert_eq!(twice.variables.get(name), Some(value));
        }
        assert_eq!(twice.request.read(), Ok(Some((Verb::Attach, b"job".to_vec()))));
        assert!(heard(&again[..again.len() - 9]).is_none(), "cut");
        assert!(heard(b"junk").is_none() && heard(b"").is_none());
    }
}
