//! A connection that broke is taken up again, where the session goes on without
//! us: its terminal and its program are there, and nothing of its screen is lost.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::input::Input;
use super::outcome::End;
use super::session::Session;
use super::{Client, Which, call};
use crate::error::Result;
use crate::proto::session_key::{Finds, Secret, SessionKey, of_word};
use crate::proto::{Ended, Ending, NO_SUCH};
use crate::sys;
use crate::sys::poll::Several;
use crate::sys::socket::{Stream, Transport};
use crate::sys::stdio;

/// The first and the longest wait between two tries. Each is the longest of its
/// try: of a thousand clients that lost one gateway not all come at once.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

/// How long a refusal is not the last word: a gateway that was killed is there
/// again within a second, and another one of its instance does not know its
/// sessions.
const NOT_THE_LAST: Duration = Duration::from_secs(3);

/// How often a server is asked that turns out to speak plainly: it begins a
/// program each time.
const PLAIN: u8 = 3;

/// How soon it is looked whether what was sent over TCP has arrived, how often
/// then, and how long a server's kernel may say nothing. (After a machine was
/// asleep the kernel itself would try for a quarter of an hour.)
const LOOK_AFTER: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_secs(10);

/// How the session is found again, and whether that is under way.
#[derive(Default)]
pub struct Again {
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

impl Again {
    /// The server has said by what we find the session. (A watcher goes on with
    /// what it came by.)
    pub fn note_key(&mut self, mut key: SessionKey, which: &Which) {
        if key.finds == Finds::Watcher {
            key.secret = match (&self.key, which) {
                (Some(before), _) => before.secret.clone(),
                (None, Which::Left(word)) => of_word(word).and_then(|(_, secret)| secret),
                (None, _) => None,
            };
        }
        self.key = Some(key);
    }

    /// By what the session is found that was lost.
    pub fn key(&self) -> Option<&SessionKey> {
        self.key.as_ref().filter(|_| self.is_awaited())
    }

    /// Whether the connection broke, and we were not told to go on since: nothing
    /// that is typed is for the program.
    pub fn is_awaited(&self) -> bool {
        self.lost.is_some()
    }

    /// We were told to go on; whether the session was lost before.
    pub fn arrives(&mut self) -> bool {
        (self.waited, self.plain) = (Duration::ZERO, 0);
        self.lost.take().is_some()
    }

    /// When it is looked whether what was sent has arrived.
    pub fn when(&self) -> Option<Instant> {
        self.look
    }

    /// Why the connection can be used no more, where that was found here.
    pub fn why(&self) -> Option<String> {
        let line = || format!("no answer for {} seconds", SILENCE.as_secs());
        self.is_silent.then(line)
    }

    /// What a person types to come back, to a session that was left, whose id the
    /// server says.
    pub fn word_for(&self, id: &str) -> Option<String> {
        self.key.as_ref().filter(|key| key.id == id).map(SessionKey::word)
    }

    /// How long to wait before the next try.
    fn wait(&mut self) -> Duration {
        self.waited = (self.waited * 2).clamp(FIRST, LONGEST);
        let mut chance = [0];
        let _ = sys::random(&mut chance);
        let half = self.waited / 2;
        half + half * u32::from(chance[0]) / u32::from(u8::MAX)
    }
}

/// What a session is asked for by: what was typed, or what the server has said.
pub fn asked_for<'a>(which: &'a Which, again: &'a Again) -> Option<(&'a str, Option<Secret>)> {
    match (again.key(), which) {
        (Some(key), _) => Some((&key.id, key.secret.clone())),
        (None, Which::Left(word)) => Some(of_word(word).unwrap_or((word, None))),
        (None, Which::Either(name)) => Some((name, None)),
        (None, Which::New | Which::Named(_)) => None,
    }
}

/// A server that is called, while the person may give up: a name may take long to
/// be looked up, and a connection to be made.
struct Calling {
    thread: JoinHandle<Result<(Stream, Transport)>>,
    /// Hangs up when that is done.
    done: UnixStream,
}

impl Calling {
    fn start(config: &Client) -> std::io::Result<Self> {
        let (done, theirs) = UnixStream::pair()?;
        let config = config.clone();
        let thread = std::thread::Builder::new().spawn(move || {
            let _theirs = theirs;
            call(&config)
        })?;
        Ok(Self { thread, done })
    }
}

impl<'a> Session<'a> {
    /// Runs it to its end, over as many connections as that takes; returns that,
    /// and what was typed into a session that came to nothing.
    pub fn run_to_its_end(mut self) -> (End, Vec<u8>) {
        loop {
            let end = self.run_on();
            let comes_back = self.may_come_back(&end);
            if !(comes_back && self.again.is_awaited()) {
                self.give_back(&end);
                self.end_the_line(&end);
            }
            if !comes_back {
                let typed = self.take_typed();
                return (self.last_word(end), typed);
            }
            match self.call_again(&end) {
                Ok((stream, transport)) => self = self.over(stream, transport),
                Err(end) => return (end, Vec::new()),
            }
        }
    }

    /// Whether the end is that of a connection alone. Where nobody types it is not
    /// known what of the input has arrived.
    fn may_come_back(&self, end: &End) -> bool {
        if !self.config.reconnects || self.terminal.is_none() || self.again.key.is_none() {
            return false;
        }
        let tried_for = self.again.lost.map(|since| since.elapsed());
        match end {
            End::Lost(_) => self.server_ended,
            End::Refused(_) | End::Told(Ended { ending: Ending::Refused, .. }) => {
                tried_for.is_some_and(|time| time < NOT_THE_LAST)
            }
            End::SpeaksPlainly | End::CameTooLate { .. } => {
                tried_for.is_some() && self.again.plain + 1 < PLAIN
            }
            _ => false,
        }
    }

    /// What is told of an end that another one may stand behind.
    fn last_word(&self, end: End) -> End {
        match (&self.again.key, end) {
            (Some(_), End::Told(Ended { ending: Ending::Refused, text, .. }))
                if self.again.is_awaited() =>
            {
                let word = (text != NO_SUCH).then(|| self.word()).flatten();
                End::NotTakenUp { why: text, word }
            }
            (_, End::Told(mut ended)) if ended.ending == Ending::Detached && ended.value == 0 => {
                if let Some(word) = self.again.word_for(&ended.text) {
                    ended.text = word;
                }
                End::Told(ended)
            }
            (_, end) => end,
        }
    }

    fn word(&self) -> Option<String> {
        self.again.key.as_ref().map(SessionKey::word)
    }

    /// The person does not want to wait any longer.
    pub(super) fn gives_up(&self) -> Option<End> {
        let gives_up = || End::NotTakenUp { why: String::from("given up"), word: self.word() };
        self.again.is_awaited().then(gives_up)
    }

    /// What is typed now is for nobody: the interrupt's key gives up, and of the
    /// rest the person is told by the bell.
    pub(super) fn drops(&mut self, typed: &[u8]) -> Option<End> {
        const USUAL: u8 = 3;
        let key = self.terminal.as_ref().and_then(|terminal| terminal.key_of(Signal::SIGINT));
        if typed.contains(&key.unwrap_or(USUAL)) {
            return self.gives_up();
        }
        if !typed.is_empty() {
            self.to_output.push(b"\x07");
        }
        None
    }

    /// Calls the server until it answers.
    fn call_again(&mut self, end: &End) -> std::result::Result<(Stream, Transport), End> {
        match end {
            End::SpeaksPlainly | End::CameTooLate { .. } => self.again.plain += 1,
            End::Lost(why) if self.again.lost.is_none() => self.tell_lost(why),
            _ => {}
        }
        self.again.lost.get_or_insert_with(Instant::now);
        loop {
            let wait = self.again.wait();
            self.wait_meanwhile(Some(Instant::now() + wait), None)?;
            let Ok(calling) = Calling::start(self.config) else {
                // Out of threads or descriptors: it is tried again.
                continue;
            };
            self.wait_meanwhile(None, Some(&calling.done))?;
            if let Ok(Ok(called)) = calling.thread.join() {
                return Ok(called);
            }
        }
    }

    fn tell_lost(&self, why: &str) {
        let escape = self.config.escape.map(|escape| format!("{}. or ", char::from(escape)));
        let keys = escape.unwrap_or_default();
        let address = self.config.address.to_string_lossy();
        self.notice(&format!(
            "connection to {address} lost: {why}; coming back (what is typed is dropped; {keys}Ctrl-C gives up)"
        ));
    }

    /// Waits until then, or until this hangs up; hears the person, and signals.
    fn wait_meanwhile(
        &mut self,
        until: Option<Instant>,
        done: Option<&UnixStream>,
    ) -> std::result::Result<(), End> {
        loop {
            let now = Instant::now();
            if until.is_some_and(|until| now >= until) {
                return Ok(());
            }
            self.look(now);
            let (output, failure) = (&self.output, &self.failure);
            if !self.to_output.flush(|bytes| output.write_noting(bytes, failure).taken()) {
                return Err(self.output_ended());
            }
            let mut polled = Several::default();
            let signal = polled.add(self.signals.as_fd(), true, false);
            let closed = polled.add(self.output.as_fd(), false, !self.to_output.is_empty());
            let is_raw = self.terminal.as_ref().is_some_and(|terminal| terminal.is_raw());
            let reads = is_raw && self.input == Input::Open && self.to_output.is_empty();
            let input = reads.then(|| polled.add(stdio::stdin(), true, false));
            let done_at = done.map(|done| polled.add(done.as_fd(), true, false));
            let next = [until, self.next_look].into_iter().flatten().min();
            let found = polled.wait(next.map(|at| at.saturating_duration_since(now)));
            let has = |at: Option<usize>| at.is_some_and(|at| found.readable(at));
            let signalled = has(Some(signal)).then(|| self.signals_came()).flatten();
            if let Some(end) = signalled {
                return Err(end);
            }
            if has(input) {
                if let Some(end) = self.typed() {
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
    fn over(self, stream: Stream, transport: Transport) -> Self {
        let Self { config, signals, output, terminal, .. } = self;
        let Self { failure, escapes, to_output, tail, mut again, input, .. } = self;
        (again.look, again.is_silent) = (None, false);
        let session = Self::new(config, stream, transport, signals, output, terminal);
        let mut session = Self { failure, escapes, to_output, tail, again, input, ..session };
        session.greet();
        session
    }

    /// Something was sent over TCP: it is looked after a while whether it has
    /// arrived.
    pub(super) fn look_later(&mut self, now: Instant) {
        let is_worth_it = self.transport == Transport::Tcp && self.again.key.is_some();
        if is_worth_it && self.again.look.is_none() {
            self.again.look = Some(now + LOOK_AFTER);
        }
    }

    /// Looks whether it has; whether the connection is none any more.
    pub(super) fn look_for_answer(&mut self, now: Instant) -> bool {
        if self.server_ended || self.again.look.is_none_or(|at| now < at) {
            return false;
        }
        let silence = self.stream.unanswered_for();
        self.again.look = silence.map(|_| now + LOOK_AGAIN);
        self.again.is_silent = silence.is_some_and(|silence| silence >= SILENCE);
        self.again.is_silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(finds: Finds) -> SessionKey {
        let secret = (finds != Finds::Watcher).then(|| Secret::of([7; 16]));
        SessionKey { id: String::from("k3x9q2aa"), secret, finds }
    }

    #[test]
    fn tries_come_less_and_less_often() {
        let mut again = Again::default();
        let mut longest = FIRST;
        for _ in 0..20 {
            let wait = again.wait();
            assert!(wait >= longest / 2 && wait <= longest, "{wait:?} {longest:?}");
            longest = (longest * 2).min(LONGEST);
        }
        again.lost = Some(Instant::now());
        assert!(again.arrives() && !again.arrives());
        assert!(again.wait() <= FIRST);
    }

    #[test]
    fn it_is_asked_for_what_was_lost() {
        let mut again = Again::default();
        let which = Which::Named(String::from("build"));
        assert!(asked_for(&which, &again).is_none());
        again.note_key(key(Finds::User), &which);
        assert!(asked_for(&which, &again).is_none(), "it was not lost");
        again.lost = Some(Instant::now());
        let (id, secret) = asked_for(&which, &again).expect("the session");
        assert!(id == "k3x9q2aa" && secret.is_some_and(|secret| secret.is(&[7; 16])));
        assert_eq!(again.word_for("k3x9q2aa").as_deref(), Some("k3x9q2aa"));
        assert_eq!(again.word_for("another"), None);
    }

    #[test]
    fn who_watches_comes_back_by_what_it_came_by() {
        let word = key(Finds::Secret).word();
        let which = Which::Left(word);
        let mut again = Again::default();
        let (id, secret) = asked_for(&which, &again).expect("a session");
        assert!(id == "k3x9q2aa" && secret.is_some());
        again.note_key(key(Finds::Watcher), &which);
        again.lost = Some(Instant::now());
        for _ in 0..2 {
            let (_, secret) = asked_for(&which, &again).expect("a session");
            assert!(secret.is_some_and(|secret| secret.is(&[7; 16])));
            again.note_key(key(Finds::Watcher), &which);
        }
    }
}
