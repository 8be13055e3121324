//! The wall clock as people and programs write it down.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment in UTC, by the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utc {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    millisecond: u32,
}

impl Utc {
    /// Of a time; 1970 of one before that.
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        // Years of a calendar that begin in March: the day that comes and goes
        // is the last one. 400 of them have 146,097 days; day 0 is in year 0.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let is_next_year = month >= 10;
        Self {
            year: 400 * era + year + u64::from(is_next_year),
            month: if is_next_year { month - 9 } else { month + 3 },
            day: day - (153 * month + 2) / 5 + 1,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
            millisecond: since.subsec_millis(),
        }
    }

    /// The same without what a file's name is better without, in seconds.
    pub fn in_a_name(self) -> String {
        let Self { year, month, day, hour, minute, second, .. } = self;
        format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
    }

    /// RFC 3339, with milliseconds.
    pub fn rfc3339(self) -> String {
        let Self { year, month, day, hour, minute, second, millisecond } = self;
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
    }

    /// The same in seconds.
    pub fn in_seconds(self) -> String {
        let Self { year, month, day, hour, minute, second, .. } = self;
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64, milliseconds: u64) -> Utc {
        let since = Duration::from_secs(seconds) + Duration::from_millis(milliseconds);
        Utc::of(UNIX_EPOCH + since)
    }

    #[test]
    fn moments_are_those_of_date() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (1_735_689_600, "2025-01-01T00:00:00.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
        ] {
            assert_eq!(at(seconds, 0).rfc3339(), text);
        }
        assert_eq!(at(1_000_000_000, 7).rfc3339(), "2001-09-09T01:46:40.007Z");
        assert_eq!(at(1_000_000_000, 7).in_a_name(), "20010909T014640Z");
    }

    #[test]
    fn times_are_written_down() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_764_072_000, "2025-11-25T12:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(at(seconds, 0).in_seconds(), text);
        }
    }

    #[test]
    fn a_day_follows_the_other() {
        let mut before = at(0, 0).rfc3339();
        for day in 1..60_000 {
            let next = at(day * 86_400, 0).rfc3339();
            assert!(next > before, "{before} {next}");
            before = next;
        }
    }
}
