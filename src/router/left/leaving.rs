//! A client leaves a session, or is lost: the session goes on.

use std::os::fd::AsFd;

use super::super::GatewayLoop;
use super::super::doors::Newcomer;
use super::super::fault;
use super::super::recovery::Whose;
use super::super::table::{Key, Source};
use super::super::told::Subject;
use super::super::traffic::Attached;
use super::alone::{LAST_READS, ONE_READ};
use super::{Alone, Entry, Over, Place, RARELY, Taken, Turned};
use crate::config::rules::Rules;
use crate::session::greeting::Opening;
use crate::session::keeping::Kept;
use fpty::proto::{Ended, Ending, is_name, variables};
use fpty::remains::Remains;
use fpty::sys::clock::Timestamp;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::Interest;
use fpty::sys::process::Process;
use fpty::sys::socket::Transport;
use fpty::sys::{Read, Size};

/// What a new session is to be called, and whose it is.
pub struct Wish {
    uid: u32,
    name: String,
}

impl GatewayLoop {
    /// Whether a client can leave the session that it is about to begin:
    /// `None`: not.
    ///
    /// # Errors
    /// It is to have a name that it cannot have: why there is no session.
    pub(in crate::router) fn may_leave(
        &self,
        newcomer: &Newcomer,
        opening: &Opening,
    ) -> Result<Option<Wish>, Ended> {
        let refused = |why: &str| Err(Ended::because(Ending::Refused, why));
        let allows = |rules: &Rules| rules.detach.sessions > 0;
        let is_allowed = self.cx.doors.rules(newcomer.door).is_some_and(allows);
        let Some(left) = self.left.as_ref().filter(|_| is_allowed) else {
            return Ok(None);
        };
        let name = opening.variables.get(variables::SESSION_NAME).unwrap_or_default();
        if !name.is_empty() && !is_name(name) {
            return refused("a session's name has letters, digits, '.', '_' and '-', at most 64");
        }
        if opening.variables.get(variables::CAN_LEAVE) != Some(b"1") {
            return Ok(None);
        }
        let is_known = newcomer.transport == Transport::Unix;
        let uid = is_known.then(|| newcomer.client.peer_uid()).flatten();
        let Some(uid) = uid else {
            return Ok(None);
        };
        let name = String::from_utf8_lossy(name).into_owned();
        if !name.is_empty() && !left.is_free(newcomer.door, uid, &name) {
            return refused(&format!("there is a session {name} of yours (fpty -a {name})"));
        }
        Ok(Some(Wish { uid, name }))
    }

    /// The session that has just begun can be left from now on, where there is
    /// the memory for it. Whether it can.
    pub(in crate::router) fn can_be_left(
        &mut self,
        key: Key,
        wish: Wish,
        size: Size,
        relays: bool,
    ) -> bool {
        let id = self.cx.ids.of(key);
        let (Some(left), Some(attached)) = (&mut self.left, self.sessions.get_mut(key)) else {
            return false;
        };
        let door = attached.door;
        let command = self.cx.command_of(Subject::Session(key), door).map(Into::into);
        let Attached { session, wires, .. } = attached;
        let (Some(pid), Some(rules)) =
            (wires.program.as_ref().map(Process::pid), self.cx.doors.rules(door))
        else {
            return false;
        };
        // Up to 64 MB.
        let remains = Remains::new(rules.detach.buffer as usize, size);
        let (Ok(remains), Some(program)) = (remains, PidFd::open(pid)) else {
            session.notice("this session cannot be left: out of memory", wires);
            return false;
        };
        session.keep(Kept { remains, hidden: false, relays });
        let Wish { uid, name } = wish;
        let taken = Taken { session: key, uid, since: Timestamp::now(), until: None, next: None };
        let entry = left.entries.insert(Entry {
            id,
            name,
            uid,
            door,
            pid,
            program,
            adopted: false,
            ending: None,
            since: Timestamp::now(),
            place: Place::Attached(taken),
            command,
            untold: false,
            turned: Turned::default(),
            bound: None,
        });
        left.by_session.insert(key, entry);
        self.tell_store(entry);
        true
    }

    /// The client asks to leave.
    pub(in crate::router) fn client_leaves(&mut self, key: Key) {
        let why_not = match self.why_not(key) {
            Some(why) => why,
            None => {
                if let (Some(id), Some(attached)) = (self.left_id(key), self.sessions.get_mut(key))
                {
                    let told = Ended::because(Ending::Detached, id);
                    attached.session.part_from_client(&told, &mut attached.wires);
                }
                if self.leave(key) {
                    return;
                }
                return self.sessions.abandon(&mut self.cx, &mut self.programs, key);
            }
        };
        if let Some(attached) = self.sessions.get_mut(key) {
            let behind = self.cx.behind.has(key);
            attached.session.stays(&why_not, behind, &mut attached.wires);
        }
        self.settle(key);
    }

    /// The id of a session that can be left: whoever comes back gets the same.
    pub(in crate::router) fn left_id(&self, session: Key) -> Option<String> {
        let left = self.left.as_ref()?;
        let entry = left.by_session.get(&session)?;
        left.entries.get(*entry).map(|entry| entry.id.clone())
    }

    fn why_not(&mut self, key: Key) -> Option<String> {
        let attached = self.sessions.get_mut(key)?;
        let (transport, door) = (attached.transport, attached.door);
        let detach = self.cx.doors.rules(door).map(|rules| &rules.detach);
        let most = detach.map_or(0, |detach| detach.sessions as usize);
        let most_of_one = detach.map_or(0, |detach| detach.of_one_user());
        let Some(left) = self.left.as_ref().filter(|_| most > 0) else {
            return Some(String::from("it is not allowed here (forkptyrouter-detach)"));
        };
        if transport != Transport::Unix {
            return Some(String::from("over TCP nobody knows whose session it would be"));
        }
        let entry = left.by_session.get(&key).and_then(|entry| left.entries.get(*entry));
        let entry = entry.filter(|entry| entry.bound.is_none());
        let Some(uid) = entry.map(|entry| entry.uid) else {
            return Some(String::from("this session cannot be left"));
        };
        let (all, own) = left.alone(door, uid);
        if all >= most {
            return Some(format!("{most} sessions are without a client already"));
        }
        // root may have all of them.
        (own >= most_of_one && uid != 0)
            .then(|| format!("{own} sessions of yours are without a client already (detach-user)"))
    }

    /// A client is lost: its session goes on where that is allowed. Whether it
    /// does.
    pub(in crate::router) fn leave_if_possible(&mut self, key: Key) -> bool {
        if self.ends_untold(key) {
            return true;
        }
        let Some(left) = self.left.as_ref().filter(|left| left.has(key)) else {
            return false;
        };
        // Somebody waits for it: it is not without a client for long.
        let somebody_waits = left.by_session.get(&key).is_some_and(|entry| {
            left.entries.get(*entry).is_some_and(
                |entry| matches!(&entry.place, Place::Attached(taken) if taken.next.is_some()),
            )
        });
        if somebody_waits {
            return self.leave(key);
        }
        let may = |attached: &Attached| attached.session.may_go_on_alone();
        self.sessions.get_mut(key).is_some_and(|attached| may(attached))
            && self.why_not(key).is_none()
            && self.leave(key)
    }

    /// A client does not answer, or does not go: it is let go.
    pub(super) fn leave_after_all(&mut self, key: Key) {
        if !self.ends_untold(key) && !self.leave(key) {
            self.sessions.abandon(&mut self.cx, &mut self.programs, key);
        }
    }

    /// A program has ended, and its client went before it was told: the next one
    /// is. Whether that is so.
    fn ends_untold(&mut self, key: Key) -> bool {
        let entry = self.left.as_ref().and_then(|left| left.by_session.get(&key).copied());
        let (Some(entry), Some(attached)) = (entry, self.sessions.get_mut(key)) else {
            return false;
        };
        let Some(ended) = attached.session.take_untold_end() else {
            return false;
        };
        let was_theirs = attached.session.is_handed_over();
        let kept = attached.session.take_kept().map(|kept| kept.remains);
        let kept =
            kept.and_then(|mut kept| (!was_theirs || kept.catch_up().is_ok()).then_some(kept));
        let ring = kept.and_then(|mut kept| {
            // What it wrote last.
            if was_theirs {
                attached.wires.master.take_back();
            }
            let _armed = attached.wires.master.arm();
            let buffer = &mut self.cx.buffer[..ONE_READ];
            for _ in 0..LAST_READS {
                let Read::Bytes(count) = attached.wires.master.read(buffer) else { break };
                kept.keep(&buffer[..count]);
                if let Some(recording) = attached.wires.recording() {
                    recording.output(&buffer[..count]);
                }
            }
            kept.as_fd().try_clone_to_owned().ok()
        });
        let ended_session = self.sessions.end(&mut self.cx, key);
        let (Some(left), Some(mut attached)) = (&mut self.left, ended_session) else {
            return false;
        };
        left.by_session.remove(&key);
        // Others may have copies.
        attached.forget_terminal(&self.cx.poller);
        let before = match (ring, left.entries.get_mut(entry)) {
            (Some(ring), Some(found)) => std::mem::replace(
                &mut found.place,
                Place::Over(Over { ring, ended, at: Timestamp::now() }),
            ),
            _ => match left.remove(entry) {
                Some(removed) => removed.place,
                None => return true,
            },
        };
        left.bound_ended();
        self.tell_store(entry);
        self.look_at_left(RARELY);
        if let Place::Attached(Taken { next: Some((waiting, _)), .. }) = before {
            self.come_next(entry, *waiting);
        }
        true
    }

    /// A session goes on without its client. Whether it does.
    fn leave(&mut self, key: Key) -> bool {
        let has_program = |attached: &mut Attached| attached.wires.program.is_some();
        let has_entry = self.left.as_ref().is_some_and(|left| left.has(key));
        if !has_entry || !self.sessions.get_mut(key).is_some_and(has_program) {
            return false;
        }
        let Some(left) = &mut self.left else {
            return false;
        };
        let Some(entry) = left.by_session.get(&key).copied() else {
            return false;
        };
        // It goes on with the terminal.
        let traffic = self.sessions.get_mut(key).and_then(|it| it.wires.traffic.as_mut());
        let recording = traffic.and_then(|traffic| traffic.recording.take());
        // Its client has gone, and its place is free.
        let Some(mut attached) = self.sessions.end(&mut self.cx, key) else {
            return false;
        };
        left.by_session.remove(&key);
        fault::point("leaving");
        // Nobody has its tokens any more.
        let _ = self.cx.poller.remove(attached.wires.client.as_fd());
        attached.forget_terminal(&self.cx.poller);
        let was_theirs = attached.session.is_handed_over();
        let buffer = self.cx.doors.rules(attached.door).map_or(0, |rules| rules.detach.buffer);
        let Attached { mut session, wires, .. } = *attached;
        if wires.master.is_shared() {
            wires.master.take_back();
        }
        let size = wires.master.size().unwrap_or(Size { rows: 24, cols: 80 });
        let kept = session.take_kept().map(|kept| kept.remains);
        // It may have been written by anybody.
        let kept =
            kept.and_then(|mut kept| (!was_theirs || kept.catch_up().is_ok()).then_some(kept));
        let mut remains = kept.map_or_else(|| Remains::new(buffer as usize, size).ok(), Some);
        // What was asked while the client was there its terminal has answered. (Of
        // what comes from the client only what it had not counted is looked at.)
        if let Some(remains) = remains.as_mut().filter(|_| !was_theirs) {
            remains.take_asked();
        }
        let (Some(remains), Some(found)) = (remains, left.entries.get_mut(entry)) else {
            if let Some(recorder) = &mut self.recorder {
                recorder.end(&mut self.cx, recording, None, None);
            }
            return false;
        };
        let master = wires.master;
        let token = Source::Terminal(entry).token();
        let _ = left.poller.add(master.as_fd(), token, Interest::READ);
        if let Some(recording) = &recording {
            recording.belongs_to(Whose::Left(entry));
        }
        let (since, closed) = (Timestamp::now(), None);
        let alone = Box::new(Alone { master, remains, since, closed, recording });
        let before = std::mem::replace(&mut found.place, Place::Alone(alone));
        self.tell_store(entry);
        self.look_at_left(RARELY);
        if let Place::Attached(Taken { next: Some((waiting, _)), .. }) = before {
            self.come_next(entry, *waiting);
        }
        true
    }

    /// A session is over, whoever ended it.
    pub(in crate::router) fn forget_left(&mut self, session: Key) {
        let Some(left) = self.left.as_mut().filter(|left| left.has(session)) else {
            return;
        };
        let Some(entry) = left.by_session.remove(&session) else {
            return;
        };
        let Some(entry) = left.remove(entry) else {
            return;
        };
        if let Place::Attached(Taken { next: Some((waiting, _)), .. }) = entry.place {
            self.refuse_waiting(*waiting);
        }
    }

    /// After a panic: sessions whose client is none any more are over.
    pub(in crate::router) fn end_lost_entries(&mut self) {
        let Some(left) = &mut self.left else {
            return;
        };
        let sessions = &self.sessions;
        let is_lost = |entry: &Entry| match &entry.place {
            Place::Attached(taken) => !sessions.has(taken.session),
            Place::Alone(_) | Place::Over(_) => false,
        };
        let all = left.entries.iter();
        let lost: Vec<Key> = all.filter(|(_, one)| is_lost(one)).map(|(key, _)| key).collect();
        let found: Vec<_> = lost.into_iter().filter_map(|key| left.remove(key)).collect();
        let entries = &left.entries;
        left.by_session.retain(|_, entry| entries.has(*entry));
        for entry in found {
            let Entry { program, adopted, place, .. } = *entry;
            // Of ours nobody has the programs any more: see hang_up_orphans.
            if adopted {
                self.programs.end_program(&mut self.cx, program);
            }
            if let Place::Attached(Taken { next: Some((waiting, _)), .. }) = place {
                self.refuse_waiting(*waiting);
            }
        }
    }
}
