//! What a list has of sessions that can be left.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Entry, Left, Place};
use crate::router::GatewayLoop;
use crate::router::table::Key;
use fpty::sys::pty::Master;

/// Such a session.
pub struct Listed<'a> {
    /// Its id.
    pub id: &'a str,
    /// What it is called; may be empty.
    pub name: &'a str,
    /// Whose it is.
    pub uid: u32,
    /// Where it began.
    pub door: u16,
    /// Its program; of an ended one what it was.
    pub pid: i32,
    /// What runs, where that is known.
    pub command: Option<&'a str>,
    /// When it began.
    pub since: SystemTime,
    /// When it was left.
    pub left: Option<SystemTime>,
    /// How it has ended: what `$?` would be.
    pub status: Option<u8>,
    /// Its terminal, where nobody else has it.
    pub master: Option<&'a Master>,
}

impl Entry {
    fn listed(&self) -> Listed<'_> {
        let time = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let (left, status, master) = match &self.place {
            Place::Attached(_) => (None, None, None),
            Place::Alone(alone) => (Some(alone.since), None, Some(&alone.master)),
            Place::Over(over) => (Some(over.at), Some(over.ended.status()), None),
        };
        Listed {
            id: &self.id,
            name: &self.name,
            uid: self.uid,
            door: self.door,
            pid: self.pid.as_raw(),
            command: self.command.as_deref(),
            since: time(self.since),
            left: left.map(time),
            status,
            master,
        }
    }
}

impl Left {
    /// The keys of those from this place on, each with its place.
    pub fn from(&self, place: usize) -> impl Iterator<Item = (usize, Key)> {
        self.entries.from(place)
    }

    /// One that nobody is attached to.
    pub fn alone_or_over(&self, key: Key) -> Option<Listed<'_>> {
        let is_left = |entry: &&Entry| !matches!(entry.place, Place::Attached(_));
        self.entries.get(key).filter(is_left).map(Entry::listed)
    }

    /// A session that can be left.
    pub fn of_session(&self, session: Key) -> Option<Listed<'_>> {
        self.entries.get(*self.by_session.get(&session)?).map(Entry::listed)
    }
}

impl GatewayLoop {
    /// Ends one that nobody is attached to; what is left of one that has
    /// ended is forgotten.
    pub(in crate::router) fn end_left(&mut self, key: Key) {
        let Some(left) = &mut self.left else {
            return;
        };
        match left.entries.get(key).map(|entry| &entry.place) {
            Some(Place::Alone(_)) => self.end_alone(key),
            Some(Place::Over(_)) => {
                left.remove(key);
            }
            Some(Place::Attached(_)) | None => {}
        }
    }
}

/// A time as RFC 3339 has it, in UTC (civil_from_days of the proleptic
/// Gregorian calendar).
pub fn written(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (year + 400 * era, month + 3),
        _ => (year + 400 * era + 1, month - 9),
    };
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::written;

    #[test]
    fn times_are_written_down() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_764_072_000, "2025-11-25T12:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(written(seconds), text);
        }
    }
}
