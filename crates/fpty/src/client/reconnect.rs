//! A connection that broke is taken up again, where the session goes on without
//! us: its terminal and its program are there, and nothing of its screen is lost.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::input::InputState;
use super::outcome::End;
use super::session::Session;
use super::{ClientConfig, SessionChoice, connect_and_greet};
use crate::error::Result;
use crate::proto::session_key::{FoundBy, Secret, SessionKey, parse_argument};
use crate::proto::{EndKind, NO_SUCH_SESSION, SessionEnd};
use crate::sys;
use crate::sys::poll::PollSet;
use crate::sys::socket::{Stream, Transport};
use crate::sys::stdio;

/// The first and the longest wait between two tries. Each is the longest of its
/// try: of a thousand clients that lost one gateway not all come at once.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How long a refusal is not the last word: a gateway that was killed is there
/// again within a second, and another one of its instance does not know its
/// sessions.
const REFUSAL_GRACE: Duration = Duration::from_secs(3);

/// How often a server is asked that turns out to speak plainly: it begins a
/// program each time.
const MAX_PLAIN: u8 = 3;

/// How soon it is looked whether what was sent over TCP has arrived, how often
/// then, and how long a server's kernel may say nothing. (After a machine was
/// asleep the kernel itself would try for a quarter of an hour.)
const PROBE_AFTER: Duration = Duration::from_secs(5);
const PROBE_AGAIN: Duration = Duration::from_secs(2);
const ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// How the session is found again, and whether that is under way.
#[derive(Default)]
pub struct Reconnect {
    key: Option<SessionKey>,
    /// The connection broke then, and we were not told to go on since.
    lost: Option<Instant>,
    /// How long the last wait could be.
    waited: Duration,
    /// How often the server spoke plainly.
    plain: u8,
    /// When it is looked whether what was sent has arrived.
    look: Option<Instant>,
    /// It has not: the connection is given up.
    is_silent: bool,
}

impl Reconnect {
    /// The server has said by what we find the session. (A watcher goes on with
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

    /// By what the session is found that was lost.
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

    /// When it is looked whether what was sent has arrived.
    pub fn when(&self) -> Option<Instant> {
        self.look
    }

    /// Why the connection can be used no more, where that was found here.
    pub fn why(&self) -> Option<String> {
        let line = || format!("no answer for {} seconds", ACK_TIMEOUT.as_secs());
        self.is_silent.then(line)
    }

    /// What a person types to come back, to a session that was left, whose id the
    /// server says.
    pub fn attach_argument_for(&self, id: &str) -> Option<String> {
        self.key.as_ref().filter(|key| key.id == id).map(SessionKey::attach_argument)
    }

    /// How long to wait before the next try.
    fn wait(&mut self) -> Duration {
        self.waited = (self.waited * 2).clamp(BACKOFF_FIRST, BACKOFF_MAX);
        let mut chance = [0];
        let _ = sys::random(&mut chance);
        let half = self.waited / 2;
        half + half * u32::from(chance[0]) / u32::from(u8::MAX)
    }
}

/// What a session is asked for by: what was typed, or what the server has said.
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

/// A server that is called, while the person may give up: a name may take long to
/// be looked up, and a connection to be made.
struct ConnectThread {
    thread: JoinHandle<Result<(Stream, Transport)>>,
    /// Hangs up when that is done.
    done: UnixStream,
}

impl ConnectThread {
    fn start(config: &ClientConfig) -> std::io::Result<Self> {
        let (done, theirs) = UnixStream::pair()?;
        let config = config.clone();
        let thread = std::thread::Builder::new().spawn(move || {
            let _theirs = theirs;
            connect_and_greet(&config)
        })?;
        Ok(Self { thread, done })
    }
}

impl<'a> Session<'a> {
    /// Runs it to its end, over as many connections as that takes; returns that,
    /// and what was typed into a session that came to nothing.
    pub fn run_to_its_end(mut self) -> (End, Vec<u8>) {
        loop {
            let end = self.run_connection();
            let reconnects = self.may_reconnect(&end);
            if !(reconnects && self.reconnect.is_reconnecting()) {
                self.reset_terminal(&end);
                self.end_line(&end);
            }
            if !reconnects {
                let typed = self.take_early_input();
                return (self.final_end(end), typed);
            }
            match self.connect_again(&end) {
                Ok((stream, transport)) => self = self.on_new_connection(stream, transport),
                Err(end) => return (end, Vec::new()),
            }
        }
    }

    /// Whether the end is that of a connection alone. Where nobody types it is not
    /// known what of the input has arrived.
    fn may_reconnect(&self, end: &End) -> bool {
        if !self.config.reconnect || self.terminal.is_none() || self.reconnect.key.is_none() {
            return false;
        }
        let tried_for = self.reconnect.lost.map(|since| since.elapsed());
        match end {
            End::Lost(_) => self.server_ended,
            End::Refused(_) | End::Ended(SessionEnd { ending: EndKind::Refused, .. }) => {
                tried_for.is_some_and(|time| time < REFUSAL_GRACE)
            }
            End::NotExtended | End::HelloTooLate { .. } => {
                tried_for.is_some() && self.reconnect.plain + 1 < MAX_PLAIN
            }
            _ => false,
        }
    }

    /// What is told of an end that another one may stand behind.
    fn final_end(&self, end: End) -> End {
        match (&self.reconnect.key, end) {
            (Some(_), End::Ended(SessionEnd { ending: EndKind::Refused, text, .. }))
                if self.reconnect.is_reconnecting() =>
            {
                let attach_argument =
                    (text != NO_SUCH_SESSION).then(|| self.attach_argument()).flatten();
                End::NotReconnected { why: text, attach_argument }
            }
            (_, End::Ended(mut ended)) if ended.ending == EndKind::Detached && ended.value == 0 => {
                if let Some(attach_argument) = self.reconnect.attach_argument_for(&ended.text) {
                    ended.text = attach_argument;
                }
                End::Ended(ended)
            }
            (_, end) => end,
        }
    }

    fn attach_argument(&self) -> Option<String> {
        self.reconnect.key.as_ref().map(SessionKey::attach_argument)
    }

    /// The person does not want to wait any longer.
    pub(super) fn give_up(&self) -> Option<End> {
        let give_up = || End::NotReconnected {
            why: String::from("given up"),
            attach_argument: self.attach_argument(),
        };
        self.reconnect.is_reconnecting().then(give_up)
    }

    /// What is typed now is for nobody: the interrupt's key gives up, and of the
    /// rest the person is told by the bell.
    pub(super) fn discard_input(&mut self, typed: &[u8]) -> Option<End> {
        const USUAL: u8 = 3;
        let key = self.terminal.as_ref().and_then(|terminal| terminal.key_of(Signal::SIGINT));
        if typed.contains(&key.unwrap_or(USUAL)) {
            return self.give_up();
        }
        if !typed.is_empty() {
            self.to_output.push(b"\x07");
        }
        None
    }

    /// Calls the server until it answers.
    fn connect_again(&mut self, end: &End) -> std::result::Result<(Stream, Transport), End> {
        match end {
            End::NotExtended | End::HelloTooLate { .. } => self.reconnect.plain += 1,
            End::Lost(why) if self.reconnect.lost.is_none() => self.notice_lost(why),
            _ => {}
        }
        self.reconnect.lost.get_or_insert_with(Instant::now);
        loop {
            let wait = self.reconnect.wait();
            self.wait_interactively(Some(Instant::now() + wait), None)?;
            let Ok(connecting) = ConnectThread::start(self.config) else {
                // Out of threads or descriptors: it is tried again.
                continue;
            };
            self.wait_interactively(None, Some(&connecting.done))?;
            if let Ok(Ok(called)) = connecting.thread.join() {
                return Ok(called);
            }
        }
    }

    fn notice_lost(&self, why: &str) {
        let escape = self.config.escape.map(|escape| format!("{}. or ", char::from(escape)));
        let keys = escape.unwrap_or_default();
        let address = self.config.address.to_string_lossy();
        self.notice(&format!(
            "connection to {address} lost: {why}; coming back (what is typed is dropped; {keys}Ctrl-C gives up)"
        ));
    }

    /// Waits until then, or until this hangs up; hears the person, and signals.
    fn wait_interactively(
        &mut self,
        until: Option<Instant>,
        done: Option<&UnixStream>,
    ) -> std::result::Result<(), End> {
        loop {
            let now = Instant::now();
            if until.is_some_and(|until| now >= until) {
                return Ok(());
            }
            self.poll_foreground(now);
            let (output, failure) = (&self.output, &self.failure);
            if !self.to_output.flush(|bytes| output.write_recording_failure(bytes, failure).taken())
            {
                return Err(self.output_ended());
            }
            let mut polled = PollSet::default();
            let signal = polled.add(self.signals.as_fd(), true, false);
            let closed = polled.add(self.output.as_fd(), false, !self.to_output.is_empty());
            let is_raw = self.terminal.as_ref().is_some_and(|terminal| terminal.is_raw());
            let reads = is_raw && self.input == InputState::Open && self.to_output.is_empty();
            let input = reads.then(|| polled.add(stdio::stdin(), true, false));
            let done_at = done.map(|done| polled.add(done.as_fd(), true, false));
            let next = [until, self.next_look].into_iter().flatten().min();
            let found = polled.wait(next.map(|at| at.saturating_duration_since(now)));
            let has = |at: Option<usize>| at.is_some_and(|at| found.readable(at));
            let signalled = has(Some(signal)).then(|| self.handle_signals()).flatten();
            if let Some(end) = signalled {
                return Err(end);
            }
            if has(input) {
                if let Some(end) = self.read_input() {
                    return Err(end);
                }
            }
            if found.hung_up(closed) {
                return Err(End::OutputClosed);
            }
            if has(done_at) {
                return Ok(());
            }
        }
    }

    /// The same person at the same terminal, over another connection.
    fn on_new_connection(self, stream: Stream, transport: Transport) -> Self {
        let Self { config, signals, output, terminal, .. } = self;
        let Self { failure, escapes, to_output, line_position, mut reconnect, input, .. } = self;
        (reconnect.look, reconnect.is_silent) = (None, false);
        let session = Self::new(config, stream, transport, signals, output, terminal);
        let mut session =
            Self { failure, escapes, to_output, line_position, reconnect, input, ..session };
        session.greet();
        session
    }

    /// Something was sent over TCP: it is looked after a while whether it has
    /// arrived.
    pub(super) fn probe_later(&mut self, now: Instant) {
        let is_worth_it = self.transport == Transport::Tcp && self.reconnect.key.is_some();
        if is_worth_it && self.reconnect.look.is_none() {
            self.reconnect.look = Some(now + PROBE_AFTER);
        }
    }

    /// Looks whether it has; whether the connection is none any more.
    pub(super) fn probe(&mut self, now: Instant) -> bool {
        if self.server_ended || self.reconnect.look.is_none_or(|at| now < at) {
            return false;
        }
        let silence = self.stream.unacknowledged_for();
        self.reconnect.look = silence.map(|_| now + PROBE_AGAIN);
        self.reconnect.is_silent = silence.is_some_and(|silence| silence >= ACK_TIMEOUT);
        self.reconnect.is_silent
    }
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
