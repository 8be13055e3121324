//! A session as an entry of a list or of the statistics: read when somebody asks, and not
//! before. Unknown values are null.

use std::sync::Arc;
use std::time::SystemTime;

use super::gateway_sessions::GatewaySessions;
use super::session_view::SessionView;
use crate::detach::EntryView;
use crate::event_loop::context::Context;
use crate::observe::audit::line::{AuditLine, Format, SHORT, Value};
use crate::observe::audit::timestamp::rfc3339;
use crate::observe::audit::{Peer, SessionInfo, write_peer};
use crate::session::session_ref::SessionRef;
use fpty::sys::child::Pid;
use fpty::sys::clock::Timestamp;
use fpty::sys::procfs;
use fpty::sys::pty::Master;

/// The most bytes of a command, and of an address.
const COMMAND: usize = 1000;
const ADDRESS: usize = 400;

/// Snapshot of a session.
struct Snapshot<'a> {
    cx: &'a Context,
    session_ref: SessionRef,
    id: String,
    /// The owner, where that is known.
    uid: Option<u32>,
    user: Option<Arc<str>>,
    info: Option<&'a SessionInfo>,
    /// The session's view, where it is attached.
    view: Option<SessionView<'a>>,
    /// The session's view as one that can be detached.
    detachable: Option<EntryView<'a>>,
    /// The listener that the session started at.
    listener: u16,
    /// The program's pid, while it runs: that of an ended one may be reused.
    pid: Option<i32>,
    /// The terminal's master.
    master: Option<&'a Master>,
}

impl GatewaySessions<'_> {
    /// The entry of a list, as JSON.
    pub(crate) fn entry(self, cx: &mut Context, session_ref: SessionRef) -> Option<String> {
        let snapshot = self.snapshot(cx, session_ref)?;
        let peer = snapshot.view.as_ref().and_then(|view| view.client.credentials());
        let pid = peer.and_then(|peer| u32::try_from(peer.pid).ok()).filter(|pid| *pid > 0);
        let mut line = AuditLine::new(Format::Json, "");
        line.field("id", Value::Text(&snapshot.id, SHORT))
            .field("user", Value::text(snapshot.user.as_deref(), SHORT))
            .field("uid", Value::number(peer.map(|peer| peer.uid).or(snapshot.uid)))
            .field("peer_pid", Value::number(pid))
            .field("socket", Value::Text(&snapshot.socket(), ADDRESS));
        snapshot.fields(&mut line);
        Some(line.finish())
    }

    /// The entry of the statistics, as JSON: with the names of the audit.
    pub(crate) fn statistics_of(self, cx: &mut Context, session_ref: SessionRef) -> Option<String> {
        let snapshot = self.snapshot(cx, session_ref)?;
        let user = snapshot.user.clone();
        let owner = || Peer { uid: snapshot.uid, user, ..Peer::default() };
        let attached = snapshot.info.filter(|_| snapshot.view.is_some());
        let peer = attached.map_or_else(owner, |info| info.history.last_client().clone());
        let ids = snapshot.info.map(|info| (info.history.uid, info.history.gid));
        let (uid, gid) = ids.or_else(|| snapshot.cx.audit.ids_at(snapshot.listener)).unzip();
        let mode = snapshot.info.map(|info| info.history.mode).unwrap_or_default();
        let term = snapshot.info.and_then(|info| info.history.claimed.term.as_deref());
        let last = snapshot.view.as_ref().map_or((Some(0), Some(0)), |view| view.bytes);
        let (input, output) =
            snapshot.info.map(|info| info.history.bytes_with(last)).unwrap_or_default();
        let is_handed_over = snapshot.view.as_ref().is_some_and(|it| it.is_handed_over);
        let mut line = AuditLine::new(Format::Json, "");
        line.field("id", Value::Text(&snapshot.id, SHORT));
        write_peer(&mut line, &snapshot.socket(), mode, &peer);
        line.field("uid", Value::number(uid)).field("gid", Value::number(gid));
        snapshot.fields(&mut line);
        line.field("term", Value::text(term, SHORT))
            .field("handed_over", Value::Bool(is_handed_over))
            .field("recorded", Value::Bool(snapshot.info.is_some_and(|info| info.recorded)))
            .field("bytes_in", Value::number(input))
            .field("bytes_out", Value::number(output));
        Some(line.finish())
    }

    fn snapshot<'a>(
        &'a self,
        cx: &'a mut Context,
        session_ref: SessionRef,
    ) -> Option<Snapshot<'a>> {
        let uid = self.user_of(session_ref)?;
        // Where nobody has asked for it yet: an answer may come for the next list.
        let user = uid.and_then(|uid| cx.audit.user_names.of(uid));
        let (cx, id) = (&*cx, self.id_of(cx, session_ref));
        let info = cx.audit.of(session_ref);
        let (view, detachable) = (self.view(session_ref, info), self.detachable(session_ref));
        let (listener, pid, master) = match (&view, &detachable) {
            (Some(view), _) => (view.listener, view.pid.map(Pid::as_raw), view.master),
            (None, Some(entry)) => {
                (entry.listener, entry.status.is_none().then_some(entry.pid), entry.master)
            }
            (None, None) => return None,
        };
        Some(Snapshot {
            cx,
            session_ref,
            id,
            uid,
            user,
            info,
            view,
            detachable,
            listener,
            pid,
            master,
        })
    }
}

impl Snapshot<'_> {
    /// The address of the listener.
    fn socket(&self) -> String {
        let gone = self.detachable.as_ref().and_then(|entry| entry.socket);
        let listener =
            || self.cx.listeners.get(self.listener).map(|listener| listener.name.clone());
        gone.map(str::to_owned).or_else(listener).unwrap_or_default()
    }

    fn command(&self) -> Option<String> {
        let kept = self.detachable.as_ref().and_then(|entry| entry.command);
        kept.map(str::to_owned).or_else(|| self.cx.command_of(self.session_ref, self.listener))
    }

    fn started(&self) -> Option<SystemTime> {
        match (self.detachable.as_ref().filter(|entry| !entry.ends_with_client), self.info) {
            (Some(entry), _) => Some(entry.since.wall),
            (None, Some(info)) => Some(info.started.wall),
            (None, None) => Some(Timestamp::from(procfs::started(self.pid?)?).wall),
        }
    }

    /// The fields that lists and statistics both have.
    fn fields(&self, line: &mut AuditLine) {
        let (entry, master) = (self.detachable.as_ref(), self.master);
        let (tty, size) = (master.and_then(Master::slave_name), master.and_then(Master::size));
        let idle = match &self.view {
            Some(view) => view.idle,
            None => master.and_then(Master::idle_time),
        };
        let started = self.started().map(rfc3339);
        let since = entry.and_then(|entry| entry.detached_at).map(|time| rfc3339(time.wall));
        let status = entry.and_then(|entry| entry.status);
        let name = entry.map(|entry| entry.name).filter(|name| !name.is_empty());
        line.field("command", Value::text(self.command().as_deref(), COMMAND))
            .field("pid", Value::number(self.pid.and_then(|pid| u32::try_from(pid).ok())))
            .field("tty", Value::text(tty.as_deref(), SHORT))
            .field("rows", Value::number(size.map(|size| size.rows)))
            .field("cols", Value::number(size.map(|size| size.cols)))
            .field("started", Value::text(started.as_deref(), SHORT))
            .field("idle", idle.map_or(Value::Null, Value::Seconds))
            .field("name", Value::text(name, SHORT))
            .field("attached", Value::Bool(self.view.is_some()))
            .field("detached_since", Value::text(since.as_deref(), SHORT))
            .field("ended", Value::Bool(status.is_some()))
            .field("status", Value::number(status))
            .field("watchers", Value::Number(entry.map_or(0, |entry| entry.viewers).into()));
    }
}
