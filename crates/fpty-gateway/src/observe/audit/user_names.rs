//! User names. A lookup may block for ever, where it goes over a network: names in
//! passwd(5) are read at once, others are looked up in a thread, and are unknown until it
//! has answered.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use fpty::sys::accounts;
use fpty::sys::clock;
use fpty::sys::credentials::{LoginUidCache, OVERFLOW_UID};
use fpty::sys::signal::BlockedSignals;

/// How long a name is cached.
const CACHE_TIME: Duration = Duration::from_secs(600);

/// The most cached names.
const MAX_CACHED: usize = 4096;

/// The most pending look-ups.
const MAX_REQUESTS: usize = 64;

type Name = Option<Arc<str>>;

/// User names, and login uids.
#[derive(Default)]
pub struct UserNames {
    known: HashMap<u32, (Instant, Name)>,
    /// Login uids.
    pub logins: LoginUidCache,
    /// The resolver; `None`: none was needed yet.
    resolver: Option<Resolver>,
}

/// A thread that looks names up (getpwuid_r(3)).
struct Resolver {
    requests: SyncSender<u32>,
    answers: Receiver<(u32, Name)>,
    asked: HashSet<u32>,
}

impl Resolver {
    /// Starts the thread; `None`: there can be none.
    fn start() -> Option<Self> {
        let (requests, to_ask) = sync_channel::<u32>(MAX_REQUESTS);
        let (answer, answers) = channel();
        // Signals are for the loop.
        let _blocked = BlockedSignals::all();
        let body = move || {
            for uid in to_ask {
                let name = accounts::user_name(uid).map(Arc::from);
                if answer.send((uid, name)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name(String::from("fpty-names")).spawn(body).ok()?;
        Some(Self { requests, answers, asked: HashSet::new() })
    }

    /// Requests a look-up, unless it or too many are pending.
    fn ask(&mut self, uid: u32) {
        if !self.asked.contains(&uid) && self.requests.try_send(uid).is_ok() {
            self.asked.insert(uid);
        }
    }
}

impl UserNames {
    /// The cached name of a user.
    pub fn known(&self, uid: u32) -> Option<String> {
        let (_, name) = self.known.get(&uid)?;
        name.as_deref().map(str::to_owned)
    }

    /// The name of a user; `None`: there is none, or none yet.
    pub fn of(&mut self, uid: u32) -> Option<Arc<str>> {
        if uid == OVERFLOW_UID {
            return None;
        }
        self.take_answers();
        let before = match self.known.get(&uid) {
            Some((asked, name)) if asked.elapsed() < CACHE_TIME => return name.clone(),
            Some((_, name)) => name.clone(),
            None => None,
        };
        if let Some(name) = accounts::user_name_in_passwd(uid) {
            let name: Name = Some(name.into());
            self.keep(uid, name.clone());
            return name;
        }
        self.resolver = self.resolver.take().or_else(Resolver::start);
        self.resolver.iter_mut().for_each(|resolver| resolver.ask(uid));
        before
    }

    fn take_answers(&mut self) {
        while let Some(resolver) = &mut self.resolver {
            let Ok((uid, name)) = resolver.answers.try_recv() else {
                return;
            };
            resolver.asked.remove(&uid);
            self.keep(uid, name);
        }
    }

    fn keep(&mut self, uid: u32, name: Name) {
        if self.known.len() >= MAX_CACHED {
            self.known.clear();
        }
        self.known.insert(uid, (clock::now(), name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name_at_once_and_nobody_else_has_a_number_as_high() {
        let mut names = UserNames::default();
        assert_eq!(names.of(0).as_deref(), Some("root"));
        assert!(names.resolver.is_none());
        assert_eq!(names.of(OVERFLOW_UID), None);
        assert_eq!(names.of(3_999_999_999), None);
        // Somebody is asked, and the answer is kept.
        let end = Instant::now() + Duration::from_secs(10);
        while names.known.len() < 2 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(names.of(3_999_999_999), None);
        }
        assert!(names.known.contains_key(&3_999_999_999));
        assert_eq!(names.known(0).as_deref(), Some("root"));
    }
}
