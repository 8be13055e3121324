//! Sessions by number, and the tokens that events come under.
//!
//! A token carries the generation of its place, so that an event of a closed
//! session that is still in the batch never reaches the session that took
//! its place.

use std::num::NonZeroU32;

/// Which of the things that the gateway waits for an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A socket of the router, by its index.
    Listener(u16),
    /// The statistics' socket.
    StatsListener,
    /// A child has ended.
    Children,
    /// Another gateway has written to us.
    Siblings,
    /// The client of a session.
    Client(Key),
    /// The terminal of a session.
    Terminal(Key),
    /// A client whose session has not begun.
    Caller(Key),
    /// The process that writes recordings.
    Recorder,
    /// The client of a command without a terminal.
    CommandClient(Key),
    /// One of the streams of such a command, 0 to 2.
    CommandStream(Key, u8),
    /// A client that asks who is there, or for the statistics.
    Inquirer(Key),
    /// A client to which the last word was said.
    Closing(Key),
    /// What sessions wait for that can be left.
    Detached,
    /// What is due after a long time.
    Alarm,
}

/// A place in a [`Table`], and whose it was. One or none is as large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    index: u32,
    generation: NonZeroU32,
}

/// A generation has so many bits; the rest of a token is kind and index.
const GENERATION: u32 = (1 << 28) - 1;

impl Key {
    /// The least that there is.
    pub const FIRST: Self = Self::of_place(0);

    /// Its place in the table, as [`Table::from`] has it.
    pub fn place(self) -> usize {
        self.index as usize
    }

    /// The first of a place.
    const fn of_place(index: u32) -> Self {
        Self { index, generation: NonZeroU32::MIN }
    }
}

impl Source {
    /// The token to register it under.
    pub fn token(self) -> u64 {
        let (kind, key) = match self {
            Source::Listener(index) => (0, Key::of_place(index.into())),
            Source::StatsListener => (1, Key::of_place(0)),
            Source::Children => (3, Key::of_place(0)),
            Source::Siblings => (3, Key::of_place(1)),
            Source::Client(key) => (4, key),
            Source::Terminal(key) => (5, key),
            Source::Caller(key) => (6, key),
            Source::Recorder => (1, Key::of_place(1)),
            Source::Alarm => (1, Key::of_place(2)),
            Source::CommandClient(key) => (7, key),
            Source::Inquirer(key) => (13, key),
            Source::Closing(key) => (14, key),
            Source::CommandStream(key, number) => (8 + u64::from(number & 3), key),
            Source::Detached => (12, Key::of_place(0)),
        };
        kind << 60 | u64::from(key.generation.get()) << 32 | u64::from(key.index)
    }

    /// What a token was made of.
    pub fn of(token: u64) -> Self {
        let key = Key {
            // The low half.
            index: token as u32,
            // No token has none.
            generation: NonZeroU32::new((token >> 32) as u32 & GENERATION)
                .unwrap_or(NonZeroU32::MIN),
        };
        match token >> 60 {
            0 => Source::Listener(key.index as u16),
            1 if key.index == 0 => Source::StatsListener,
            1 if key.index == 2 => Source::Alarm,
            1 => Source::Recorder,
            3 if key.index == 1 => Source::Siblings,
            3 => Source::Children,
            4 => Source::Client(key),
            5 => Source::Terminal(key),
            6 => Source::Caller(key),
            7 => Source::CommandClient(key),
            13 => Source::Inquirer(key),
            14 => Source::Closing(key),
            12 => Source::Detached,
            // Up to 11; there are no more.
            kind => Source::CommandStream(key, (kind & 3) as u8),
        }
    }
}

/// Values by key; a key is never valid for a later value in its place.
pub struct Table<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

struct Place<T> {
    generation: NonZeroU32,
    value: Option<Box<T>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Table<T> {
    /// An empty table.
    pub fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// The key that the next value will have.
    pub fn vacant_key(&self) -> Key {
        // Fewer than there can be descriptors, which are an int.
        let index = self.free.last().copied().unwrap_or(self.places.len() as u32);
        let place = self.places.get(index as usize);
        place.map_or(Key::of_place(index), |place| Key { index, generation: place.generation })
    }

    /// Adds a value.
    pub fn insert(&mut self, value: T) -> Key {
        let value = Some(Box::new(value));
        if let Some(index) = self.free.pop() {
            let place = &mut self.places[index as usize];
            place.value = value;
            return Key { index, generation: place.generation };
        }
        // Fewer than there can be descriptors, which are an int.
        let index = self.places.len() as u32;
        let key = Key::of_place(index);
        self.places.push(Place { generation: key.generation, value });
        key
    }

    /// The value of a key, if it is still there.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.place(key)?.value.as_deref_mut()
    }

    /// All that are there.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.places.iter().zip(0..).filter_map(|(place, index)| {
            Some((Key { index, generation: place.generation }, place.value.as_deref()?))
        })
    }

    /// The value of a key, to look at.
    pub fn get(&self, key: Key) -> Option<&T> {
        let place = self.places.get(key.index as usize)?;
        place.value.as_deref().filter(|_| place.generation == key.generation)
    }

    /// The keys of those from this place on, each with its place.
    pub fn from(&self, place: usize) -> impl Iterator<Item = (usize, Key)> {
        let places = self.places.iter().enumerate().skip(place);
        places.filter(|(_, place)| place.value.is_some()).map(|(index, place)| {
            // No more than there can be descriptors.
            (index, Key { index: index as u32, generation: place.generation })
        })
    }

    /// Whether the value of a key is still there.
    pub fn has(&self, key: Key) -> bool {
        self.places
            .get(key.index as usize)
            .is_some_and(|place| place.generation == key.generation && place.value.is_some())
    }

    /// Takes the value of a key out; the key is then no longer valid.
    pub fn remove(&mut self, key: Key) -> Option<Box<T>> {
        let place = self.place(key)?;
        let value = place.value.take()?;
        let next = place.generation.get() + 1;
        place.generation = NonZeroU32::new(next & GENERATION).unwrap_or(NonZeroU32::MIN);
        self.free.push(key.index);
        Some(value)
    }

    fn place(&mut self, key: Key) -> Option<&mut Place<T>> {
        self.places.get_mut(key.index as usize).filter(|place| place.generation == key.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_reaches_the_next_value_in_its_place() {
        let mut table = Table::new();
        assert_eq!(table.vacant_key(), Key::FIRST);
        let first = table.insert("first");
        assert_eq!(first, Key::FIRST);
        assert_eq!(table.remove(first).as_deref(), Some(&"first"));
        let vacant = table.vacant_key();
        let second = table.insert("second");
        assert_eq!(vacant, second);
        assert_eq!(first.index, second.index);
        assert!(table.get_mut(first).is_none() && table.remove(first).is_none());
        assert_eq!(table.get_mut(second), Some(&mut "second"));
        assert_eq!(table.len(), 1);
        assert_eq!(table.iter().collect::<Vec<_>>(), [(second, &"second")]);
        assert_eq!((table.get(first), table.get(second)), (None, Some(&"second")));
        let third = table.insert("third");
        table.remove(second);
        assert_eq!(table.from(0).collect::<Vec<_>>(), [(1, third)]);
        assert_eq!(table.from(2).count(), 0);
    }

    #[test]
    fn a_generation_comes_round_without_spilling_into_the_kind() {
        let most = NonZeroU32::new(GENERATION).expect("more than none");
        let key = Key { index: u32::MAX, generation: most };
        for source in [
            Source::Listener(7),
            Source::StatsListener,
            Source::Recorder,
            Source::Alarm,
            Source::Children,
            Source::Siblings,
            Source::Client(key),
            Source::Terminal(key),
            Source::Caller(key),
            Source::CommandClient(key),
            Source::CommandStream(key, 0),
            Source::CommandStream(key, 2),
            Source::Inquirer(key),
            Source::Closing(key),
        ] {
            assert_eq!(Source::of(source.token()), source);
        }
        let mut table = Table::new();
        table.insert(());
        table.places[0].generation = most;
        let last = Key { index: 0, generation: most };
        assert!(table.remove(last).is_some());
        let next = table.insert(());
        assert_eq!(next, Key::FIRST);
        assert_eq!(size_of::<Option<Key>>(), size_of::<Key>());
    }
}
