//! Attaching to a session and leaving it, as a state machine. It has no
//! descriptors, no clock and no input or output of its own: what a session has it
//! holds for the registry, which does what it says. Times are of the clock that nobody
//! sets: they mean the same to the next gateway.

use std::time::Duration;

use fpty::sys::clock::{BootInstant, Timestamp};

/// What is held for the registry in each state; numbers, in tests.
pub trait AttachTypes {
    /// The program that runs.
    type Program;
    /// The one client that is attached.
    type Client: Copy;
    /// A terminal without a client, and what is kept of its output.
    type Terminal;
    /// What is left when the program has ended.
    type Exited;
    /// Somebody who has come for the session.
    type Pending;
}

/// How long a client that has come may take to answer, and one that has to go may
/// take for it.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);
pub const DETACH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long what is left of an ended session is kept.
pub const EXITED_RETENTION: Duration = Duration::from_secs(600);

/// How it is with a session that can be left.
pub enum AttachState<T: AttachTypes> {
    /// Its program runs.
    Running(Running<T>),
    /// It has ended when nobody was there.
    Exited(T::Exited, Timestamp),
}

/// One whose program runs.
pub struct Running<T: AttachTypes> {
    /// The program.
    pub program: T::Program,
    holder: TerminalHolder<T>,
    /// Since when it is where it is.
    since: Timestamp,
}

/// Who has its terminal.
pub enum TerminalHolder<T: AttachTypes> {
    /// A client.
    Attached(AttachedClient<T>),
    /// Nobody.
    Detached(T::Terminal),
}

/// The client that is attached.
pub struct AttachedClient<T: AttachTypes> {
    client: T::Client,
    /// It has come for what was left, and has to have answered by then.
    confirm_by: Option<BootInstant>,
    /// It has to go by then, as somebody else waits.
    pending: Option<(T::Pending, BootInstant)>,
}

/// What becomes of somebody who has come for a session.
#[must_use]
pub enum AttachDecision<T: AttachTypes> {
    /// It is the client from now on: it gets this terminal.
    Granted(T::Terminal, T::Pending),
    /// It is shown what is left.
    ShowExited(T::Pending),
    /// It gets nothing: somebody else is attached.
    InUse(T::Pending),
    /// It waits for the client to go.
    Wait {
        /// That one was not told yet that it has to.
        must_notify: bool,
        /// Who waited before gets nothing: this one took it.
        displaced: Option<T::Pending>,
    },
}

/// What comes of a client that is not there any more.
#[must_use]
pub enum DetachResult<T: AttachTypes> {
    /// Nobody is attached.
    Detached,
    /// Whoever waited is, and gets this terminal.
    PassedOn(T::Terminal, T::Pending),
    /// There was no client that could leave a terminal.
    NotAttached(T::Terminal),
}

/// What there was of a session that is over.
pub struct Released<T: AttachTypes> {
    /// The program, where it runs.
    pub program: Option<T::Program>,
    /// The terminal, where nobody is attached to it.
    pub terminal: Option<T::Terminal>,
    /// Who waited for the client to go.
    pub pending: Option<T::Pending>,
}

/// How long a session is kept.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// After it was left.
    pub detached: Duration,
    /// The latest that it ends where nobody is attached. (One that is attached is
    /// told before, by others.)
    pub end: Option<BootInstant>,
}

/// What is overdue.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue<C> {
    /// The client does not answer, or does not go: it is let go.
    DropClient(C),
    /// Nobody has come for too long: the session ends, or what is left of it.
    Expired,
}

impl<T: AttachTypes> AttachState<T> {
    /// A session begins, or goes on after its gateway, with its client.
    pub fn attached(program: T::Program, client: T::Client, since: Timestamp) -> Self {
        let holder =
            TerminalHolder::Attached(AttachedClient { client, confirm_by: None, pending: None });
        Self::Running(Running { program, holder, since })
    }

    /// One goes on after its gateway, and nobody is attached.
    pub fn detached(program: T::Program, terminal: T::Terminal, since: Timestamp) -> Self {
        Self::Running(Running { program, holder: TerminalHolder::Detached(terminal), since })
    }

    /// Since when it is where it is.
    pub fn since(&self) -> Timestamp {
        match self {
            Self::Running(running) => running.since,
            Self::Exited(_, since) => *since,
        }
    }

    /// How near it is to whoever comes back and says no more: what runs alone comes
    /// before what has ended, and both before what is attached.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Running(Running { holder: TerminalHolder::Detached(_), .. }) => 2,
            Self::Exited(..) => 1,
            Self::Running(_) => 0,
        }
    }

    /// Whether its program has ended: its name is free again.
    pub fn has_exited(&self) -> bool {
        matches!(self, Self::Exited(..))
    }

    /// The program, while it runs.
    pub fn program(&self) -> Option<&T::Program> {
        match self {
            Self::Running(running) => Some(&running.program),
            Self::Exited(..) => None,
        }
    }

    /// The same, to be changed.
    pub fn program_mut(&mut self) -> Option<&mut T::Program> {
        match self {
            Self::Running(running) => Some(&mut running.program),
            Self::Exited(..) => None,
        }
    }

    /// The client that is attached.
    pub fn client(&self) -> Option<T::Client> {
        match self {
            Self::Running(Running { holder: TerminalHolder::Attached(attached), .. }) => {
                Some(attached.client)
            }
            _ => None,
        }
    }

    /// The terminal, where nobody is attached to it.
    pub fn terminal(&self) -> Option<&T::Terminal> {
        match self {
            Self::Running(Running { holder: TerminalHolder::Detached(terminal), .. }) => {
                Some(terminal)
            }
            _ => None,
        }
    }

    /// The same, to be used.
    pub fn terminal_mut(&mut self) -> Option<&mut T::Terminal> {
        match self {
            Self::Running(Running { holder: TerminalHolder::Detached(terminal), .. }) => {
                Some(terminal)
            }
            _ => None,
        }
    }

    /// What is left, where it has ended.
    pub fn exited(&self) -> Option<&T::Exited> {
        match self {
            Self::Exited(exited, _) => Some(exited),
            Self::Running(_) => None,
        }
    }

    /// Who waits for the client to go.
    pub fn pending(&self) -> Option<&T::Pending> {
        match self {
            Self::Running(Running { holder: TerminalHolder::Attached(attached), .. }) => {
                attached.pending.as_ref().map(|(pending, _)| pending)
            }
            _ => None,
        }
    }

    /// Somebody has come for it, who `steal` it where another one is attached; if it
    /// is to have it, it becomes this client.
    pub fn request_attach(
        &mut self,
        pending: T::Pending,
        steal: bool,
        client: impl FnOnce(&T::Pending) -> T::Client,
        now: Timestamp,
    ) -> AttachDecision<T> {
        let running = match self {
            Self::Exited(..) => return AttachDecision::ShowExited(pending),
            Self::Running(running) => running,
        };
        if let TerminalHolder::Attached(attached) = &mut running.holder {
            return attached.request(pending, steal, now);
        }
        let begun = AttachedClient::unconfirmed(client(&pending), now);
        match std::mem::replace(&mut running.holder, TerminalHolder::Attached(begun)) {
            TerminalHolder::Detached(terminal) => {
                running.since = now;
                AttachDecision::Granted(terminal, pending)
            }
            attached => {
                running.holder = attached;
                AttachDecision::InUse(pending)
            }
        }
    }

    /// The client has answered that has come.
    pub fn confirm_attach(&mut self) {
        if let Self::Running(Running { holder: TerminalHolder::Attached(attached), .. }) = self {
            attached.confirm_by = None;
        }
    }

    /// The client has left, or is lost, and this is what it leaves. Whoever waits
    /// becomes this client.
    pub fn detach(
        &mut self,
        terminal: T::Terminal,
        client: impl FnOnce(&T::Pending) -> T::Client,
        now: Timestamp,
    ) -> DetachResult<T> {
        let Self::Running(running) = self else {
            return DetachResult::NotAttached(terminal);
        };
        let TerminalHolder::Attached(attached) = &mut running.holder else {
            return DetachResult::NotAttached(terminal);
        };
        running.since = now;
        match attached.pending.take() {
            Some((pending, _)) => {
                *attached = AttachedClient::unconfirmed(client(&pending), now);
                DetachResult::PassedOn(terminal, pending)
            }
            None => {
                running.holder = TerminalHolder::Detached(terminal);
                DetachResult::Detached
            }
        }
    }

    /// The program has ended, of which nobody was told: this is left. Whoever waited
    /// sees that.
    pub fn exit(&mut self, exited: T::Exited, now: Timestamp) -> Option<T::Pending> {
        if self.has_exited() {
            return None;
        }
        match std::mem::replace(self, Self::Exited(exited, now)) {
            Self::Running(running) => running.holder.pending(),
            Self::Exited(..) => None,
        }
    }

    /// It is over. Who waited gets nothing; nobody is attached to this terminal.
    pub fn release(self) -> Released<T> {
        let (mut terminal, mut pending) = (None, None);
        let program = match self {
            Self::Exited(..) => None,
            Self::Running(Running { program, holder, .. }) => {
                match holder {
                    TerminalHolder::Detached(detached) => terminal = Some(detached),
                    TerminalHolder::Attached(attached) => {
                        pending = attached.pending.map(|(next, _)| next)
                    }
                }
                Some(program)
            }
        };
        Released { program, terminal, pending }
    }

    /// When something will be overdue.
    pub fn due(&self, times: TimeLimits) -> Option<BootInstant> {
        match self {
            Self::Exited(_, since) => Some(since.boot + EXITED_RETENTION),
            Self::Running(Running { holder: TerminalHolder::Detached(_), since, .. }) => {
                let detached = since.boot + times.detached;
                Some(times.end.map_or(detached, |end| end.min(detached)))
            }
            Self::Running(Running { holder: TerminalHolder::Attached(attached), .. }) => {
                let goes = attached.pending.as_ref().map(|(_, until)| *until);
                goes.into_iter().chain(attached.confirm_by).min()
            }
        }
    }

    /// What is overdue.
    pub fn overdue(&self, times: TimeLimits, now: BootInstant) -> Option<Overdue<T::Client>> {
        let is_due = self.due(times).is_some_and(|due| now >= due);
        is_due.then(|| self.client().map_or(Overdue::Expired, Overdue::DropClient))
    }
}

impl<T: AttachTypes> AttachedClient<T> {
    /// One that has come for what was left.
    fn unconfirmed(client: T::Client, now: Timestamp) -> Self {
        Self { client, confirm_by: Some(now.boot + CONFIRM_TIMEOUT), pending: None }
    }

    fn request(&mut self, pending: T::Pending, steal: bool, now: Timestamp) -> AttachDecision<T> {
        if !steal {
            return AttachDecision::InUse(pending);
        }
        // Who goes has its time from when it was told: who come one after the other do
        // not put that off.
        let until = self.pending.as_ref().map_or(now.boot + DETACH_TIMEOUT, |(_, until)| *until);
        let displaced = self.pending.replace((pending, until)).map(|(pending, _)| pending);
        AttachDecision::Wait { must_notify: displaced.is_none(), displaced }
    }
}

impl<T: AttachTypes> TerminalHolder<T> {
    fn pending(self) -> Option<T::Pending> {
        match self {
            Self::Attached(AttachedClient { pending: Some((pending, _)), .. }) => Some(pending),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
