//! Events of sessions, as the audit keeps and writes them. The end line of a closed session is
//! written later, when the result of the recording is known.

use super::session_info::{ClientAct, RejectedConnection};
use super::{Audit, DetachReason, Origin, Peer};
use crate::observe::event::Event;
use crate::process::supervisor::end_lines::EndLineSlot;
use crate::session::session_ref::SessionRef;
use fpty::fair_share::Principal;
use fpty::sys::clock::{BootInstant, Timestamp};
use fpty::sys::socket::Stream;

impl Audit {
    /// Handles an event. The audit is no [`Observer`](crate::observe::event::Observer): it keeps
    /// what others are told of a session.
    pub fn on_event(&mut self, event: &Event<'_>) {
        match *event {
            Event::Started(session) => {
                self.prepare_end(session);
                let Some(info) = self.info.get_mut(&session) else { return };
                info.is_started = true;
                let (line, prepared) = (info.start_line(&self.place), info.place);
                self.write_start(line, prepared);
            }
            // The start was written by the earlier gateway, and the supervisor has the end line.
            Event::Restored(session, started) => {
                if let Some(info) = self.info.get_mut(&session) {
                    info.started = started;
                    (info.is_started, info.is_supervised) = (true, true);
                }
                self.prepare_end(session);
            }
            Event::Attached { from, to, origin, client } => {
                let Some(mut info) = self.info.remove(&from) else { return };
                let peer = Peer::of(client, &mut self.user_names, info.audit.is_some());
                let act = ClientAct::Attach(&origin.claimed);
                self.write_line(info.client_act_line(act, &peer, &self.place));
                info.history.client = Some(Box::new(peer));
                info.history.attached = Timestamp::now().into();
                self.info.insert(to, info);
            }
            Event::Detached { from, to, reason, bytes } => {
                let Some(mut info) = self.info.remove(&from) else { return };
                info.history.before = info.history.bytes_with(bytes);
                let by = match reason {
                    DetachReason::Stolen(uid) => Some((uid, self.user_names.of(uid))),
                    DetachReason::Requested | DetachReason::Lost => None,
                };
                let by = by.as_ref().map(|(uid, name)| (*uid, name.as_deref()));
                let after = Timestamp::from(info.history.attached).elapsed();
                let (act, peer) =
                    (ClientAct::Detach(reason, after, by), info.history.last_client());
                self.write_line(info.client_act_line(act, peer, &self.place));
                self.info.insert(to, info);
            }
            Event::ViewerJoined { session, origin, client, prepared } => {
                prepared.set(self.viewer_joined(session, origin, client));
            }
            Event::ViewerLeft { session, client, after, prepared } => {
                prepared.into_iter().for_each(|slot| self.remove_prepared(slot));
                if let Some(info) = self.info.get(&session).filter(|info| info.audit.is_some()) {
                    let peer = Peer::of(client, &mut self.user_names, true);
                    let act = ClientAct::Unwatch(Some(after));
                    self.write_line(info.client_act_line(act, &peer, &self.place));
                }
            }
            Event::Exited(session, exit) => {
                if let Some(info) = self.info.get_mut(&session) {
                    info.exit = Some(exit);
                }
            }
            Event::Rejected { origin, client, reason, text } if origin.has_audit() => {
                self.write_suppressed();
                let (origin, peer, why) = (origin.clone(), Peer::default(), text.into());
                let rejected = RejectedConnection { origin, peer, reason, why, count: None };
                let principal = client.map_or(Principal::Unknown, Principal::of);
                if let Some(mut rejected) = self.rejection_rate.note(principal, rejected) {
                    let peer = client.map(|client| Peer::of(client, &mut self.user_names, true));
                    rejected.peer = peer.unwrap_or_default();
                    self.write_line(rejected.line(&self.place));
                }
            }
            Event::Rejected { .. }
            | Event::Pending(_)
            | Event::Closed { .. }
            | Event::Aborted(_) => {}
        }
    }

    /// Returns the slot of the line for the viewer's end, in case that the gateway is killed.
    fn viewer_joined(
        &mut self,
        session: SessionRef,
        origin: &Origin,
        client: &Stream,
    ) -> Option<EndLineSlot> {
        let info = self.info.get(&session).filter(|info| info.audit.is_some())?;
        let peer = Peer::of(client, &mut self.user_names, true);
        let last = info.client_act_line(ClientAct::Unwatch(None), &peer, &self.place)?.finish();
        let act = ClientAct::Watch(&origin.claimed);
        let line = info.client_act_line(act, &peer, &self.place);
        let start = info.client_act_line(ClientAct::Watch(&origin.claimed), &peer, &self.place)?;
        let (lines, now) = (self.lines.as_mut(), BootInstant::now());
        let prepared = lines.and_then(|it| it.put(Some(&start.finish()), &last, now, false));
        self.write_start(line, prepared);
        prepared
    }
}
