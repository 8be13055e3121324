//! A session as lists and statistics have it: described when somebody asks, and
//! not before. What is not known is null.

use std::time::SystemTime;

use super::session_view::SessionView;
use super::sessions::View;
use crate::detach::EntryView;
use crate::event_loop::context::Context;
use crate::event_loop::subject::Subject;
use crate::observe::audit::line::{Format, Line, Value};
use crate::observe::audit::timestamp::rfc3339;
use crate::observe::audit::{Facts, Peer, of_peer};
use fpty::sys::child::Pid;
use fpty::sys::clock::Timestamp;
use fpty::sys::procfs;
use fpty::sys::pty::Master;

/// So many bytes of a command are shown, of an address, and of what has a bound
/// of its own.
const COMMAND: usize = 1000;
const ADDRESS: usize = 400;
const SHORT: usize = 64;

/// What is known of a session now.
struct Now<'a> {
    subject: Subject,
    facts: Option<&'a Facts>,
    /// What it has with its client.
    described: Option<SessionView<'a>>,
    /// What it has as one that can be left, or was.
    left: Option<EntryView<'a>>,
    /// Where it began.
    door: u16,
}

impl View<'_> {
    /// A session as a list has it, as JSON.
    pub(crate) fn entry(self, cx: &mut Context, subject: Subject) -> Option<String> {
        let uid = self.user_of(subject)?;
        // Where nobody has asked for it yet: an answer may come for the next list.
        let user = uid.and_then(|uid| cx.told.names.of(uid));
        let now = self.now(cx, subject)?;
        let peer = now.described.as_ref().and_then(|described| described.client.credentials());
        let pid = peer.and_then(|peer| u32::try_from(peer.pid).ok()).filter(|pid| *pid > 0);
        let mut line = Line::new(Format::Json, "");
        line.field("id", Value::Text(&self.id_of(cx, subject), SHORT))
            .field("user", Value::text(user.as_deref(), SHORT))
            .field("uid", Value::number(peer.map(|peer| peer.uid).or(uid)))
            .field("peer_pid", Value::number(pid))
            .field("socket", Value::Text(&now.socket(cx), ADDRESS));
        now.fields(cx, &mut line);
        Some(line.finish())
    }

    /// The same as the statistics have it: with the names of the audit.
    pub(crate) fn statistics_of(self, cx: &mut Context, subject: Subject) -> Option<String> {
        let uid = self.user_of(subject)?;
        let user = uid.and_then(|uid| cx.told.names.of(uid));
        let now = self.now(cx, subject)?;
        let owner = || Peer { uid, user, ..Peer::default() };
        let attached = now.facts.filter(|_| now.described.is_some());
        let peer = attached.map_or_else(owner, |facts| facts.story.last_client().clone());
        let ids = now.facts.map(|facts| (facts.story.uid, facts.story.gid));
        let (uid, gid) = ids.or_else(|| cx.told.ids_at(now.door)).unzip();
        let mode = now.facts.map(|facts| facts.story.mode).unwrap_or_default();
        let term = now.facts.and_then(|facts| facts.story.said.term.as_deref());
        let last = now.described.as_ref().map_or((Some(0), Some(0)), |described| described.bytes);
        let (input, output) =
            now.facts.map(|facts| facts.story.bytes_with(last)).unwrap_or_default();
        let is_handed_over = now.described.as_ref().is_some_and(|it| it.is_handed_over);
        let mut line = Line::new(Format::Json, "");
        line.field("id", Value::Text(&self.id_of(cx, subject), SHORT));
        of_peer(&mut line, &now.socket(cx), mode, &peer);
        line.field("uid", Value::number(uid)).field("gid", Value::number(gid));
        now.fields(cx, &mut line);
        line.field("term", Value::text(term, SHORT))
            .field("handed_over", Value::Truth(is_handed_over))
            .field("recorded", Value::Truth(now.facts.is_some_and(|facts| facts.recorded)))
            .field("bytes_in", Value::number(input))
            .field("bytes_out", Value::number(output));
        Some(line.finish())
    }

    fn now<'a>(&'a self, cx: &'a Context, subject: Subject) -> Option<Now<'a>> {
        let facts = cx.told.of(subject);
        let (described, left) = (self.described(subject, facts), self.detachable(subject));
        let door = match (&described, &left) {
            (Some(described), _) => described.door,
            (None, left) => left.as_ref()?.door,
        };
        Some(Now { subject, facts, described, left, door })
    }
}

impl Now<'_> {
    /// The address that it began at.
    fn socket(&self, cx: &Context) -> String {
        let gone = self.left.as_ref().and_then(|left| left.socket);
        let door = || cx.doors.door(self.door).map(|door| door.name.clone());
        gone.map(str::to_owned).or_else(door).unwrap_or_default()
    }

    fn command(&self, cx: &Context) -> Option<String> {
        let kept = self.left.as_ref().and_then(|left| left.command);
        kept.map(str::to_owned).or_else(|| cx.command_of(self.subject, self.door))
    }

    /// Its program, while it runs: of one that has ended the number may be another's
    /// by now.
    fn pid(&self) -> Option<i32> {
        match (&self.described, &self.left) {
            (Some(described), _) => described.pid.map(Pid::as_raw),
            (None, left) => left.as_ref().filter(|left| left.status.is_none()).map(|it| it.pid),
        }
    }

    /// Its terminal.
    fn master(&self) -> Option<&Master> {
        match &self.described {
            Some(described) => described.master,
            None => self.left.as_ref()?.master,
        }
    }

    fn started(&self) -> Option<SystemTime> {
        match (self.left.as_ref().filter(|left| !left.ends_with_client), self.facts) {
            (Some(left), _) => Some(left.since.wall),
            (None, Some(facts)) => Some(facts.started.wall),
            (None, None) => Some(Timestamp::from(procfs::started(self.pid()?)?).wall),
        }
    }

    /// What lists and statistics both have of it.
    fn fields(&self, cx: &Context, line: &mut Line) {
        let (left, master) = (self.left.as_ref(), self.master());
        let (tty, size) = (master.and_then(Master::slave_name), master.and_then(Master::size));
        let idle = match &self.described {
            Some(described) => described.idle,
            None => master.and_then(Master::idle_for),
        };
        let written = |time: SystemTime| rfc3339(time);
        let (started, since) = (
            self.started().map(written),
            left.and_then(|left| left.left).map(|time| written(time.wall)),
        );
        let status = left.and_then(|left| left.status);
        let name = left.map(|left| left.name).filter(|name| !name.is_empty());
        line.field("command", Value::text(self.command(cx).as_deref(), COMMAND))
            .field("pid", Value::number(self.pid().and_then(|pid| u32::try_from(pid).ok())))
            .field("tty", Value::text(tty.as_deref(), SHORT))
            .field("rows", Value::number(size.map(|size| size.rows)))
            .field("cols", Value::number(size.map(|size| size.cols)))
            .field("started", Value::text(started.as_deref(), SHORT))
            .field("idle", idle.map_or(Value::Null, Value::Seconds))
            .field("name", Value::text(name, SHORT))
            .field("attached", Value::Truth(self.described.is_some()))
            .field("detached_since", Value::text(since.as_deref(), SHORT))
            .field("ended", Value::Truth(status.is_some()))
            .field("status", Value::number(status))
            .field("watchers", Value::Number(left.map_or(0, |left| left.viewers).into()));
    }
}
