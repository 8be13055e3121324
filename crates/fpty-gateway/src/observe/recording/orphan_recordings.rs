//! Recordings whose gateway has ended, until its successor has claimed those that go on.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use super::journal::Journal;
use super::recorder_protocol::{Failure, Message, Resume, id_of};
use super::recording_file::{RecordingFile, RecordingName};
use crate::observe::audit::RecordingResult;
use crate::process::ipc::Hello;
use fpty::sys::dir::Dir;

/// The context of the recorder.
pub struct RecorderContext<'a> {
    /// The directories of recordings.
    pub folders: &'a [Dir],
    /// The journal for the next recorder.
    pub journal: &'a Journal,
    /// Recordings whose gateway has ended.
    pub orphans: OrphanedRecordings,
}

/// A session at the recorder.
pub enum RecordedSession {
    /// The session has an open file.
    Open(Box<RecordingFile>),
    /// The session goes on in its next file, which is not created yet.
    Pending(Resume),
    /// The session has no file, for this reason; so many bytes are missing.
    Failed(RecordingName, u64, Failure),
}

/// Recordings whose gateway has ended, by its ordinal.
#[derive(Default)]
pub struct OrphanedRecordings(HashMap<RecordingName, (usize, RecordedSession)>);

impl RecordedSession {
    /// The name of the recording.
    pub fn of(&self) -> RecordingName {
        match self {
            Self::Open(recording) => recording.of.clone(),
            Self::Pending(resume) => (resume.begin.folder, resume.begin.name.clone()),
            Self::Failed(of, ..) => of.clone(),
        }
    }

    /// Ends the session, with its last message where there is one. Returns the result.
    pub fn end(self, last: Option<Message<'_>>, journal: &Journal) -> RecordingResult {
        match self {
            Self::Open(mut recording) => {
                let status = last.and_then(|last| {
                    let _ = recording.note(last, journal);
                    last.body.first_chunk().map(|bytes| i32::from_le_bytes(*bytes))
                });
                recording.end(status, journal)
            }
            // Of the file before this one nothing is known.
            Self::Pending(Resume { begin, dropped, .. }) => {
                RecordingResult::unknown(&begin.file(), dropped)
            }
            Self::Failed(_, dropped, _) => {
                RecordingResult { bytes: Some(0), dropped, ..RecordingResult::default() }
            }
        }
    }
}

impl OrphanedRecordings {
    /// Takes a recording that a gateway claims.
    pub fn take(&mut self, of: &RecordingName) -> Option<RecordedSession> {
        self.0.remove(of).map(|(_, session)| session)
    }

    /// Adds the recordings of a gateway that has ended.
    pub fn put(&mut self, ordinal: usize, sessions: impl Iterator<Item = RecordedSession>) {
        self.0.extend(sessions.map(|session| (session.of(), (ordinal, session))));
    }

    /// Ends recordings of the predecessor that a gateway has not claimed.
    pub fn end_unclaimed(&mut self, gateway: &Hello, journal: &Journal) {
        let sessions = remove_where(&mut self.0, |_, (before, _)| gateway.succeeds(*before));
        sessions.into_iter().for_each(|(_, session)| drop(session.end(None, journal)));
    }

    /// Ends the recordings of these session ids. Returns the results.
    pub fn end_ids(
        &mut self,
        ids: &HashSet<String>,
        journal: &Journal,
    ) -> Vec<(RecordingName, RecordingResult)> {
        let sessions = remove_where(&mut self.0, |(_, name), _| ids.contains(id_of(name)));
        let end = |(_, session): (_, RecordedSession)| (session.of(), session.end(None, journal));
        sessions.into_iter().map(end).collect()
    }

    /// Ends all recordings.
    pub fn end(self, journal: &Journal) {
        self.0.into_values().for_each(|(_, session)| drop(session.end(None, journal)));
    }
}

/// Removes the values for which a predicate holds.
pub fn remove_where<K: Clone + Eq + Hash, V>(
    from: &mut HashMap<K, V>,
    mut is_one: impl FnMut(&K, &mut V) -> bool,
) -> Vec<V> {
    let all = from.iter_mut().filter_map(|(key, value)| is_one(key, value).then(|| key.clone()));
    let keys: Vec<K> = all.collect();
    keys.iter().filter_map(|key| from.remove(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::recording::consumer::GatewayFeed;
    use crate::observe::recording::recorder_protocol::header;
    use crate::observe::recording::recorder_protocol::{Answer, Begin, Kind};
    use crate::process::ipc::encode;
    use fpty::sys::shm_queue::Consumer;
    use fpty::sys::shm_queue::Producer;
    use fpty::sys::socket::Stream;
    use std::os::fd::AsFd;

    fn resume(name: &str) -> Vec<u8> {
        let resume = Resume { begin: Begin::named(name), dropped: 5, ends: true };
        serde_json::to_vec(&resume).expect("JSON")
    }

    /// A gateway, and how it speaks.
    fn gateway((ordinal, count): (usize, usize)) -> (GatewayFeed, impl FnMut(Kind, u32, &[u8])) {
        let mut giver = Producer::new().expect("a queue");
        let taker = Consumer::of(&giver.as_fd().try_clone_to_owned().expect("a copy"));
        let (channel, _) = Stream::pair().expect("a channel");
        let say = move |kind, session, body: &[u8]| {
            assert!(giver.put([&header(kind, session, 0, body.len()), body]));
        };
        let hello = Hello { ordinal, count, token: Default::default() };
        (GatewayFeed::new(channel, taker.expect("a queue"), hello), say)
    }

    fn answers(source: &mut GatewayFeed) -> Vec<Answer> {
        let answers = source.answers.drain(..);
        answers.map(|it| serde_json::from_slice(&it).expect("JSON")).collect()
    }

    #[test]
    fn the_next_gateway_goes_on_in_the_same_file_and_ends_the_rest() {
        let ctx = tempfile::tempdir().expect("a directory");
        let text = |name: &str| std::fs::read_to_string(ctx.path().join(name));
        let (folders, journal) =
            ([Dir::open(ctx.path()).expect("a folder")], Journal::new().expect("memory"));
        let orphans = OrphanedRecordings::default();
        let mut here = RecorderContext { folders: &folders, journal: &journal, orphans };
        let (first, mut say) = gateway((3, 4));
        for (session, name) in [(1, "on"), (2, "over")] {
            say(Kind::Begin, session, &serde_json::to_vec(&Begin::named(name)).expect("JSON"));
            say(Kind::Output, session, b"before");
        }
        first.orphan(&mut here);
        let (other, mut say) = gateway((0, 4));
        say(Kind::Begin, 1, &serde_json::to_vec(&Begin::named("other")).expect("JSON"));
        other.orphan(&mut here);
        // There are fewer gateways now: this one has the place of the first.
        let (mut next, mut say) = gateway((1, 2));
        assert!(gateway((3, 4)).0.is_replaced_by(&next));
        assert!(!gateway((0, 4)).0.is_replaced_by(&next));
        say(Kind::Resume, 7, &resume("on"));
        say(Kind::Resume, 8, &resume("unknown"));
        say(Kind::Rest, 0, &[]);
        say(Kind::Output, 7, b"after");
        say(Kind::End, 7, &9_i32.to_le_bytes());
        assert_eq!(next.process(&mut here), Ok(true));
        let answers = answers(&mut next);
        let resumed =
            |session, part, moved, dropped| Answer::Resumed { session, part, moved, dropped };
        assert_eq!(answers[..2], [resumed(7, 1, false, 0), resumed(8, 2, true, 5)]);
        let Answer::Done { session: 7, recorded } = &answers[2] else {
            panic!("{answers:?}");
        };
        let on = text(&recorded.path).expect("a file");
        let RecordingResult { path, bytes, dropped, .. } = recorded;
        assert_eq!((path.as_str(), *bytes), ("on.cast", Some(on.len() as u64)));
        assert_eq!(*dropped, 0);
        assert!(on.contains("\"before\"]\n[0.000000, \"o\", \"after\"]\n"), "{on}");
        assert!(on.contains("\"x\", \"9\"") && on.matches("sha256=").count() == 1, "{on}");
        assert!(text("over.cast").expect("a file").contains("sha256="));
        // It is another gateway's.
        assert!(!text("other.cast").expect("a file").contains("sha256="));
        // One with nothing to be written has no file, and one with its end has.
        assert!(text("unknown-part2.cast").is_err());
        next.orphan(&mut here);
        here.orphans.end(&journal);
        assert!(text("unknown-part2.cast").is_err());
        assert!(text("other.cast").expect("a file").contains("sha256="));
    }

    #[test]
    fn those_whose_ends_are_told_are_over_with_what_was_missing() {
        let ctx = tempfile::tempdir().expect("a directory");
        let (folders, journal) =
            ([Dir::open(ctx.path()).expect("a folder")], Journal::new().expect("memory"));
        let orphans = OrphanedRecordings::default();
        let mut here = RecorderContext { folders: &folders, journal: &journal, orphans };
        let mut giver = Producer::new().expect("a queue");
        let taker = Consumer::of(&giver.as_fd().try_clone_to_owned().expect("a copy"));
        let (channel, _) = Stream::pair().expect("a channel");
        let first = GatewayFeed::new(channel, taker.expect("a queue"), Hello::of(0, 1));
        for (session, name) in [(1, "now-me-over"), (2, "now-me-on")] {
            let begin = serde_json::to_vec(&Begin::named(name)).expect("JSON");
            assert!(giver.put([&header(Kind::Begin, session, 0, begin.len()), &begin]));
        }
        giver.note(0, 1, 77);
        drop(giver);
        first.orphan(&mut here);
        let (mut next, mut say) = gateway((0, 1));
        say(Kind::Over, 0, &encode(&["over", "unknown"]));
        assert_eq!(next.process(&mut here), Ok(true));
        let answers = answers(&mut next);
        let [
            Answer::Over { id, folder: 0, recorded: Some(recorded) },
            Answer::Over { id: unknown, recorded: None, .. },
        ] = &answers[..]
        else {
            panic!("{answers:?}");
        };
        assert_eq!((id.as_str(), unknown.as_str()), ("over", "unknown"));
        let text = |name: &str| std::fs::read_to_string(ctx.path().join(name)).expect("a file");
        let over = text(&recorded.path);
        assert_eq!((recorded.bytes, recorded.dropped), (Some(over.len() as u64), 77));
        assert!(over.contains("77 bytes are missing") && over.contains("dropped=77"), "{over}");
        assert!(!text("now-me-on.cast").contains("sha256="));
    }

    #[test]
    fn what_failed_is_not_forgotten() {
        let ctx = tempfile::tempdir().expect("a directory");
        let (folders, journal) =
            ([Dir::open(ctx.path()).expect("a folder")], Journal::new().expect("memory"));
        let orphans = OrphanedRecordings::default();
        let mut here = RecorderContext { folders: &folders, journal: &journal, orphans };
        let (mut first, mut say) = gateway((0, 1));
        let limited = Begin { limit: Some(1024), ..Begin::named("full") };
        say(Kind::Begin, 1, &serde_json::to_vec(&limited).expect("JSON"));
        say(Kind::Output, 1, &[b'x'; 2048]);
        say(Kind::Begin, 2, &serde_json::to_vec(&Begin::named("no/such")).expect("JSON"));
        assert_eq!(first.process(&mut here), Ok(true));
        let before = answers(&mut first);
        assert!(matches!(before[..], [Answer::Failed { .. }, Answer::Failed { .. }]), "{before:?}");
        first.orphan(&mut here);
        let (mut next, mut say) = gateway((0, 1));
        say(Kind::Resume, 5, &resume("full"));
        say(Kind::Resume, 6, &resume("no/such"));
        say(Kind::Output, 6, b"more");
        say(Kind::End, 6, &[]);
        assert_eq!(next.process(&mut here), Ok(true));
        let answers = answers(&mut next);
        let [
            Answer::Failed { session: 5, why: Failure::Full },
            Answer::Failed { session: 6, .. },
            done,
        ] = &answers[..]
        else {
            panic!("{answers:?}");
        };
        let Answer::Done { session: 6, recorded } = done else { panic!("{done:?}") };
        assert_eq!((recorded.dropped, recorded.path.as_str()), (4, ""));
    }
}
