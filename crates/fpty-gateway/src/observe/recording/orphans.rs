//! What the recorder has of gateways that have ended, until the next ones have
//! taken up what goes on.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use super::file::{Of, Recording};
use super::journal::Ledger;
use super::protocol::{Failure, Message, Resume, id_of};
use crate::observe::audit::Recorded;
use crate::process::ipc::Hello;
use fpty::sys::dir::Folder;

/// Where a recorder writes.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Its folders.
    pub folders: &'a [Folder],
    /// What the next one is to know.
    pub ledger: &'a Ledger,
}

/// A session of a gateway's.
pub enum Session {
    /// It has a file.
    Recorded(Box<Recording>),
    /// It is to go on in its next file; there is nothing of it for that so far.
    Waits(Resume),
    /// There is no file, for this reason; so many bytes would have gone there.
    Lost(Of, u64, Failure),
}

/// Sessions whose gateway has ended, by its number: the next one may take them
/// up.
#[derive(Default)]
pub struct Parked(HashMap<Of, (usize, Session)>);

impl Session {
    /// Which it is.
    pub fn of(&self) -> Of {
        match self {
            Self::Recorded(recording) => recording.of_session().clone(),
            Self::Waits(resume) => (resume.begin.folder, resume.begin.name.clone()),
            Self::Lost(of, ..) => of.clone(),
        }
    }

    /// It is over, with this last word, where there is one: else nobody tells how it
    /// ended. What became of it.
    pub fn end(self, last: Option<Message<'_>>, place: &Place<'_>) -> Recorded {
        match self {
            Self::Recorded(mut recording) => {
                let status = last.and_then(|last| {
                    let _ = recording.note(last, place.ledger);
                    last.body.first_chunk().map(|bytes| i32::from_le_bytes(*bytes))
                });
                recording.end(status, place.ledger)
            }
            // Of the file before this one nothing is known.
            Self::Waits(Resume { begin, dropped, .. }) => {
                Recorded { path: begin.file(), dropped, ..Recorded::default() }
            }
            Self::Lost(_, dropped, _) => {
                Recorded { bytes: Some(0), dropped, ..Recorded::default() }
            }
        }
    }
}

impl Parked {
    /// One that a gateway takes up, where it is here.
    pub fn take(&mut self, of: &Of) -> Option<Session> {
        self.0.remove(of).map(|(_, session)| session)
    }

    /// Those of a gateway of this number, which has ended.
    pub fn put(&mut self, ordinal: usize, sessions: impl Iterator<Item = Session>) {
        self.0.extend(sessions.map(|session| (session.of(), (ordinal, session))));
    }

    /// What a gateway has not taken up, of those whose place it has, is over.
    pub fn end_rest(&mut self, gateway: &Hello, place: &Place<'_>) {
        for (_, session) in take_out(&mut self.0, |_, (before, _)| gateway.has_place_of(*before)) {
            session.end(None, place);
        }
    }

    /// These sessions, by their ids, are over: what became of each that is here.
    pub fn end_these(
        &mut self,
        ids: &HashSet<String>,
        place: &Place<'_>,
    ) -> impl Iterator<Item = (Of, Recorded)> {
        let sessions = take_out(&mut self.0, |(_, name), _| ids.contains(id_of(name)));
        sessions.into_iter().map(|(_, session)| (session.of(), session.end(None, place)))
    }

    /// All are over.
    pub fn end(self, place: &Place<'_>) {
        self.0.into_values().for_each(|(_, session)| drop(session.end(None, place)));
    }
}

/// Takes those out that are meant.
pub fn take_out<K: Clone + Eq + Hash, V>(
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
    use crate::observe::recording::consumer::Source;
    use crate::observe::recording::protocol::header;
    use crate::observe::recording::protocol::{Answer, Begin, Kind};
    use crate::process::ipc::encode;
    use fpty::sys::shm_queue::Giver;
    use fpty::sys::shm_queue::Taker;
    use fpty::sys::socket::Stream;
    use std::os::fd::AsFd;

    fn resume(name: &str) -> Vec<u8> {
        let resume = Resume { begin: Begin::named(name), dropped: 5, ends: true };
        serde_json::to_vec(&resume).expect("JSON")
    }

    /// A gateway, and how it speaks.
    fn gateway((ordinal, count): (usize, usize)) -> (Source, impl FnMut(Kind, u32, &[u8])) {
        let mut giver = Giver::new().expect("a queue");
        let taker = Taker::of(&giver.as_fd().try_clone_to_owned().expect("a copy"));
        let (channel, _) = Stream::pair().expect("a channel");
        let say = move |kind, session, body: &[u8]| {
            assert!(giver.put([&header(kind, session, 0, body.len()), body]));
        };
        let hello = Hello { ordinal, count, token: Default::default() };
        (Source::new(channel, taker.expect("a queue"), hello), say)
    }

    fn answers(source: &mut Source) -> Vec<Answer> {
        let answers = source.answers();
        answers.map(|it| serde_json::from_slice(&it).expect("JSON")).collect()
    }

    #[test]
    fn the_next_gateway_goes_on_in_the_same_file_and_ends_the_rest() {
        let place = tempfile::tempdir().expect("a directory");
        let text = |name: &str| std::fs::read_to_string(place.path().join(name));
        let (folders, ledger) =
            ([Folder::open(place.path()).expect("a folder")], Ledger::new().expect("memory"));
        let here = Place { folders: &folders, ledger: &ledger };
        let mut parked = Parked::default();
        let (first, mut say) = gateway((3, 4));
        for (session, name) in [(1, "on"), (2, "over")] {
            say(Kind::Begin, session, &serde_json::to_vec(&Begin::named(name)).expect("JSON"));
            say(Kind::Output, session, b"before");
        }
        first.park(&here, &mut parked);
        let (other, mut say) = gateway((0, 4));
        say(Kind::Begin, 1, &serde_json::to_vec(&Begin::named("other")).expect("JSON"));
        other.park(&here, &mut parked);
        // There are fewer gateways now: this one has the place of the first.
        let (mut next, mut say) = gateway((1, 2));
        assert!(gateway((3, 4)).0.is_followed_by(&next));
        assert!(!gateway((0, 4)).0.is_followed_by(&next));
        say(Kind::Resume, 7, &resume("on"));
        say(Kind::Resume, 8, &resume("unknown"));
        say(Kind::Rest, 0, &[]);
        say(Kind::Output, 7, b"after");
        say(Kind::End, 7, &9_i32.to_le_bytes());
        assert_eq!(next.work(&here, &mut parked), Ok(true));
        let answers = answers(&mut next);
        let resumed =
            |session, part, moved, dropped| Answer::Resumed { session, part, moved, dropped };
        assert_eq!(answers[..2], [resumed(7, 1, false, 0), resumed(8, 2, true, 5)]);
        let Answer::Done { session: 7, recorded } = &answers[2] else {
            panic!("{answers:?}");
        };
        let on = text(&recorded.path).expect("a file");
        let Recorded { path, bytes, dropped, .. } = recorded;
        assert_eq!((path.as_str(), *bytes), ("on.cast", Some(on.len() as u64)));
        assert_eq!(*dropped, 0);
        assert!(on.contains("\"before\"]\n[0.000000, \"o\", \"after\"]\n"), "{on}");
        assert!(on.contains("\"x\", \"9\"") && on.matches("sha256=").count() == 1, "{on}");
        assert!(text("over.cast").expect("a file").contains("sha256="));
        // It is another gateway's.
        assert!(!text("other.cast").expect("a file").contains("sha256="));
        // One with nothing to be written has no file, and one with its end has.
        assert!(text("unknown-part2.cast").is_err());
        next.park(&here, &mut parked);
        parked.end(&here);
        assert!(text("unknown-part2.cast").is_err());
        assert!(text("other.cast").expect("a file").contains("sha256="));
    }

    #[test]
    fn those_whose_ends_are_told_are_over_with_what_was_missing() {
        let place = tempfile::tempdir().expect("a directory");
        let (folders, ledger) =
            ([Folder::open(place.path()).expect("a folder")], Ledger::new().expect("memory"));
        let here = Place { folders: &folders, ledger: &ledger };
        let mut parked = Parked::default();
        let mut giver = Giver::new().expect("a queue");
        let taker = Taker::of(&giver.as_fd().try_clone_to_owned().expect("a copy"));
        let (channel, _) = Stream::pair().expect("a channel");
        let first = Source::new(channel, taker.expect("a queue"), Hello::of(0, 1));
        for (session, name) in [(1, "now-me-over"), (2, "now-me-on")] {
            let begin = serde_json::to_vec(&Begin::named(name)).expect("JSON");
            assert!(giver.put([&header(Kind::Begin, session, 0, begin.len()), &begin]));
        }
        giver.note(0, 1, 77);
        drop(giver);
        first.park(&here, &mut parked);
        let (mut next, mut say) = gateway((0, 1));
        say(Kind::Over, 0, &encode(&["over", "unknown"]));
        assert_eq!(next.work(&here, &mut parked), Ok(true));
        let answers = answers(&mut next);
        let [
            Answer::Over { id, folder: 0, recorded: Some(recorded) },
            Answer::Over { id: unknown, recorded: None, .. },
        ] = &answers[..]
        else {
            panic!("{answers:?}");
        };
        assert_eq!((id.as_str(), unknown.as_str()), ("over", "unknown"));
        let text = |name: &str| std::fs::read_to_string(place.path().join(name)).expect("a file");
        let over = text(&recorded.path);
        assert_eq!((recorded.bytes, recorded.dropped), (Some(over.len() as u64), 77));
        assert!(over.contains("77 bytes are missing") && over.contains("dropped=77"), "{over}");
        assert!(!text("now-me-on.cast").contains("sha256="));
    }

    #[test]
    fn what_failed_is_not_forgotten() {
        let place = tempfile::tempdir().expect("a directory");
        let (folders, ledger) =
            ([Folder::open(place.path()).expect("a folder")], Ledger::new().expect("memory"));
        let here = Place { folders: &folders, ledger: &ledger };
        let mut parked = Parked::default();
        let (mut first, mut say) = gateway((0, 1));
        let limited = Begin { limit: Some(1024), ..Begin::named("full") };
        say(Kind::Begin, 1, &serde_json::to_vec(&limited).expect("JSON"));
        say(Kind::Output, 1, &[b'x'; 2048]);
        say(Kind::Begin, 2, &serde_json::to_vec(&Begin::named("no/such")).expect("JSON"));
        assert_eq!(first.work(&here, &mut parked), Ok(true));
        let before = answers(&mut first);
        assert!(matches!(before[..], [Answer::Failed { .. }, Answer::Failed { .. }]), "{before:?}");
        first.park(&here, &mut parked);
        let (mut next, mut say) = gateway((0, 1));
        say(Kind::Resume, 5, &resume("full"));
        say(Kind::Resume, 6, &resume("no/such"));
        say(Kind::Output, 6, b"more");
        say(Kind::End, 6, &[]);
        assert_eq!(next.work(&here, &mut parked), Ok(true));
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
