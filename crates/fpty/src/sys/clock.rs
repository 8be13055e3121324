//! The clock that nobody sets and that counts while the machine sleeps
//! (CLOCK_BOOTTIME, clock_gettime(2)), an alarm by it, and what a wall clock's
//! time was by it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(feature = "testing")]
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
#[cfg(feature = "testing")]
use once_cell::sync::OnceCell;

/// The time by the clock that stops while the machine sleeps (CLOCK_MONOTONIC).
#[inline]
pub fn now() -> Instant {
    #[cfg(feature = "testing")]
    return Instant::now() + moved();
    #[cfg(not(feature = "testing"))]
    Instant::now()
}

/// How far a test has moved the clocks of this process, which it shares with the test: a
/// word of nanoseconds.
#[cfg(feature = "testing")]
static MOVED: OnceCell<super::shm::SharedMemory<AtomicU64>> = OnceCell::new();

/// Takes that word from a test.
#[cfg(feature = "testing")]
pub fn move_with(moved: super::shm::SharedMemory<AtomicU64>) {
    let _ = MOVED.set(moved);
}

/// Whether a test can move the clocks of this process.
pub fn is_movable() -> bool {
    #[cfg(feature = "testing")]
    return MOVED.get().is_some();
    #[cfg(not(feature = "testing"))]
    false
}

#[cfg(feature = "testing")]
fn moved() -> Duration {
    let word = MOVED.get().and_then(|moved| moved.words().first());
    Duration::from_nanos(word.map_or(0, |word| word.load(Ordering::Acquire)))
}

/// A time by that clock. It is the machine's: what another process says of it
/// means the same here, until the machine is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootInstant(u64);

impl BootInstant {
    /// Now.
    pub fn now() -> Self {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
        let now = Self(now.map_or(0, |now| nanos(now.into())));
        #[cfg(feature = "testing")]
        return now + moved();
        #[cfg(not(feature = "testing"))]
        now
    }

    /// The time so many nanoseconds after the machine's start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the machine's start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since this instant.
    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// Time from `earlier` to this instant; nothing where it is not later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The time so long before, at the earliest the machine's start.
    pub fn before(self, wait: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(wait)))
    }
}

impl std::ops::Add<Duration> for BootInstant {
    type Output = Self;

    /// At the latest in some five hundred years.
    fn add(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(nanos(wait)))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Becomes readable at a time by that clock (timerfd_create(2)): at once where
/// the machine has slept past it.
pub struct BoottimeTimer(TimerFd);

impl BoottimeTimer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// Memory is short, or no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Self(TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?))
    }

    /// Sets it for a time, instead of the one that it was set for; it is not
    /// readable before.
    pub fn set(&self, at: BootInstant) {
        // All zero would be never.
        let at = Expiration::OneShot(TimeSpec::from_duration(Duration::from_nanos(at.0.max(1))));
        // It fails for a time that is none.
        let _ = self.0.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME);
    }

    /// Stops the timer: it is not readable until it is set again.
    pub fn stop(&self) {
        let _ = self.0.unset();
    }
}

impl AsFd for BoottimeTimer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Offset of the wall clock from CLOCK_BOOTTIME, in seconds, and the time while it was
/// so.
#[derive(Clone, Copy, Debug)]
struct Offset {
    first: u64,
    last: u64,
    ahead: i64,
}

/// Offsets of the wall clock from CLOCK_BOOTTIME, as observed of late.
struct WallClock(Vec<Offset>);

static WALL_CLOCK: Mutex<WallClock> = Mutex::new(WallClock(Vec::new()));

/// Step of the wall clock, in seconds; a smaller one is rounding, or a leap second.
const MIN_STEP: u64 = 2;

/// Limit of remembered offsets, for a clock that is set again and again.
const MAX_OFFSETS: usize = 16;

impl WallClock {
    /// The wall clock shows `wall` at `boot`, both in seconds.
    fn observe(&mut self, boot: u64, wall: i64) {
        let ahead = wall.saturating_sub_unsigned(boot);
        match self.0.last_mut() {
            Some(era) if era.ahead.abs_diff(ahead) < MIN_STEP => era.last = boot,
            _ => {
                if self.0.len() >= MAX_OFFSETS {
                    self.0.remove(0);
                }
                self.0.push(Offset { first: boot, last: boot, ahead });
            }
        }
    }

    /// CLOCK_BOOTTIME in seconds when the wall clock showed `wall`, at the latest `now`:
    /// the latest time that is possible, as nobody knows when exactly the wall clock was
    /// set.
    fn boot_of(&self, wall: i64, now: u64) -> u64 {
        let ends = self.0.iter().skip(1).map(|era| era.first).chain([now]);
        let begins = [0].into_iter().chain(self.0.iter().map(|era| era.last));
        let eras = self.0.iter().zip(begins).zip(ends);
        let times = eras.filter_map(|((era, begin), end)| {
            let time = u64::try_from(wall.saturating_sub(era.ahead)).ok()?;
            (begin..=end.saturating_add(MIN_STEP)).contains(&time).then_some(time.min(now))
        });
        times.max().unwrap_or(now)
    }
}

/// Looks at the wall clock, so that times by it can be told later, though it was
/// set meanwhile.
pub fn observe_wall_clock() {
    let _ = boot_of_wall(0);
}

/// Time since the wall clock showed this (seconds since 1970).
pub(super) fn since_wall(wall: i64) -> Duration {
    let (time, now) = boot_of_wall(wall);
    Duration::from_secs(now.saturating_sub(time))
}

fn boot_of_wall(wall: i64) -> (u64, u64) {
    let now = BootInstant::now().as_nanos() / 1_000_000_000;
    let mut clock = WALL_CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    clock.observe(now, super::unix_time());
    (clock.boot_of(wall, now), now)
}

/// Time of an event: for people by the wall clock, and to measure from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// Time by the clock that people read, and set.
    pub wall: SystemTime,
    /// Time by the clock that nobody sets.
    pub boot: BootInstant,
}

impl Default for Timestamp {
    /// The machine's start, in 1970.
    fn default() -> Self {
        Self { wall: UNIX_EPOCH, boot: BootInstant::default() }
    }
}

impl Timestamp {
    /// Now.
    pub fn now() -> Self {
        Self { wall: SystemTime::now(), boot: BootInstant::now() }
    }

    /// Time since this timestamp, whatever was set since.
    pub fn elapsed(&self) -> Duration {
        self.boot.elapsed()
    }
}

/// Encoded for another process: milliseconds since 1970, and nanoseconds since the
/// machine's start.
impl From<Timestamp> for (u64, u64) {
    fn from(time: Timestamp) -> Self {
        let wall = time.wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        (u64::try_from(wall).unwrap_or(u64::MAX), time.boot.as_nanos())
    }
}

impl From<(u64, u64)> for Timestamp {
    fn from((wall, boot): (u64, u64)) -> Self {
        let wall = UNIX_EPOCH.checked_add(Duration::from_millis(wall)).unwrap_or(UNIX_EPOCH);
        Self { wall, boot: BootInstant::from_nanos(boot) }
    }
}

/// A time that is known by our clock alone.
impl From<BootInstant> for Timestamp {
    fn from(boot: BootInstant) -> Self {
        Self { wall: SystemTime::now().checked_sub(boot.elapsed()).unwrap_or(UNIX_EPOCH), boot }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poll::PollSet;

    #[test]
    fn an_alarm_rings_when_its_time_has_come_and_not_before() {
        let alarm = BoottimeTimer::new().expect("a descriptor");
        let rings = |wait| {
            let mut several = PollSet::default();
            let at = several.add(alarm.as_fd(), true, false);
            several.wait(Some(wait)).readable(at)
        };
        let now = BootInstant::now();
        alarm.set(now + Duration::from_secs(3600));
        assert!(!rings(Duration::ZERO));
        alarm.set(now + Duration::from_millis(20));
        assert!(rings(Duration::from_secs(10)));
        assert!(now.elapsed() >= Duration::from_millis(20));
        alarm.stop();
        assert!(!rings(Duration::ZERO));
        // What is over by now.
        alarm.set(BootInstant::default());
        assert!(rings(Duration::from_secs(10)));
    }

    #[test]
    fn a_time_is_never_before_another_that_it_is_not_before() {
        let (early, late) = (BootInstant::from_nanos(5), BootInstant::from_nanos(9));
        assert_eq!(late.since(early), Duration::from_nanos(4));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.before(Duration::from_secs(1)), BootInstant::default());
        assert_eq!(late + Duration::MAX, BootInstant::from_nanos(u64::MAX));
    }

    #[test]
    fn another_process_is_told_the_same_time() {
        let time = Timestamp::now();
        let (wall, boot) = time.into();
        let told = Timestamp::from((wall, boot));
        assert_eq!(told.boot, time.boot);
        let lost = time.wall.duration_since(told.wall).expect("not later");
        assert!(lost < Duration::from_millis(1), "{lost:?}");
        let known = Timestamp::from(time.boot).wall;
        let apart = known.duration_since(time.wall).unwrap_or_else(|error| error.duration());
        assert!(apart < Duration::from_secs(1), "{apart:?}");
    }

    /// A terminal's times are of the wall clock, which was set meanwhile.
    #[test]
    fn a_wall_clock_that_is_set_makes_nothing_older_or_newer() {
        for set in [86_400, -86_400] {
            let mut clock = WallClock(Vec::new());
            let wall = 1_700_000_000;
            clock.observe(1000, wall + 1000);
            clock.observe(1100, wall + 1101);
            assert_eq!(clock.0.len(), 1);
            assert_eq!(clock.boot_of(wall + 1050, 1100), 1050);
            // It is set somewhere between these two looks.
            clock.observe(1200, wall + set + 1200);
            assert_eq!(clock.boot_of(wall + 1050, 1300), 1050, "{set}");
            assert_eq!(clock.boot_of(wall + 1190, 1300), 1190, "{set}");
            assert_eq!(clock.boot_of(wall + set + 1190, 1300), 1190, "{set}");
            assert_eq!(clock.boot_of(wall + set + 1250, 1300), 1250, "{set}");
            // What never was is taken for now: nobody is idle for it.
            assert_eq!(clock.boot_of(wall + set * 2, 1300), 1300, "{set}");
        }
        let mut clock = WallClock(Vec::new());
        (0..1000).for_each(|turn| clock.observe(1000 + turn, turn as i64 * 10_000));
        assert_eq!(clock.0.len(), MAX_OFFSETS);
    }
}
