//! What a part of the gateway has come to, and others are concerned by: the loop
//! does it when the part has finished, so that no part calls one above it.

use super::depart::Copies;
use super::doors::Newcomer;
use super::recovery::Whose;
use super::table::{Key, Source};
use fpty::proto::Ended;
use fpty::sys::child::Exit;
use fpty::sys::clock::Timestamp;
use fpty::sys::poll::Ready;
use fpty::sys::process::Process;
use fpty::sys::pty::Master;

/// Something for the loop to do.
pub enum Outcome {
    /// Look what a session needs now.
    Settle(Key),
    /// Look what a command needs now.
    SettleCommand(Key),
    /// What keeps sessions is to have this one, whose client has its terminal for
    /// good.
    Entrust(Key),
    /// The kernel refuses to tell of this session: it ends.
    NotHeard(Key),
    /// Offer a session's terminal to its client.
    Offer(Key),
    /// The client of a session does not answer, or does not go.
    LetGo(Key),
    /// A session that began then has another client.
    BeginsAgain(Key, Timestamp),
    /// The program of a session of a gateway before us has ended: how, where that is
    /// known, and what its client is told.
    AdoptedEnded(Key, Option<Exit>, Ended),
    /// Somebody gets no session.
    TurnBack(Box<Newcomer>, Ended),
    /// A program is to be hung up, and the terminal that nobody is attached to.
    HangUp(Box<(Master, Process)>, Copies),
    /// Something happened to a session that can be left, or to who watches it.
    LeftReady(Ready),
    /// Do what is due for a session that can be left.
    LookAfterLeft(Key),
    /// Give somebody who watches what there is.
    FeedWatcher(Key),
}

impl Outcome {
    /// Whom it is about: who ends where it panics.
    pub fn whose(&self) -> Whose {
        match self {
            Self::Settle(key)
            | Self::Entrust(key)
            | Self::NotHeard(key)
            | Self::Offer(key)
            | Self::LetGo(key)
            | Self::BeginsAgain(key, _)
            | Self::AdoptedEnded(key, ..) => Whose::Session(*key),
            Self::TurnBack(..) | Self::HangUp(..) => Whose::Past,
            Self::LeftReady(ready) => match Source::of(ready.token) {
                Source::Terminal(entry) | Source::Caller(entry) => Whose::Left(entry),
                Source::Client(watcher) => Whose::Watcher(watcher),
                _ => Whose::All,
            },
            Self::LookAfterLeft(key) => Whose::Left(*key),
            Self::FeedWatcher(key) => Whose::Watcher(*key),
            Self::SettleCommand(key) => Whose::Command(*key),
        }
    }
}
