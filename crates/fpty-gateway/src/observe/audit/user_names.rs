//! Names of users. To ask for one may take for ever, where it comes over a
//! network: who is in passwd(5) is found there at once, others are asked for in
//! a thread, and have no name until there is an answer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use fpty::sys::accounts;
use fpty::sys::credentials::{Credentials, Logins, OF_ELSEWHERE};
use fpty::sys::signal::Blocked;
use fpty::sys::socket::Stream;

/// How long a name is good for; then it is asked for once more.
const GOOD_FOR: Duration = Duration::from_secs(600);

/// How many are kept.
const MOST: usize = 4096;

/// Questions that may wait.
const WAITING: usize = 64;

type Name = Option<Arc<str>>;

/// Names of users, and as whom they have logged in.
#[derive(Default)]
pub struct Names {
    known: HashMap<u32, (Instant, Name)>,
    logins: Logins,
    /// Who is asked; `None`: nobody was needed yet.
    directory: Option<Directory>,
}

/// A thread that asks, and what it is asked.
struct Directory {
    questions: SyncSender<u32>,
    answers: Receiver<(u32, Name)>,
    asked: HashSet<u32>,
}

impl Directory {
    /// `None`: there can be no thread.
    fn start() -> Option<Self> {
        let (questions, to_ask) = sync_channel::<u32>(WAITING);
        let (answer, answers) = channel();
        // Signals are for the loop.
        let _blocked = Blocked::all();
        let body = move || {
            for uid in to_ask {
                let name = accounts::name_of(uid).map(Arc::from);
                if answer.send((uid, name)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name(String::from("fpty-names")).spawn(body).ok()?;
        Some(Self { questions, answers, asked: HashSet::new() })
    }

    /// Asks, where that was not done yet, and as many as may do not wait.
    fn ask(&mut self, uid: u32) {
        if !self.asked.contains(&uid) && self.questions.try_send(uid).is_ok() {
            self.asked.insert(uid);
        }
    }
}

impl Names {
    /// The name of a user that was asked for before.
    pub fn known(&self, uid: u32) -> Option<String> {
        let (_, name) = self.known.get(&uid)?;
        name.as_deref().map(str::to_owned)
    }

    /// The name of a user; `None`: there is none, or none yet.
    pub fn of(&mut self, uid: u32) -> Option<Arc<str>> {
        if uid == OF_ELSEWHERE {
            return None;
        }
        self.take_answers();
        let before = match self.known.get(&uid) {
            Some((asked, name)) if asked.elapsed() < GOOD_FOR => return name.clone(),
            Some((_, name)) => name.clone(),
            None => None,
        };
        if let Some(name) = accounts::name_in_file(uid) {
            let name: Name = Some(name.into());
            self.keep(uid, name.clone());
            return name;
        }
        if self.directory.is_none() {
            self.directory = Directory::start();
        }
        if let Some(directory) = &mut self.directory {
            directory.ask(uid);
        }
        before
    }

    /// As whom a client has logged in.
    pub fn login_of(&mut self, client: &Stream, credentials: Credentials) -> Option<u32> {
        self.logins.of(client, credentials)
    }

    fn take_answers(&mut self) {
        let Some(directory) = &mut self.directory else {
            return;
        };
        let answers: Vec<(u32, Name)> = directory.answers.try_iter().collect();
        for (uid, name) in answers {
            if let Some(directory) = &mut self.directory {
                directory.asked.remove(&uid);
            }
            self.keep(uid, name);
        }
    }

    fn keep(&mut self, uid: u32, name: Name) {
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert(uid, (Instant::now(), name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name_at_once_and_nobody_else_has_a_number_as_high() {
        let mut names = Names::default();
        assert_eq!(names.of(0).as_deref(), Some("root"));
        assert!(names.directory.is_none());
        assert_eq!(names.of(OF_ELSEWHERE), None);
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
