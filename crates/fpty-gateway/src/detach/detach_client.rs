//! A client leaves a session, or is lost: the session goes on.

use std::os::fd::{AsFd, OwnedFd};

use super::attach_client::HAS_ENDED;
use super::detached::read_the_rest;
use super::entry::{Alone, Client, Entry, Over, WithoutClient, terminal_size, without_client};
use super::registry::Left;
use super::state::{self, Remnants};
use crate::connection::shared_counts::Tally;
use crate::event_loop::context::Context;
use crate::event_loop::fault_injection;
use crate::event_loop::slab::{Key, Source};
use crate::log::log;
use crate::observe::audit;
use crate::process::hang_up::Copies;
use crate::process::table::Programs;
use crate::session::relay::{Attached, Sessions};
use fpty::error::reason;
use fpty::proto::SessionEnd;
use fpty::scrollback::ScrollbackWriter;
use fpty::sys::clock::Timestamp;
use fpty::sys::poll::Interest;
use fpty::sys::socket::Stream;

/// Why a client stays where it may not leave.
pub const NOT_ALLOWED: &str = "it is not allowed here (forkptyrouter-detach)";

/// Why a session is to go on without its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The client asks for it.
    Asked,
    /// The client is lost.
    Lost,
    /// The client does not answer, or does not go when it has to.
    LetGo,
    /// The session is over, and its client has all that it will get.
    Closes,
}

/// What becomes of a session without its client.
#[must_use]
pub enum Parting {
    /// It ends with it.
    Ends,
    /// The client stays: why.
    Stays(String),
    /// It goes on. All that takes is there already.
    GoesOn(Leaves, audit::Parted),
}

/// What a client leaves.
pub enum Leaves {
    /// The program, which runs, and what is kept of its output: this instead of what
    /// there was, where somebody has written nonsense into that.
    Terminal(Option<Box<ScrollbackWriter>>),
    /// The program has ended so, and nobody was told.
    End(SessionEnd),
}

impl Left {
    /// The id of a session that can be left: whoever comes back gets the same.
    pub fn left_id(&self, session: Key) -> Option<String> {
        let entry = self.index.of_session(session)?;
        self.entries.get(entry).map(|entry| entry.id.as_ref().to_owned())
    }

    /// A place among those without a client, or why it gets none.
    fn place(&self, cx: &Context, door: u16, entry: Option<&Entry>) -> Result<[Tally; 2], String> {
        let detach = cx.doors.rules(door).map(|rules| &rules.detach);
        let most = detach.map_or(0, |detach| u64::from(detach.sessions));
        let most_of_one = detach.map_or(0, |detach| detach.of_one_user() as u64);
        if most == 0 {
            return Err(NOT_ALLOWED.to_owned());
        }
        let Some(uid) = entry.map(|entry| entry.uid) else {
            return Err(String::from("this session cannot be left"));
        };
        let all = self.tallies.claim(WithoutClient::All(door), most);
        let all = all.map_err(|_| format!("{most} sessions are without a client already"))?;
        // root may have all of them.
        let most_of_one = if uid == 0 { most } else { most_of_one };
        let own = self.tallies.claim(WithoutClient::Own(door, uid), most_of_one);
        let own = own.map_err(|_| {
            let before = self.tallies.sum(WithoutClient::Own(door, uid));
            format!("{before} sessions of yours are without a client already (detach-user)")
        })?;
        Ok([all, own])
    }

    /// What becomes of a session whose client leaves, or is lost. What it takes to go
    /// on is there before anybody is told that it does.
    pub fn parting(
        &mut self,
        cx: &Context,
        sessions: &mut Sessions,
        session: Key,
        why: Why,
    ) -> Parting {
        let key = self.index.of_session(session);
        let entry = key.and_then(|key| self.entries.get(key)).filter(|it| it.bound.is_none());
        let Some(attached) = sessions.get_mut(session) else {
            return Parting::Ends;
        };
        let next = entry.and_then(|entry| entry.state.next());
        let somebody_waits = next.is_some();
        let how = match (next, why) {
            // Its client has lost this connection, and has come by another.
            (Some(waiting), _) if waiting.came_with.is_some() => audit::Parted::Lost,
            (Some(waiting), _) => audit::Parted::Stolen(waiting.uid),
            (None, Why::Asked) => audit::Parted::Asked,
            (None, Why::Lost | Why::LetGo | Why::Closes) => audit::Parted::Lost,
        };
        let place = match (entry, why) {
            // Who waits has it at once: it is not without a client for long.
            (Some(entry), _) if why == Why::LetGo || somebody_waits => {
                Some(without_client(&self.tallies, entry.door, entry.uid))
            }
            (_, Why::Asked) => match self.place(cx, attached.door, entry) {
                Ok(place) => Some(place),
                Err(why_not) => return Parting::Stays(why_not),
            },
            (Some(_), Why::Lost) => self.place(cx, attached.door, entry).ok(),
            (None, Why::Lost) | (_, Why::LetGo | Why::Closes) => None,
        };
        let (Some(key), Some(entry)) = (key, entry) else {
            return Parting::Ends;
        };
        // Whoever ended it meant the session.
        if attached.session.dismissed().is_some() {
            return Parting::Ends;
        }
        if let Some(ended) = attached.session.take_untold_end(somebody_waits) {
            return Parting::GoesOn(Leaves::End(ended), how);
        }
        let may_not = why == Why::Lost && !somebody_waits && !attached.session.may_go_on_alone();
        if why == Why::Closes || may_not || place.is_none() || attached.wires.program.is_none() {
            return Parting::Ends;
        }
        match self.reserve(cx, attached, key) {
            Ok(remains) => {
                if let Some(entry) = self.entries.get_mut(key) {
                    entry.counts = place;
                }
                Parting::GoesOn(Leaves::Terminal(remains), how)
            }
            Err(error) if why == Why::Asked => Parting::Stays(error),
            Err(error) => {
                let id = &entry.id;
                log(&format!("forkptyrouter: session {id} cannot go on without a client: {error}"));
                Parting::Ends
            }
        }
    }

    /// All that a terminal takes that is to go on without a client.
    fn reserve(
        &self,
        cx: &Context,
        attached: &mut Attached,
        key: Key,
    ) -> Result<Option<Box<ScrollbackWriter>>, String> {
        fault_injection::point("reserving");
        let is_theirs = attached.session.is_handed_over();
        let kept = attached.session.kept_mut();
        // It may have been written by anybody.
        let is_good = kept.is_some_and(|kept| !is_theirs || kept.remains.catch_up().is_ok());
        let remains = match is_good {
            true => None,
            false => {
                let buffer = cx.doors.rules(attached.door).map_or(0, |rules| rules.detach.buffer);
                let size = terminal_size(Some(&attached.wires.master));
                let made = ScrollbackWriter::new(buffer as usize, size);
                Some(Box::new(made.map_err(|error| error.to_string())?))
            }
        };
        let (master, token) = (attached.wires.master.as_fd(), Source::Terminal(key).token());
        let waits = self.poller.add(master, token, Interest::READ);
        waits.map_err(|error| format!("cannot wait for its terminal: {}", reason(&error)))?;
        Ok(remains)
    }

    /// A session goes on without its client, or what is left of it. Returns that client,
    /// where it can be told: when all others know.
    pub fn goes_on_without(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        programs: &mut Programs,
        session: Key,
        leaves: Leaves,
        how: audit::Parted,
    ) -> Option<Stream> {
        let key = self.index.of_session(session)?;
        match leaves {
            Leaves::Terminal(remains) => {
                let mut attached = sessions.detach(cx, session, key, how)?;
                fault_injection::point("leaving");
                attached.leave_to_nobody(cx);
                self.goes_on(cx, sessions, programs, key, *attached, remains)
            }
            Leaves::End(ended) => {
                let ring = last_output(cx, sessions, session);
                let command = self.command_of(cx, key);
                self.unwatch(cx, key, &ended);
                let mut attached = sessions.end(cx, session);
                if let Some(attached) = &mut attached {
                    attached.leave_to_nobody(cx);
                }
                match ring {
                    Some(ring) => {
                        let last = Over { ring, ended, command };
                        self.end_now(cx, sessions, programs, key, last);
                    }
                    None => self.forget_entry(cx, key),
                }
                let Attached { mut session, mut wires, .. } = *attached?;
                session.leaves_client(&mut wires).then_some(wires.client)
            }
        }
    }

    fn goes_on(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        programs: &mut Programs,
        key: Key,
        attached: Attached,
        remains: Option<Box<ScrollbackWriter>>,
    ) -> Option<Stream> {
        let was_theirs = attached.session.is_handed_over();
        let Attached { mut session, mut wires, .. } = attached;
        if let Some(entry) = self.entries.get_mut(key).filter(|_| !session.is_hidden()) {
            entry.secrets.settle();
        }
        let may_hear = session.leaves_client(&mut wires);
        // It goes on with the terminal.
        let recording = wires.traffic.as_mut().and_then(|traffic| traffic.recording.take());
        let master = wires.master;
        if master.is_shared() {
            master.take_back();
        }
        let kept = remains.map(|remains| *remains);
        let Some(mut remains) = kept.or_else(|| Some(session.take_kept()?.remains)) else {
            self.forget_entry(cx, key);
            return None;
        };
        if was_theirs {
            // What came since, and before its client was told. Where that makes no sense
            // it goes on from where it did.
            let _ = remains.catch_up();
        } else {
            // What was asked while the client was there its terminal has answered. (Of
            // what comes from the client only what it had not counted is looked at.)
            remains.take_da1_request();
        }
        let alone = Box::new(Alone::new(master, remains, recording));
        let next = sessions.vacant_key();
        let left = self.change(key, |entry| {
            let client = |uid: u32| Client { session: next, uid };
            entry.state.leaves(alone, |waiting| client(waiting.uid), Timestamp::now())
        });
        match left {
            Some(state::Left::Next(alone, waiting)) => {
                self.begins(cx, sessions, programs, key, alone, *waiting);
            }
            Some(state::Left::Alone) => {
                self.tell_store(cx, sessions, programs, key);
                self.arm(cx, key);
            }
            // There is no such session any more.
            Some(state::Left::Nobody(alone)) => {
                let _ = self.poller.remove(&alone.master);
                if let Some(program) = wires.program {
                    programs.hang_up_terminal(cx, &alone.master, program, Copies::Ended);
                }
            }
            None => {}
        }
        may_hear.then_some(wires.client)
    }

    /// The program of a session has ended, and this is left.
    pub(crate) fn end_now(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        programs: &mut Programs,
        key: Key,
        last: Over,
    ) {
        let waited = self.change(key, |entry| entry.state.ends(last, Timestamp::now()));
        self.bound_ended(cx);
        self.tell_store(cx, sessions, programs, key);
        self.arm(cx, key);
        if let Some(Some(waiting)) = waited {
            self.watch(cx, sessions, programs, key, *waiting);
        }
    }

    /// A session with a client is over, whoever ended it.
    pub fn forget_left(&mut self, cx: &mut Context, session: Key) {
        if let Some(key) = self.index.of_session(session) {
            self.forget_entry(cx, key);
        }
    }

    fn forget_entry(&mut self, cx: &mut Context, key: Key) {
        let Some(entry) = self.remove(cx, key) else {
            return;
        };
        if let Some(waiting) = entry.state.forgotten().newcomer {
            waiting.refuse(cx, HAS_ENDED);
        }
    }

    /// After a panic: sessions whose client is none any more are over.
    pub fn end_lost_entries(
        &mut self,
        cx: &mut Context,
        sessions: &Sessions,
        programs: &mut Programs,
    ) {
        let is_lost =
            |entry: &Entry| entry.state.client().is_some_and(|it| !sessions.has(it.session));
        let all = self.entries.iter();
        let lost: Vec<Key> = all.filter(|(_, one)| is_lost(one)).map(|(key, _)| key).collect();
        for key in lost {
            let Some(entry) = self.remove(cx, key) else {
                continue;
            };
            let Remnants { program, newcomer: waiting, .. } = entry.state.forgotten();
            // Of ours nobody has the programs any more: see hang_up_orphans.
            if let Some(pidfd) = program.and_then(|program| program.pidfd) {
                programs.killing.end_program(cx, pidfd);
            }
            if let Some(waiting) = waiting {
                waiting.refuse(cx, HAS_ENDED);
            }
        }
    }
}

impl Attached {
    /// Nobody has its tokens any more, and others may have copies.
    fn leave_to_nobody(&mut self, cx: &Context) {
        let _ = cx.poller.remove(self.wires.client.as_fd());
        self.forget_terminal(&cx.poller);
    }
}

/// What is left of a session whose program has ended, and whose client went before it
/// was told: the next one is.
fn last_output(cx: &mut Context, sessions: &mut Sessions, session: Key) -> Option<OwnedFd> {
    let attached = sessions.get_mut(session)?;
    let was_theirs = attached.session.is_handed_over();
    let mut kept = attached.session.take_kept()?.remains;
    if was_theirs {
        kept.catch_up().ok()?;
        // What it wrote last.
        attached.wires.master.take_back();
    }
    let recording = attached.wires.recording().map(AsRef::as_ref);
    read_the_rest(cx, &attached.wires.master, &mut kept, recording);
    kept.share_file().ok()
}
