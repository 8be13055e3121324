//! What a part of the gateway has come to, and others are concerned by: the loop
//! does it when the part has finished, so that no part calls one above it.

use std::rc::Rc;

use super::deferred::Rest;
use super::slab::{Key, Source};
use super::subject::{Subject, Whose};
use crate::connection::late_hello::Late;
use crate::control::peers::request::{Asker, Posed};
use crate::observe::audit::{Gone, Last};
use crate::observe::recording::results::News;
use crate::observe::recording::tap::Recording;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::poll::Ready;

/// Something for the loop to do.
pub enum Outcome {
    /// Look what a session needs now.
    Settle(Key),
    /// Look what a command needs now.
    SettleCommand(Key),
    /// Hear the rest of what a client sent.
    GoOn(Box<Rest>),
    /// A program was reaped: which, the session that had it, and how it ended.
    Reaped(Pid, Option<Key>, Exit),
    /// Let the next one go of those sessions that wait for it.
    RunTeardown,
    /// A client says hello after all, whose session was that of a silent one: its first
    /// packets stand in the buffer.
    GreetLate(Box<Late>),
    /// A program was executed.
    Started(Subject),
    /// There never was such a session, nor this recording of it.
    NeverWas(Subject, Option<Rc<Recording>>),
    /// A session is over.
    Closed(Closed),
    /// Somebody asks who is there, or for the statistics.
    Inquires(Key),
    /// A session is to end at somebody's wish.
    End(Subject),
    /// It is known whose the session is that somebody seeks.
    Sought(Key),
    /// Another gateway asks something.
    Asked(Box<Posed>),
    /// Another gateway has answered; `None`: it has not.
    Answered(Asker, Option<Vec<u8>>),
    /// What keeps sessions is to have this one, whose client has its terminal for
    /// good.
    Supervise(Key),
    /// The kernel refuses to tell of this session: it ends.
    NotHeard(Key),
    /// The supervisor says something, or was killed.
    SupervisorReady,
    /// The client of a session does not answer, or does not go.
    DropClient(Key),
    /// Something happened to a session that can be left, or to who watches it.
    DetachedReady(Ready),
    /// Do what is due for a session that can be left.
    DetachedDeadline(Key),
    /// Give somebody who watches what there is.
    FeedViewer(Key),
    /// See to what the recorder has said of somebody.
    Recording(Whose, Box<News>),
    /// Read the terminal on of a session without a client.
    ReadOn(Key),
    /// A session without a client is to end.
    TerminateDetached(Key, Gone),
}

/// How a session ended, and what is still to be told of that.
pub struct Closed {
    /// Which.
    pub subject: Subject,
    /// Why.
    pub why: Gone,
    /// How its program ended, as far as that is known.
    pub exit: Option<Exit>,
    /// The audit's last line of it.
    pub last: Option<Box<Last>>,
    /// Its recording.
    pub recording: Option<Rc<Recording>>,
    /// Its terminal was its client's, for good.
    pub was_supervised: bool,
}

impl Outcome {
    /// Whom it is about: who ends where it panics.
    pub fn whose(&self) -> Whose {
        match self {
            Self::Settle(key)
            | Self::Supervise(key)
            | Self::DropClient(key)
            | Self::NotHeard(key) => Whose::Session(*key),
            Self::SettleCommand(key) => Whose::Command(*key),
            Self::GoOn(rest) => rest.whose(),
            Self::Started(subject) => Whose::from(*subject),
            // Nobody finds them any more.
            Self::RunTeardown | Self::GreetLate(_) | Self::NeverWas(..) | Self::Closed(_) => {
                Whose::Past
            }
            Self::Recording(whose, _) => *whose,
            Self::SupervisorReady => Whose::All,
            Self::DetachedReady(ready) => match Source::of(ready.token) {
                Source::Terminal(entry) | Source::Caller(entry) => Whose::Detached(entry),
                Source::Client(viewer) => Whose::Viewer(viewer),
                _ => Whose::All,
            },
            Self::DetachedDeadline(key) => Whose::Detached(*key),
            Self::FeedViewer(key) => Whose::Viewer(*key),
            Self::ReadOn(key) | Self::TerminateDetached(key, _) => Whose::Detached(*key),
            Self::Inquires(key) | Self::Answered(Asker::Inquirer(key), _) => Whose::Inquirer(*key),
            Self::Sought(key) | Self::Answered(Asker::Seeker(key, _) | Asker::Handed(key), _) => {
                Whose::Seeker(*key)
            }
            Self::End(subject) => (*subject).into(),
            // Whoever asks does without.
            Self::Asked(_) => Whose::Past,
            // The loop knows whose it is.
            Self::Reaped(..) => Whose::Past,
        }
    }
}
