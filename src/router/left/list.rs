//! What is told of sessions that can be left.

use serde::Serialize;

use super::{Left, Place};

/// A session, as a list has it.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// What it is called; may be empty.
    pub name: String,
    /// Whose it is.
    pub uid: u32,
    /// Its program; of an ended one what it was.
    pub pid: i32,
    /// When it began (RFC 3339).
    pub since: String,
    /// Whether somebody is attached.
    pub attached: bool,
    /// When it was left.
    pub detached_since: Option<String>,
    /// Whether its program has ended.
    pub ended: bool,
    /// How: what `$?` would be.
    pub status: Option<u8>,
}

impl Left {
    /// Those that somebody may know of.
    #[allow(dead_code)]
    pub fn list(&self, door: u16, uid: u32) -> Vec<Listed> {
        let own = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.door == door && (uid == 0 || entry.uid == uid));
        own.map(|(_, entry)| {
            let (attached, left, status) = match &entry.place {
                Place::Attached(_) => (true, None, None),
                Place::Alone(alone) => (false, Some(alone.since), None),
                Place::Over(over) => (false, Some(over.at), Some(over.ended.status())),
            };
            Listed {
                id: entry.id.clone(),
                name: entry.name.clone(),
                uid: entry.uid,
                pid: entry.pid.as_raw(),
                since: written(entry.since),
                attached,
                detached_since: left.map(written),
                ended: status.is_some(),
                status,
            }
        })
        .collect()
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
