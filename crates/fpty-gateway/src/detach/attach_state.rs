//! Attaching to a session and leaving it, as a state machine. It has no
//! descriptors, no clock and no input or output of its own: what a session has it
//! holds for the registry, which does what it says. Times are of the clock that nobody
//! sets: they mean the same to the next gateway.

use std::time::Duration;

use fpty::sys::clock::{BootInstant, Timestamp};

/// What is held for the registry in each state; numbers, in tests.
pub trait Things {
    /// The program that runs.
    type Program;
    /// The one client that is attached.
    type Client: Copy;
    /// A terminal without a client, and what is kept of its output.
    type Terminal;
    /// What is left when the program has ended.
    type Last;
    /// Somebody who has come for the session.
    type Newcomer;
}

/// How long a client that has come may take to answer, and one that has to go may
/// take for it.
pub const PATIENCE: Duration = Duration::from_secs(2);
pub const GOING: Duration = Duration::from_secs(1);

/// How long what is left of an ended session is kept.
pub const ENDED_FOR: Duration = Duration::from_secs(600);

/// How it is with a session that can be left.
pub enum State<T: Things> {
    /// Its program runs.
    Runs(Running<T>),
    /// It has ended when nobody was there.
    Over(T::Last, Timestamp),
}

/// One whose program runs.
pub struct Running<T: Things> {
    /// The program.
    pub program: T::Program,
    place: Place<T>,
    /// Since when it is where it is.
    since: Timestamp,
}

/// Who has its terminal.
pub enum Place<T: Things> {
    /// A client.
    Attached(Attached<T>),
    /// Nobody.
    Alone(T::Terminal),
}

/// The client that is attached.
pub struct Attached<T: Things> {
    client: T::Client,
    /// It has come for what was left, and has to have answered by then.
    arrives: Option<BootInstant>,
    /// It has to go by then, as somebody else waits.
    next: Option<(T::Newcomer, BootInstant)>,
}

/// What becomes of somebody who has come for a session.
#[must_use]
pub enum Answer<T: Things> {
    /// It is the client from now on: it gets this terminal.
    Begins(T::Terminal, T::Newcomer),
    /// It is shown what is left.
    Sees(T::Newcomer),
    /// It gets nothing: somebody else is attached.
    IsTaken(T::Newcomer),
    /// It waits for the client to go.
    Waits {
        /// That one was not told yet that it has to.
        is_news: bool,
        /// Who waited before gets nothing: this one took it.
        overtaken: Option<T::Newcomer>,
    },
}

/// What comes of a client that is not there any more.
#[must_use]
pub enum Left<T: Things> {
    /// Nobody is attached.
    Alone,
    /// Whoever waited is, and gets this terminal.
    Next(T::Terminal, T::Newcomer),
    /// There was no client that could leave a terminal.
    Nobody(T::Terminal),
}

/// What there was of a session that is over.
pub struct Remnants<T: Things> {
    /// The program, where it runs.
    pub program: Option<T::Program>,
    /// The terminal, where nobody is attached to it.
    pub terminal: Option<T::Terminal>,
    /// Who waited for the client to go.
    pub newcomer: Option<T::Newcomer>,
}

/// How long a session is kept.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// After it was left.
    pub alone: Duration,
    /// The latest that it ends where nobody is attached. (One that is attached is
    /// told before, by others.)
    pub end: Option<BootInstant>,
}

/// What is overdue.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue<C> {
    /// The client does not answer, or does not go: it is let go.
    LetGo(C),
    /// Nobody has come for too long: the session ends, or what is left of it.
    Ends,
}

impl<T: Things> State<T> {
    /// A session begins, or goes on after its gateway, with its client.
    pub fn attached(program: T::Program, client: T::Client, since: Timestamp) -> Self {
        let place = Place::Attached(Attached { client, arrives: None, next: None });
        Self::Runs(Running { program, place, since })
    }

    /// One goes on after its gateway, and nobody is attached.
    pub fn alone(program: T::Program, terminal: T::Terminal, since: Timestamp) -> Self {
        Self::Runs(Running { program, place: Place::Alone(terminal), since })
    }

    /// Since when it is where it is.
    pub fn since(&self) -> Timestamp {
        match self {
            Self::Runs(running) => running.since,
            Self::Over(_, since) => *since,
        }
    }

    /// How near it is to whoever comes back and says no more: what runs alone comes
    /// before what has ended, and both before what is attached.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Runs(Running { place: Place::Alone(_), .. }) => 2,
            Self::Over(..) => 1,
            Self::Runs(_) => 0,
        }
    }

    /// Whether its program has ended: its name is free again.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Over(..))
    }

    /// The program, while it runs.
    pub fn program(&self) -> Option<&T::Program> {
        match self {
            Self::Runs(running) => Some(&running.program),
            Self::Over(..) => None,
        }
    }

    /// The same, to be changed.
    pub fn program_mut(&mut self) -> Option<&mut T::Program> {
        match self {
            Self::Runs(running) => Some(&mut running.program),
            Self::Over(..) => None,
        }
    }

    /// The client that is attached.
    pub fn client(&self) -> Option<T::Client> {
        match self {
            Self::Runs(Running { place: Place::Attached(attached), .. }) => Some(attached.client),
            _ => None,
        }
    }

    /// The terminal, where nobody is attached to it.
    pub fn terminal(&self) -> Option<&T::Terminal> {
        match self {
            Self::Runs(Running { place: Place::Alone(terminal), .. }) => Some(terminal),
            _ => None,
        }
    }

    /// The same, to be used.
    pub fn terminal_mut(&mut self) -> Option<&mut T::Terminal> {
        match self {
            Self::Runs(Running { place: Place::Alone(terminal), .. }) => Some(terminal),
            _ => None,
        }
    }

    /// What is left, where it has ended.
    pub fn last(&self) -> Option<&T::Last> {
        match self {
            Self::Over(last, _) => Some(last),
            Self::Runs(_) => None,
        }
    }

    /// Who waits for the client to go.
    pub fn next(&self) -> Option<&T::Newcomer> {
        match self {
            Self::Runs(Running { place: Place::Attached(attached), .. }) => {
                attached.next.as_ref().map(|(newcomer, _)| newcomer)
            }
            _ => None,
        }
    }

    /// Somebody has come for it, who `steals` it where another one is attached; if it
    /// is to have it, it becomes this client.
    pub fn comes(
        &mut self,
        newcomer: T::Newcomer,
        steals: bool,
        client: impl FnOnce(&T::Newcomer) -> T::Client,
        now: Timestamp,
    ) -> Answer<T> {
        let running = match self {
            Self::Over(..) => return Answer::Sees(newcomer),
            Self::Runs(running) => running,
        };
        if let Place::Attached(attached) = &mut running.place {
            return attached.ask(newcomer, steals, now);
        }
        let begun = Attached::arriving(client(&newcomer), now);
        match std::mem::replace(&mut running.place, Place::Attached(begun)) {
            Place::Alone(terminal) => {
                running.since = now;
                Answer::Begins(terminal, newcomer)
            }
            attached => {
                running.place = attached;
                Answer::IsTaken(newcomer)
            }
        }
    }

    /// The client has answered that has come.
    pub fn arrive(&mut self) {
        if let Self::Runs(Running { place: Place::Attached(attached), .. }) = self {
            attached.arrives = None;
        }
    }

    /// The client has left, or is lost, and this is what it leaves. Whoever waits
    /// becomes this client.
    pub fn leaves(
        &mut self,
        terminal: T::Terminal,
        client: impl FnOnce(&T::Newcomer) -> T::Client,
        now: Timestamp,
    ) -> Left<T> {
        let Self::Runs(running) = self else {
            return Left::Nobody(terminal);
        };
        let Place::Attached(attached) = &mut running.place else {
            return Left::Nobody(terminal);
        };
        running.since = now;
        match attached.next.take() {
            Some((newcomer, _)) => {
                *attached = Attached::arriving(client(&newcomer), now);
                Left::Next(terminal, newcomer)
            }
            None => {
                running.place = Place::Alone(terminal);
                Left::Alone
            }
        }
    }

    /// The program has ended, of which nobody was told: this is left. Whoever waited
    /// sees that.
    pub fn ends(&mut self, last: T::Last, now: Timestamp) -> Option<T::Newcomer> {
        if self.is_over() {
            return None;
        }
        match std::mem::replace(self, Self::Over(last, now)) {
            Self::Runs(running) => running.place.next(),
            Self::Over(..) => None,
        }
    }

    /// It is over. Who waited gets nothing; nobody is attached to this terminal.
    pub fn forgotten(self) -> Remnants<T> {
        let (mut terminal, mut newcomer) = (None, None);
        let program = match self {
            Self::Over(..) => None,
            Self::Runs(Running { program, place, .. }) => {
                match place {
                    Place::Alone(alone) => terminal = Some(alone),
                    Place::Attached(attached) => newcomer = attached.next.map(|(next, _)| next),
                }
                Some(program)
            }
        };
        Remnants { program, terminal, newcomer }
    }

    /// When something will be overdue.
    pub fn due(&self, times: Times) -> Option<BootInstant> {
        match self {
            Self::Over(_, since) => Some(since.boot + ENDED_FOR),
            Self::Runs(Running { place: Place::Alone(_), since, .. }) => {
                let alone = since.boot + times.alone;
                Some(times.end.map_or(alone, |end| end.min(alone)))
            }
            Self::Runs(Running { place: Place::Attached(attached), .. }) => {
                let goes = attached.next.as_ref().map(|(_, until)| *until);
                goes.into_iter().chain(attached.arrives).min()
            }
        }
    }

    /// What is overdue.
    pub fn overdue(&self, times: Times, now: BootInstant) -> Option<Overdue<T::Client>> {
        let is_due = self.due(times).is_some_and(|due| now >= due);
        is_due.then(|| self.client().map_or(Overdue::Ends, Overdue::LetGo))
    }
}

impl<T: Things> Attached<T> {
    /// One that has come for what was left.
    fn arriving(client: T::Client, now: Timestamp) -> Self {
        Self { client, arrives: Some(now.boot + PATIENCE), next: None }
    }

    fn ask(&mut self, newcomer: T::Newcomer, steals: bool, now: Timestamp) -> Answer<T> {
        if !steals {
            return Answer::IsTaken(newcomer);
        }
        // Who goes has its time from when it was told: who come one after the other do
        // not put that off.
        let until = self.next.as_ref().map_or(now.boot + GOING, |(_, until)| *until);
        let overtaken = self.next.replace((newcomer, until)).map(|(newcomer, _)| newcomer);
        Answer::Waits { is_news: overtaken.is_none(), overtaken }
    }
}

impl<T: Things> Place<T> {
    fn next(self) -> Option<T::Newcomer> {
        match self {
            Self::Attached(Attached { next: Some((newcomer, _)), .. }) => Some(newcomer),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
