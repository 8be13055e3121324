//! Slabs, and the tokens that the poller reports events under.
//!
//! A token carries the generation of its slot, so that an event of a closed session that is
//! still in the batch never reaches the session that took its slot.

use std::num::NonZeroU32;

/// Token of the poller's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Token {
    /// A listener, by its index.
    Listener(u16),
    /// The statistics' socket.
    StatsListener,
    /// SIGCHLD, SIGTERM or SIGINT (signalfd).
    Children,
    /// The inbox for peers.
    Peers,
    /// The client of a session.
    Client(Key),
    /// The terminal of a session.
    Terminal(Key),
    /// A connection in its handshake.
    PendingConnection(Key),
    /// The channel to the recorder.
    Recorder,
    /// The client of a command without a terminal.
    CommandClient(Key),
    /// One of the streams of such a command, 0 to 2.
    CommandStream(Key, u8),
    /// A control client.
    ControlClient(Key),
    /// A lingering connection.
    LingeringClose(Key),
    /// The epoll of sessions that can be detached.
    Detached,
    /// The timerfd of far timers.
    Alarm,
}

/// Key of a place in a [`Slab`], and of the value that it was made for. An `Option` of it
/// is as large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    index: u32,
    generation: NonZeroU32,
}

/// A generation has 28 bits; the rest of a token is kind and index.
const GENERATION_MASK: u32 = (1 << 28) - 1;

impl Key {
    /// The least key.
    pub const FIRST: Self = Self::of_slot(0);

    /// The key's place in the table, as [`Slab::iter_from`] has it.
    pub fn slot(self) -> usize {
        self.index as usize
    }

    /// The first key of a slot.
    const fn of_slot(index: u32) -> Self {
        Self { index, generation: NonZeroU32::MIN }
    }
}

impl Token {
    /// The token to register at the poller.
    pub fn token(self) -> u64 {
        let (kind, key) = match self {
            Token::Listener(index) => (0, Key::of_slot(index.into())),
            Token::StatsListener => (1, Key::of_slot(0)),
            Token::Children => (3, Key::of_slot(0)),
            Token::Peers => (3, Key::of_slot(1)),
            Token::Client(key) => (4, key),
            Token::Terminal(key) => (5, key),
            Token::PendingConnection(key) => (6, key),
            Token::Recorder => (1, Key::of_slot(1)),
            Token::Alarm => (1, Key::of_slot(2)),
            Token::CommandClient(key) => (7, key),
            Token::ControlClient(key) => (13, key),
            Token::LingeringClose(key) => (14, key),
            Token::CommandStream(key, number) => (8 + u64::from(number & 3), key),
            Token::Detached => (12, Key::of_slot(0)),
        };
        kind << 60 | u64::from(key.generation.get()) << 32 | u64::from(key.index)
    }

    /// Decodes a token.
    pub fn of(token: u64) -> Self {
        let key = Key {
            // The low half.
            index: token as u32,
            // No token has none.
            generation: NonZeroU32::new((token >> 32) as u32 & GENERATION_MASK)
                .unwrap_or(NonZeroU32::MIN),
        };
        match token >> 60 {
            0 => Token::Listener(key.index as u16),
            1 if key.index == 0 => Token::StatsListener,
            1 if key.index == 2 => Token::Alarm,
            1 => Token::Recorder,
            3 if key.index == 1 => Token::Peers,
            3 => Token::Children,
            4 => Token::Client(key),
            5 => Token::Terminal(key),
            6 => Token::PendingConnection(key),
            7 => Token::CommandClient(key),
            13 => Token::ControlClient(key),
            14 => Token::LingeringClose(key),
            12 => Token::Detached,
            // Up to 11; there are no more.
            kind => Token::CommandStream(key, (kind & 3) as u8),
        }
    }
}

/// A slab: values by key; a key is never valid for a later value in its slot.
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

struct Slot<T> {
    generation: NonZeroU32,
    value: Option<Box<T>>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Slab<T> {
    /// An empty table.
    pub fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The key that the next value will have.
    pub fn vacant_key(&self) -> Key {
        // Fewer than there can be descriptors, which are an int.
        let index = self.free.last().copied().unwrap_or(self.slots.len() as u32);
        let slot = self.slots.get(index as usize);
        slot.map_or(Key::of_slot(index), |slot| Key { index, generation: slot.generation })
    }

    /// Adds a value.
    pub fn insert(&mut self, value: T) -> Key {
        let value = Some(Box::new(value));
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.value = value;
            return Key { index, generation: slot.generation };
        }
        // Fewer than there can be descriptors, which are an int.
        let index = self.slots.len() as u32;
        let key = Key::of_slot(index);
        self.slots.push(Slot { generation: key.generation, value });
        key
    }

    /// The value of a key, if it is still there.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slot(key)?.value.as_deref_mut()
    }

    /// All values with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().zip(0..).filter_map(|(slot, index)| {
            Some((Key { index, generation: slot.generation }, slot.value.as_deref()?))
        })
    }

    /// All values, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_deref_mut())
    }

    /// The value of a key, to look at.
    pub fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        slot.value.as_deref().filter(|_| slot.generation == key.generation)
    }

    /// Keys from this slot on, each with its slot.
    pub fn iter_from(&self, slot: usize) -> impl Iterator<Item = (usize, Key)> {
        let slots = self.slots.iter().enumerate().skip(slot);
        slots.filter(|(_, slot)| slot.value.is_some()).map(|(index, slot)| {
            // No more than there can be descriptors.
            (index, Key { index: index as u32, generation: slot.generation })
        })
    }

    /// Whether the value of a key is still there.
    pub fn has(&self, key: Key) -> bool {
        self.get(key).is_some()
    }

    /// Takes the value of a key out; the key is then no longer valid.
    pub fn remove(&mut self, key: Key) -> Option<Box<T>> {
        let slot = self.slot(key)?;
        let value = slot.value.take()?;
        let next = slot.generation.get() + 1;
        slot.generation = NonZeroU32::new(next & GENERATION_MASK).unwrap_or(NonZeroU32::MIN);
        self.free.push(key.index);
        Some(value)
    }

    fn slot(&mut self, key: Key) -> Option<&mut Slot<T>> {
        self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_reaches_the_next_value_in_its_place() {
        let mut table = Slab::new();
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
        assert_eq!(table.iter_from(0).collect::<Vec<_>>(), [(1, third)]);
        assert_eq!(table.iter_from(2).count(), 0);
    }

    #[test]
    fn a_generation_comes_round_without_spilling_into_the_kind() {
        let most = NonZeroU32::new(GENERATION_MASK).expect("more than none");
        let key = Key { index: u32::MAX, generation: most };
        for source in [
            Token::Listener(7),
            Token::StatsListener,
            Token::Recorder,
            Token::Alarm,
            Token::Children,
            Token::Peers,
            Token::Client(key),
            Token::Terminal(key),
            Token::PendingConnection(key),
            Token::CommandClient(key),
            Token::CommandStream(key, 0),
            Token::CommandStream(key, 2),
            Token::ControlClient(key),
            Token::LingeringClose(key),
        ] {
            assert_eq!(Token::of(source.token()), source);
        }
        let mut table = Slab::new();
        table.insert(());
        table.slots[0].generation = most;
        let last = Key { index: 0, generation: most };
        assert!(table.remove(last).is_some());
        let next = table.insert(());
        assert_eq!(next, Key::FIRST);
        assert_eq!(size_of::<Option<Key>>(), size_of::<Key>());
    }
}
