//! The wall clock as people and programs write it down.

use std::time::{SystemTime, UNIX_EPOCH};

/// A time in UTC, by the Gregorian calendar, as RFC 3339 has it, in milliseconds; 1970
/// of one before that.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    // Years of a calendar that begin in March: the day that comes and goes
    // is the last one. 400 of them have 146,097 days; day 0 is in year 0.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, is_next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let (year, milliseconds) = (400 * era + year + is_next_year, since.subsec_millis());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

/// The same in seconds.
pub fn in_seconds(time: SystemTime) -> String {
    let time = rfc3339(time);
    let seconds = time.rsplit_once('.').map_or(&*time, |(seconds, _)| seconds);
    format!("{seconds}Z")
}

/// The same without what a file's name is better without.
pub fn in_a_name(time: SystemTime) -> String {
    in_seconds(time).replace(['-', ':'], "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64, milliseconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(milliseconds)
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
            assert_eq!(rfc3339(at(seconds, 0)), text);
        }
        assert_eq!(rfc3339(at(1_000_000_000, 7)), "2001-09-09T01:46:40.007Z");
        assert_eq!(in_a_name(at(1_000_000_000, 7)), "20010909T014640Z");
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
            assert_eq!(in_seconds(at(seconds, 0)), text);
        }
    }

    #[test]
    fn a_day_follows_the_other() {
        let mut before = rfc3339(at(0, 0));
        for day in 1..60_000 {
            let next = rfc3339(at(day * 86_400, 0));
            assert!(next > before, "{before} {next}");
            before = next;
        }
    }
}
