//! Sessions of a gateway that was here before us, which was killed or whose
//! instance was reloaded.

use std::os::fd::AsFd;

use super::super::GatewayLoop;
use super::super::fault;
use super::super::hang_up::Copies;
use super::super::recovery::Whose;
use super::super::table::{Key, Source};
use super::super::told::Said;
use super::super::traffic::{Attached, Wires};
use super::record::{Held, Record};
use super::{Alone, Entry, Over, Place, RARELY, SOON, Taken, Turned};
use crate::config::record::OnError;
use crate::session::Session;
use crate::session::keeping::Kept;
use crate::uwsgi::log::log;
use fpty::proto::{Ended, Ending};
use fpty::remains::Remains;
use fpty::sys::Size;
use fpty::sys::child::Pid;
use fpty::sys::clock::{BootInstant, Timestamp};
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::Interest;
use fpty::sys::process::Process;
use fpty::sys::pty::Master;
use fpty::sys::socket::{Stream, Transport};

/// Why a session is not recorded that is older than the option.
const NOT_RECORDED: &str = "it began before recordings did";

/// What was found.
pub type Found = Vec<(Record, Held)>;

impl GatewayLoop {
    /// Takes them up.
    pub(in crate::router) fn adopt(&mut self, found: Found) {
        for (record, held) in found {
            let (id, mut is_done) = (record.id.clone(), false);
            self.guarded(Whose::Past, |router| {
                fault::strike("adoption", || record.name.clone());
                router.adopt_one(record, held);
                is_done = true;
            });
            // Or the next gateway would panic as well.
            if let Some(left) = self.left.as_mut().filter(|_| !is_done) {
                left.store.is_over(id);
            }
        }
        self.look_at_left(SOON);
    }

    fn adopt_one(&mut self, record: Record, held: Held) -> Option<()> {
        if record.bound.is_some() {
            return self.adopt_bound(record, held);
        }
        let Record { id, name, uid, door, pid, since, attached, left: at, .. } = record;
        let Record { ended, command, turned, shared, .. } = record;
        let door = self.cx.doors.named(&door);
        let (pid, since) = (Pid::new(pid)?, Timestamp::from(since));
        let command: Option<Box<str>> = command.map(Into::into);
        let entry = |door, program, place, turned| Entry {
            command,
            ..entry(id.clone(), name, uid, door, pid, program, since, place, turned)
        };
        let Held { master, program, ring, client } = held;
        let ring = ring?;
        if let Some((ended, at)) = ended {
            let ended = Ended::read(&ended).unwrap_or(Ended::because(Ending::Lost, ""));
            let program = PidFd::reopened(pid, ring.try_clone().ok()?);
            let place = Place::Over(Over { ring, ended, at: at.into() });
            let entry = entry(door?, program, place, turned);
            self.left.as_mut()?.entries.insert(entry);
            return Some(());
        }
        let master = Master::given_back(master?, shared).ok()?;
        let program = PidFd::reopened(pid, program?);
        let allows =
            |door: &u16| self.cx.doors.rules(*door).is_some_and(|rules| rules.detach.sessions > 0);
        let Some(door) = door.filter(allows) else {
            // Nobody could come to it any more.
            if let Some(client) = client.map(Stream::of_stranger) {
                let why = "sessions cannot be left here any more (forkptyrouter-detach)";
                let _ = client.write(&Ended::because(Ending::Stopped, why).packet());
            }
            self.left.as_mut()?.store.is_over(id);
            self.programs.hang_up_terminal(
                &mut self.cx,
                &master,
                Process::held(program),
                Copies::Ended,
            );
            return None;
        };
        if let Some(why) = self.cannot_be_recorded(door, &id) {
            if let Some(client) = client.map(Stream::of_stranger) {
                let _ = client.write(&why.packet());
            }
            self.left.as_mut()?.store.is_over(id);
            self.programs.hang_up_terminal(
                &mut self.cx,
                &master,
                Process::held(program),
                Copies::Ended,
            );
            return None;
        }
        let buffer = self.cx.doors.rules(door).map_or(0, |rules| rules.detach.buffer);
        let size = master.size().unwrap_or(Size { rows: 24, cols: 80 });
        let remains = Remains::go_on(ring).ok();
        // It may have been written by anybody.
        let remains = remains.or_else(|| Remains::new(buffer as usize, size).ok())?;
        let left = self.left.as_mut()?;
        let (attached, client) = match (attached, client.map(Stream::of_stranger)) {
            (Some(attached), Some(client)) => (attached, client),
            _ => {
                let since_left = at.map_or_else(Timestamp::now, Timestamp::from);
                let alone = Alone { master, remains, since: since_left, closed: None };
                let place = Place::Alone(Box::new(alone));
                // Its client was lost with the one before us: that is now.
                let turned = if at.is_some() { turned } else { 0 };
                let key = left.entries.insert(entry(door, program, place, turned));
                self.cx.faults.made = Some(Whose::Left(key));
                let entry = left.entries.get_mut(key)?;
                let token = Source::Caller(key).token();
                let _ = left.poller.add(&entry.program, token, Interest::READ);
                if let Place::Alone(alone) = &entry.place {
                    let token = Source::Terminal(key).token();
                    let _ = left.poller.add(&alone.master, token, Interest::READ);
                }
                self.look_at_left(RARELY);
                self.tell_store(key);
                return Some(());
            }
        };
        // Its client goes on with the terminal, and has noticed nothing.
        let session = Session::resumed(size, Some(Kept { remains, hidden: false, relays: false }));
        let process = Process::held(program.try_clone().ok()?);
        let wires = Wires::new(client, master, Some(process));
        let session = self.sessions.insert(Attached::new(session, wires, Transport::Unix, door));
        let (who, since_then) = attached;
        let taken = Taken { session, uid: who, since: since_then.into(), until: None, next: None };
        let place = Place::Attached(taken);
        let key: Key = left.entries.insert(entry(door, program, place, turned));
        left.by_session.insert(session, key);
        self.cx.faults.made = Some(Whose::Session(session));
        let entry = left.entries.get_mut(key)?;
        let _ = left.poller.add(&entry.program, Source::Caller(key).token(), Interest::READ);
        let attached = self.sessions.get_mut(session)?;
        let token = Source::Client(session).token();
        let _ = self.cx.poller.add(attached.wires.client.as_fd(), token, Interest::READ);
        // The one before may have been killed before it said so.
        attached.session.say_go(&mut attached.wires);
        self.keeps_seat(session);
        let origin = self.cx.told.origin(door, "extended", Said::default);
        self.begins_again(session, origin, since);
        self.tell_store(key);
        Some(())
    }
}

impl GatewayLoop {
    /// Why a session of a gateway before us cannot go on where sessions are
    /// recorded by now: what it wrote so far, and writes past us, is in no
    /// recording.
    pub(super) fn cannot_be_recorded(&self, door: u16, id: &str) -> Option<Ended> {
        let record = &self.cx.doors.rules(door)?.record;
        record.folder.as_ref()?;
        match record.on_error {
            OnError::Close => {
                log(&format!("forkptyrouter: session {id} ends: {NOT_RECORDED}"));
                let why = format!("session ended: it cannot be recorded: {NOT_RECORDED}");
                Some(Ended::because(Ending::Lost, why))
            }
            OnError::Continue => {
                log(&format!("forkptyrouter: session {id} is not recorded: {NOT_RECORDED}"));
                None
            }
        }
    }
}

#[allow(clippy::too_many_arguments)]
pub(super) fn entry(
    id: String,
    name: String,
    uid: u32,
    door: u16,
    pid: Pid,
    program: PidFd,
    since: Timestamp,
    place: Place,
    turned: u64,
) -> Entry {
    Entry {
        id,
        name,
        uid,
        door,
        pid,
        program,
        adopted: true,
        ending: None,
        since,
        turned: Turned { place: place.rank(), at: BootInstant::from_nanos(turned) },
        place,
        command: None,
        untold: false,
        bound: None,
    }
}
