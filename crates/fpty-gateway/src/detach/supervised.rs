//! What the supervisor is told of sessions that can be left: it keeps them for the next
//! gateway.

use std::os::fd::AsFd;

use super::entry::Entry;
use super::registry::{Left, SOON};
use crate::event_loop::context::Context;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::{Key, Source};
use crate::event_loop::subject::Subject;
use crate::process::supervisor::end_record::EndRecord;
use crate::process::supervisor::protocol::{Lent, Record, SessionFds};
use crate::process::table::Programs;
use crate::session::relay::Sessions;
use fpty::sys::WriteOutcome;
use fpty::sys::child::Pid;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::Interest;
use fpty::sys::socket::Stream;

impl Entry {
    pub(crate) fn record(&self, (door, nth): (&str, usize)) -> Record {
        let since = self.state.since().into();
        let (mut attached, mut left, mut ended) = (None, None, None);
        if let Some(client) = self.state.client() {
            attached = Some((client.uid, since));
        }
        if self.state.terminal().is_some() {
            left = Some(since);
        }
        if let Some(over) = self.state.last() {
            left = Some(since);
            let payload = over.ended.packet().split_off(fpty::proto::HEADER);
            ended = Some((payload, since));
        }
        Record {
            id: self.id.as_ref().to_owned(),
            name: self.name.clone(),
            uid: self.uid,
            who: Some(self.who),
            secrets: self.secrets.kept(),
            door: door.to_owned(),
            nth,
            pid: self.pid.as_raw(),
            since: self.since.into(),
            attached,
            left,
            ended,
            turned: self.state.since().boot.as_nanos(),
            shared: true,
            ..Record::default()
        }
    }
}

impl Entry {
    /// Opens what is told to whoever keeps sessions, and was not worth a descriptor:
    /// the program, where that is our child and was not reaped, and what is kept of the
    /// output.
    ///
    /// # Errors
    /// There is no descriptor or memory for it now.
    fn open_for_store(&mut self, programs: &Programs) -> Result<Option<PidFd>, ()> {
        if let Some(alone) = self.state.terminal_mut() {
            alone.remains.open_file().map_err(drop)?;
        }
        let is_ours = self.state.program().is_some() && self.adopted().is_none();
        match is_ours && programs.has(self.pid) {
            true => PidFd::open(self.pid).map(Some).ok_or(()),
            false => Ok(None),
        }
    }

    /// Two descriptors are enough for one that nobody is attached to: there may be
    /// thousands. Whoever watches has a copy of what is kept, and is to see more.
    fn rests(&mut self) {
        if self.adopted().is_some() && self.watchers == 0 {
            if let Some(alone) = self.state.terminal_mut() {
                alone.remains.close_file();
            }
        }
    }
}

impl Left {
    /// Waits for what keeps the sessions to end.
    pub(crate) fn hear_store(&self) {
        if let Some(stream) = self.store.stream() {
            let _ = self.poller.add(stream.as_fd(), Source::Children.token(), Interest::READ);
        }
    }

    /// The next program whose session the supervisor could not keep.
    pub fn could_not_be_kept(&self) -> Option<Pid> {
        self.store.could_not_be_kept()
    }

    /// Whether the supervisor has ended.
    pub fn supervisor_is_gone(&self) -> bool {
        self.store.stream().is_none_or(Stream::has_hung_up)
    }

    /// Connects to the supervisor once more: it is another one.
    pub fn reconnect(&mut self) {
        if let Some(stream) = self.store.stream() {
            let _ = self.poller.remove(stream.as_fd());
        }
        // We have what it might have of ours.
        let _ = self.store.connect();
        self.hear_store();
    }

    /// All of them.
    pub fn keys(&self) -> Vec<Key> {
        self.entries.iter().map(|(key, _)| key).collect()
    }

    /// What keeps sessions is told that one is over, now or when it listens.
    pub fn tell_over(&mut self, cx: &mut Context, id: String) {
        if self.store.tell_over(id) {
            self.look_after(cx, SOON);
        }
    }

    /// What keeps sessions is told how it is with this one.
    pub fn tell_store(
        &mut self,
        cx: &mut Context,
        sessions: &Sessions,
        programs: &mut Programs,
        entry: Key,
    ) {
        let Some(found) = self.entries.get_mut(entry).filter(|found| found.bound.is_none()) else {
            return;
        };
        let Ok(opened) = found.open_for_store(programs) else {
            found.untold = true;
            return self.arm(cx, entry);
        };
        let mut record = found.record(cx.doors.address(found.door).unwrap_or_default());
        let client = found.state.client();
        let subject = client.map_or(Subject::Left(entry), |it| Subject::Session(it.session));
        record.command = match found.state.last() {
            Some(over) => over.command.as_deref().map(str::to_owned),
            None => cx.command_of(subject, found.door),
        };
        record.last = EndRecord::new(cx.told.in_advance(subject));
        record.story = cx.told.story(subject);
        let program = found.adopted().or(opened.as_ref()).map(AsFd::as_fd);
        let attached = client.and_then(|client| sessions.get(client.session));
        let held = match (found.state.last(), found.state.terminal(), attached) {
            (Some(over), ..) => Lent { ring: Some(over.ring.as_fd()), ..SessionFds::default() },
            (_, Some(alone), _) => {
                record.shared = alone.master.is_shared();
                record.recording = alone.recording.as_ref().map(|recording| recording.kept());
                let (master, ring) = (Some(alone.master.as_fd()), alone.remains.shared_file());
                Lent { master, program, ring, ..SessionFds::default() }
            }
            (_, _, Some(attached)) => {
                let Some(kept) = attached.session.kept() else {
                    return;
                };
                let wires = &attached.wires;
                record.shared = wires.master.is_shared() || !kept.relays;
                record.recording = wires.recording().map(|recording| recording.kept());
                // One that is relayed would miss what was on its way.
                let is_theirs = attached.session.is_handed_over();
                Lent {
                    master: Some(wires.master.as_fd()),
                    program,
                    ring: kept.remains.shared_file(),
                    client: is_theirs.then(|| wires.client.as_fd()),
                    memory: None,
                }
            }
            (None, None, None) => return,
        };
        let told = self.store.tell(&record, &held);
        if matches!(told, WriteOutcome::Bytes(_)) {
            cx.told.entrusted(subject, true);
        }
        found.untold = told == WriteOutcome::WouldBlock;
        let pid = found.pid;
        match told {
            WriteOutcome::WouldBlock => self.arm(cx, entry),
            WriteOutcome::Bytes(_) => {
                found.rests();
                programs.entrusted(pid);
            }
            WriteOutcome::Closed => {}
        }
    }

    /// A terminal was handed over to its client: if that can leave, whoever
    /// keeps the session is told. Whether it can.
    pub fn handed_over_for_a_while(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        programs: &mut Programs,
        session: Key,
    ) -> bool {
        let Some(entry) = self.index.of_session(session) else {
            return false;
        };
        if let Some(found) = self.entries.get_mut(entry) {
            found.state.arrive();
            found.secrets.settle();
        }
        self.tell_store(cx, sessions, programs, entry);
        sessions.say_go(session);
        cx.then(Outcome::Settle(session));
        true
    }
}
