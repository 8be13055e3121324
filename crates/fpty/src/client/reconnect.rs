//! Reconnect after a connection broke: by which key the session is found again, when
//! the next attempt is due, and the thread that makes it.

use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::config::{ClientConfig, SessionChoice};
use super::connect::Connection;
use crate::error::Result;
use crate::proto::session_key::{FoundBy, Secret, SessionKey, parse_argument};
use crate::sys;

/// The first and the longest wait between two tries. Each is the longest of its
/// try: of a thousand clients that lost one gateway not all come at once.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How long a refusal is not the last word: a gateway that was killed is there
/// again within a second, and another one of its instance does not know its
/// sessions.
pub(super) const REFUSAL_GRACE: Duration = Duration::from_secs(3);

/// How often a server is asked that turns out to speak plainly: it begins a
/// program each time.
pub(super) const MAX_PLAIN: u8 = 3;

/// How soon it is looked whether what was sent over TCP has arrived, how often
/// then, and how long a server's kernel may say nothing. (After a machine was
/// asleep the kernel itself would try for a quarter of an hour.)
pub(super) const PROBE_AFTER: Duration = Duration::from_secs(5);
pub(super) const PROBE_AGAIN: Duration = Duration::from_secs(2);
pub(super) const ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// The state of a reconnect: the session's key, and when to try next.
#[derive(Default)]
pub struct Reconnect {
    pub(super) key: Option<SessionKey>,
    /// The connection broke then, and we were not told to go on since.
    pub(super) lost: Option<Instant>,
    /// How long the last wait could be.
    pub(super) waited: Duration,
    /// Number of attempts that the server answered in plain mode.
    pub(super) plain: u8,
    /// Time at which to look whether what was sent has arrived.
    pub(super) look: Option<Instant>,
    /// The probe was not answered: the connection is given up.
    pub(super) is_silent: bool,
}

impl Reconnect {
    /// The server has said by what we find the session. (A viewer goes on with
    /// what it came by.)
    pub fn note_key(&mut self, mut key: SessionKey, which: &SessionChoice) {
        if key.found_by == FoundBy::Viewer {
            key.secret = match (&self.key, which) {
                (Some(before), _) => before.secret.clone(),
                (None, SessionChoice::Attach(attach_argument)) => {
                    parse_argument(attach_argument).and_then(|(_, secret)| secret)
                }
                (None, _) => None,
            };
        }
        self.key = Some(key);
    }

    /// The key of the lost session.
    pub fn key(&self) -> Option<&SessionKey> {
        self.key.as_ref().filter(|_| self.is_reconnecting())
    }

    /// Whether the connection broke, and we were not told to go on since: nothing
    /// that is typed is for the program.
    pub fn is_reconnecting(&self) -> bool {
        self.lost.is_some()
    }

    /// We were told to go on; whether the session was lost before.
    pub fn reattached(&mut self) -> bool {
        (self.waited, self.plain) = (Duration::ZERO, 0);
        self.lost.take().is_some()
    }

    /// The reason why the connection can be used no more, where that was found here.
    pub fn why(&self) -> Option<String> {
        self.is_silent.then(|| format!("no answer for {} seconds", ACK_TIMEOUT.as_secs()))
    }

    /// The argument that attaches to a detached session again, whose id the server has
    /// sent.
    pub fn attach_argument_for(&self, id: &str) -> Option<String> {
        self.key.as_ref().filter(|key| key.id == id).map(SessionKey::attach_argument)
    }

    /// How long to wait before the next try.
    pub(super) fn wait(&mut self) -> Duration {
        self.waited = (self.waited * 2).clamp(BACKOFF_FIRST, BACKOFF_MAX);
        let mut chance = [0];
        let _ = sys::random(&mut chance);
        let half = self.waited / 2;
        half + half * u32::from(chance[0]) / u32::from(u8::MAX)
    }
}

/// The id and secret to attach with: the typed ones, or those that the server has sent.
pub fn attach_target<'a>(
    which: &'a SessionChoice,
    reconnect: &'a Reconnect,
) -> Option<(&'a str, Option<Secret>)> {
    match (reconnect.key(), which) {
        (Some(key), _) => Some((&key.id, key.secret.clone())),
        (None, SessionChoice::Attach(attach_argument)) => {
            Some(parse_argument(attach_argument).unwrap_or((attach_argument, None)))
        }
        (None, SessionChoice::AttachOrNew(name)) => Some((name, None)),
        (None, SessionChoice::New | SessionChoice::NewNamed(_)) => None,
    }
}

/// Connects in a thread, as the person may give up meanwhile: a name may take long to
/// be looked up, and a connection to be made. The socket hangs up when that is done.
///
/// # Errors
/// There is no descriptor for the socket pair, or no thread.
pub(super) fn connect_in_thread(
    config: &ClientConfig,
) -> std::io::Result<(JoinHandle<Result<Connection>>, UnixStream)> {
    let (done, theirs) = UnixStream::pair()?;
    let config = config.clone();
    let thread = std::thread::Builder::new().spawn(move || {
        let _theirs = theirs;
        Connection::open(&config)
    })?;
    Ok((thread, done))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(found_by: FoundBy) -> SessionKey {
        let secret = (found_by != FoundBy::Viewer).then(|| Secret::from_bytes([7; 16]));
        SessionKey { id: String::from("k3x9q2aa"), secret, found_by }
    }

    #[test]
    fn tries_come_less_and_less_often() {
        let mut reconnect = Reconnect::default();
        let mut longest = BACKOFF_FIRST;
        for _ in 0..20 {
            let wait = reconnect.wait();
            assert!(wait >= longest / 2 && wait <= longest, "{wait:?} {longest:?}");
            longest = (longest * 2).min(BACKOFF_MAX);
        }
        reconnect.lost = Some(Instant::now());
        assert!(reconnect.reattached() && !reconnect.reattached());
        assert!(reconnect.wait() <= BACKOFF_FIRST);
    }

    #[test]
    fn it_is_asked_for_what_was_lost() {
        let mut reconnect = Reconnect::default();
        let which = SessionChoice::NewNamed(String::from("build"));
        assert!(attach_target(&which, &reconnect).is_none());
        reconnect.note_key(key(FoundBy::User), &which);
        assert!(attach_target(&which, &reconnect).is_none(), "it was not lost");
        reconnect.lost = Some(Instant::now());
        let (id, secret) = attach_target(&which, &reconnect).expect("the session");
        assert!(id == "k3x9q2aa" && secret.is_some_and(|secret| secret.is(&[7; 16])));
        assert_eq!(reconnect.attach_argument_for("k3x9q2aa").as_deref(), Some("k3x9q2aa"));
        assert_eq!(reconnect.attach_argument_for("another"), None);
    }

    #[test]
    fn who_watches_comes_back_by_what_it_came_by() {
        let attach_argument = key(FoundBy::Secret).attach_argument();
        let which = SessionChoice::Attach(attach_argument);
        let mut reconnect = Reconnect::default();
        let (id, secret) = attach_target(&which, &reconnect).expect("a session");
        assert!(id == "k3x9q2aa" && secret.is_some());
        reconnect.note_key(key(FoundBy::Viewer), &which);
        reconnect.lost = Some(Instant::now());
        for _ in 0..2 {
            let (_, secret) = attach_target(&which, &reconnect).expect("a session");
            assert!(secret.is_some_and(|secret| secret.is(&[7; 16])));
            reconnect.note_key(key(FoundBy::Viewer), &which);
        }
    }
}
