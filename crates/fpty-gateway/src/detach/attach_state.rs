//! Attach state machine: who is attached to a session, and who waits. It has no descriptors, no
//! clock and no input or output: the resources of each state it holds for the registry, which
//! applies its decisions. Times are of CLOCK_BOOTTIME, so they mean the same to the next gateway.

use std::time::Duration;

use fpty::sys::clock::{BootInstant, Timestamp};

/// Types of what the registry keeps in each state; numbers, in tests.
pub trait AttachTypes {
    /// A running program.
    type Program;
    /// The attached client.
    type Client: Copy;
    /// A detached terminal with its scrollback.
    type Terminal;
    /// An exited session, whose end and scrollback are kept.
    type Exited;
    /// A client that waits to attach.
    type Pending;
}

/// How long a client may take to confirm its attach, and a client that loses its session to detach.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);
pub const DETACH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an exited session is kept.
pub const EXITED_RETENTION: Duration = Duration::from_secs(600);

/// State of a detachable session.
pub enum AttachState<T: AttachTypes> {
    /// The program runs.
    Running(Running<T>),
    /// The program has ended while no client was attached.
    Exited(T::Exited, Timestamp),
}

/// A session whose program runs.
pub struct Running<T: AttachTypes> {
    /// The program.
    pub program: T::Program,
    holder: TerminalHolder<T>,
    /// Time of the last attach or detach.
    since: Timestamp,
}

/// Holder of a session's terminal.
pub enum TerminalHolder<T: AttachTypes> {
    /// A client.
    Attached(AttachedClient<T>),
    /// The registry.
    Detached(T::Terminal),
}

/// The attached client.
pub struct AttachedClient<T: AttachTypes> {
    client: T::Client,
    /// Deadline for a client that has attached to confirm it.
    confirm_by: Option<BootInstant>,
    /// The client that waits for this one to detach, and the deadline for that.
    pending: Option<(T::Pending, BootInstant)>,
}

/// Decision on a client that asks to attach.
#[must_use]
pub enum AttachDecision<T: AttachTypes> {
    /// The client is attached: it gets this terminal.
    Granted(T::Terminal, T::Pending),
    /// The client is shown the end of an exited session.
    ShowExited(T::Pending),
    /// The client is rejected: another one is attached.
    InUse(T::Pending),
    /// The client waits for the attached one to detach.
    Wait {
        /// The attached client is to be notified that it loses the session.
        must_notify: bool,
        /// An earlier client that waited is displaced.
        displaced: Option<T::Pending>,
    },
}

/// Result of a detach.
#[must_use]
pub enum DetachResult<T: AttachTypes> {
    /// No client is attached.
    Detached,
    /// The client that waited is attached: it gets this terminal.
    PassedOn(T::Terminal, T::Pending),
    /// No client was attached: there is no session for this terminal.
    NotAttached(T::Terminal),
}

/// Resources of a session that is released.
pub struct ReleasedSession<T: AttachTypes> {
    /// The program, where it runs.
    pub program: Option<T::Program>,
    /// The terminal, where the session was detached.
    pub terminal: Option<T::Terminal>,
    /// The client that waited to attach.
    pub pending: Option<T::Pending>,
}

/// Time limits of a session.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// How long the session may be detached.
    pub detached: Duration,
    /// The end of the session's maximum time, while it is detached. (Of an attached session the
    /// live session watches the time, with a notice.)
    pub end: Option<BootInstant>,
}

/// Overdue event of a session.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpiredDeadline<C> {
    /// The client has not confirmed, or not detached: it is dropped.
    DropClient(C),
    /// Nobody has attached in time: the session ends, or what is kept of it.
    Expired,
}

impl<T: AttachTypes> AttachState<T> {
    /// A session with a client: a new one, or one of an earlier gateway.
    pub fn attached(program: T::Program, client: T::Client, since: Timestamp) -> Self {
        let holder =
            TerminalHolder::Attached(AttachedClient { client, confirm_by: None, pending: None });
        Self::Running(Running { program, holder, since })
    }

    /// A detached session of an earlier gateway.
    pub fn detached(program: T::Program, terminal: T::Terminal, since: Timestamp) -> Self {
        Self::Running(Running { program, holder: TerminalHolder::Detached(terminal), since })
    }

    /// Time of the last change of state.
    pub fn since(&self) -> Timestamp {
        match self {
            Self::Running(running) => running.since,
            Self::Exited(_, since) => *since,
        }
    }

    /// Rank among the targets of a request without a name: detached before exited, attached last.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Running(Running { holder: TerminalHolder::Detached(_), .. }) => 2,
            Self::Exited(..) => 1,
            Self::Running(_) => 0,
        }
    }

    /// Whether the program has ended: the session's name is free again.
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

    /// The program, while it runs; mutable.
    pub fn program_mut(&mut self) -> Option<&mut T::Program> {
        match self {
            Self::Running(running) => Some(&mut running.program),
            Self::Exited(..) => None,
        }
    }

    fn attached_client(&self) -> Option<&AttachedClient<T>> {
        match self {
            Self::Running(Running { holder: TerminalHolder::Attached(attached), .. }) => {
                Some(attached)
            }
            _ => None,
        }
    }

    /// The attached client.
    pub fn client(&self) -> Option<T::Client> {
        self.attached_client().map(|attached| attached.client)
    }

    /// The terminal of a detached session.
    pub fn terminal(&self) -> Option<&T::Terminal> {
        match self {
            Self::Running(Running { holder: TerminalHolder::Detached(terminal), .. }) => {
                Some(terminal)
            }
            _ => None,
        }
    }

    /// The terminal of a detached session; mutable.
    pub fn terminal_mut(&mut self) -> Option<&mut T::Terminal> {
        match self {
            Self::Running(Running { holder: TerminalHolder::Detached(terminal), .. }) => {
                Some(terminal)
            }
            _ => None,
        }
    }

    /// The exited session.
    pub fn exited(&self) -> Option<&T::Exited> {
        match self {
            Self::Exited(exited, _) => Some(exited),
            Self::Running(_) => None,
        }
    }

    /// The client that waits to attach.
    pub fn pending(&self) -> Option<&T::Pending> {
        self.attached_client()?.pending.as_ref().map(|(pending, _)| pending)
    }

    /// Decides on a client that asks to attach, or to `steal` the session from another one; if it
    /// is granted, the attached client is `client`.
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

    /// The client has confirmed its attach.
    pub fn confirm_attach(&mut self) {
        if let Self::Running(Running { holder: TerminalHolder::Attached(attached), .. }) = self {
            attached.confirm_by = None;
        }
    }

    /// Detaches the client, which leaves this terminal. A client that waited becomes `client`.
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

    /// The program has ended while no client could be told. Returns the client that waited, which
    /// is to see the end.
    pub fn exit(&mut self, exited: T::Exited, now: Timestamp) -> Option<T::Pending> {
        if self.has_exited() {
            return None;
        }
        std::mem::replace(self, Self::Exited(exited, now)).release().pending
    }

    /// Releases all resources of a session that is over.
    pub fn release(self) -> ReleasedSession<T> {
        let Self::Running(Running { program, holder, .. }) = self else {
            return ReleasedSession { program: None, terminal: None, pending: None };
        };
        let (terminal, pending) = match holder {
            TerminalHolder::Detached(terminal) => (Some(terminal), None),
            TerminalHolder::Attached(attached) => (None, attached.pending.map(|(next, _)| next)),
        };
        ReleasedSession { program: Some(program), terminal, pending }
    }

    /// The next deadline.
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

    /// The overdue event at this time.
    pub fn overdue(
        &self,
        times: TimeLimits,
        now: BootInstant,
    ) -> Option<ExpiredDeadline<T::Client>> {
        let is_due = self.due(times).is_some_and(|due| now >= due);
        is_due.then(|| self.client().map_or(ExpiredDeadline::Expired, ExpiredDeadline::DropClient))
    }
}

impl<T: AttachTypes> AttachedClient<T> {
    /// A client that has not confirmed its attach yet.
    fn unconfirmed(client: T::Client, now: Timestamp) -> Self {
        Self { client, confirm_by: Some(now.boot + CONFIRM_TIMEOUT), pending: None }
    }

    fn request(&mut self, pending: T::Pending, steal: bool, now: Timestamp) -> AttachDecision<T> {
        if !steal {
            return AttachDecision::InUse(pending);
        }
        // The deadline to detach counts from the first request: those that come one after the other
        // do not put it off.
        let until = self.pending.as_ref().map_or(now.boot + DETACH_TIMEOUT, |(_, until)| *until);
        let displaced = self.pending.replace((pending, until)).map(|(pending, _)| pending);
        AttachDecision::Wait { must_notify: displaced.is_none(), displaced }
    }
}

#[cfg(test)]
mod tests;
