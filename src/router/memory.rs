//! What gateways share with each other, with their master, and with the process
//! that keeps their sessions: one piece of memory, made once, before any of them
//! is forked. Whoever is killed leaves in there what others have to know of it.
//! (What has to outlive a reload is elsewhere: uwsgi/proof.rs.)

use std::sync::atomic::AtomicU64;

use once_cell::sync::OnceCell;

use super::seats;
use super::supervisor::{leaders, lines};
use super::told::counters;
use crate::uwsgi::log::log;
use fpty::error::reason;
use fpty::sys::shared::Shared;

/// What it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Which gateways have told their clients that the instance stops.
    HaveTold,
    /// What happened since the start.
    Counters,
    /// How fast clients come at each socket.
    Rates,
    /// The seats of a gateway's clients.
    Seats(usize),
    /// The leaders of a gateway's sessions.
    Leaders(usize),
    /// The last lines of a gateway's sessions.
    Lines(usize),
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wants {
    /// So many gateways.
    pub gateways: usize,
    /// How many there may be is limited somewhere.
    pub limits: bool,
    /// There is an audit.
    pub audit: bool,
}

/// A part begins at a page of its own: memory is used by the page.
const PAGE: usize = 4096 / size_of::<AtomicU64>();

impl Wants {
    /// How many words a part has.
    fn words(&self, part: Part) -> usize {
        let only = |wanted: bool, words: usize| if wanted { words } else { 0 };
        match part {
            Part::HaveTold => self.gateways,
            Part::Counters => counters::words(self.gateways),
            Part::Rates => only(self.limits, seats::RATES),
            Part::Seats(_) => only(self.limits, seats::WORDS),
            Part::Leaders(_) => leaders::WORDS,
            Part::Lines(_) => only(self.audit, lines::WORDS),
        }
    }

    /// All parts, in their order.
    fn parts(&self) -> impl Iterator<Item = Part> {
        let own = |number| [Part::Seats(number), Part::Leaders(number), Part::Lines(number)];
        let common = [Part::HaveTold, Part::Counters, Part::Rates];
        common.into_iter().chain((0..self.gateways).flat_map(own))
    }

    /// Each part with the word that it begins at and how many it has; and where the
    /// last one ends.
    fn layout(&self) -> (Vec<(Part, usize, usize)>, usize) {
        let mut end = 0;
        let parts = self.parts().map(|part| {
            let (begin, words) = (end, self.words(part));
            end += words.next_multiple_of(PAGE);
            (part, begin, words)
        });
        (parts.collect(), end)
    }
}

struct Memory {
    words: Shared<AtomicU64>,
    parts: Vec<(Part, usize, usize)>,
    gateways: usize,
}

static MEMORY: OnceCell<Memory> = OnceCell::new();

/// Makes it, in the master, before it forks the gateways.
pub fn reserve(wants: Wants) {
    let (parts, end) = wants.layout();
    match Shared::new(end) {
        Ok(words) => {
            let _ = MEMORY.set(Memory { words, parts, gateways: wants.gateways });
        }
        Err(error) => log(&format!(
            "forkptyrouter: no memory for what gateways share: limits do not hold, nothing is \
             counted, and what ignores SIGHUP may outlive them: {}",
            reason(&error)
        )),
    }
}

/// A part; `None`: there is none.
pub fn part(wanted: Part) -> Option<&'static [AtomicU64]> {
    let memory = MEMORY.get()?;
    let (_, begin, words) = memory.parts.iter().find(|(part, ..)| *part == wanted)?;
    memory.words.words().get(*begin..begin + words).filter(|words| !words.is_empty())
}

/// For how many gateways there is room.
pub fn gateways() -> usize {
    MEMORY.get().map_or(0, |memory| memory.gateways)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_reaches_into_the_next() {
        for gateways in [1, 4, 64] {
            for (limits, audit) in [(false, false), (true, false), (true, true)] {
                let wants = Wants { gateways, limits, audit };
                let (parts, end) = wants.layout();
                assert_eq!(parts.len(), 3 + 3 * gateways);
                let ends = parts.iter().skip(1).map(|(_, begin, _)| *begin).chain([end]);
                for ((part, begin, words), next) in parts.iter().zip(ends) {
                    assert!(begin + words <= next && begin % PAGE == 0, "{part:?}");
                    assert_eq!(*words, wants.words(*part));
                }
            }
        }
    }
}
