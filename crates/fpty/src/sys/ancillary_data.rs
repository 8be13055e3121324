//! Control data of messages (cmsg(3), recvmsg(2)): what comes beside the bytes.
//! It is walked by hand: where the kernel had to cut it (MSG_CTRUNC, for want of
//! room or of descriptors), what stands before the cut was delivered all the
//! same, and descriptors among it are open and nobody else's.

/// The head of an item: `cmsg_len`, which counts it, too; level and kind.
const HEADER_LENGTH: usize = size_of::<usize>() + 2 * size_of::<i32>();

/// Alignment of control messages, in bytes.
const ALIGNMENT: usize = size_of::<usize>();

/// An item, whose data may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// The level: `SOL_SOCKET`.
    pub level: i32,
    /// The type: `SCM_RIGHTS`.
    pub kind: i32,
    /// The data, as far as it was not cut.
    pub data: &'a [u8],
}

/// The items of control data, as much as the kernel says that it has written
/// (`msg_controllen`); of bytes that are none those that could be read as such, and never
/// anything outside of them.
pub fn control_messages(mut control: &[u8]) -> impl Iterator<Item = Item<'_>> {
    std::iter::from_fn(move || {
        let (length, rest) = control.split_first_chunk()?;
        let (level, rest) = rest.split_first_chunk()?;
        let (kind, data) = rest.split_first_chunk()?;
        let length = usize::from_ne_bytes(*length);
        // One that does not even count its head.
        let wanted = length.checked_sub(HEADER_LENGTH)?;
        let data = data.get(..wanted).unwrap_or(data);
        let next = length.checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX);
        control = control.get(next..).unwrap_or_default();
        Some(Item { level: i32::from_ne_bytes(*level), kind: i32::from_ne_bytes(*kind), data })
    })
}

/// The whole numbers in an item's data: descriptors, of one of that kind.
pub fn descriptors(data: &[u8]) -> impl Iterator<Item = i32> + '_ {
    data.chunks_exact(size_of::<i32>())
        .filter_map(|bytes| bytes.first_chunk())
        .map(|bytes| i32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (HEADER_LENGTH + data.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes
    }

    #[test]
    fn several_items_and_a_cut_one() {
        let first = written(1, 2, b"twelve bytes");
        let second = written(1, 1, &[7_i32.to_ne_bytes(), 9_i32.to_ne_bytes()].concat());
        let all = [first.clone(), second.clone()].concat();
        let found: Vec<_> = control_messages(&all).collect();
        assert_eq!(found[0], Item { level: 1, kind: 2, data: b"twelve bytes" });
        assert_eq!((found[1].kind, descriptors(found[1].data).collect()), (1, vec![7, 9]));
        assert_eq!(found.len(), 2);
        // What is not there is not read; a number in two is none.
        for cut in 0..second.len() {
            let bytes = [&first[..], &second[..cut]].concat();
            let found: Vec<_> = control_messages(&bytes).skip(1).collect();
            let there = cut.saturating_sub(HEADER_LENGTH);
            assert_eq!(found.len(), usize::from(cut >= HEADER_LENGTH), "{cut}");
            let descriptors = found.first().map_or(0, |item| descriptors(item.data).count());
            assert_eq!(descriptors, there / 4, "{cut}");
        }
    }

    #[test]
    fn nonsense_ends() {
        for length in
            [0, 1, HEADER_LENGTH - 1, HEADER_LENGTH, HEADER_LENGTH + 1, usize::MAX, usize::MAX - 7]
        {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend([0xff; 40]);
            assert!(control_messages(&bytes).count() <= 3, "{length}");
        }
        assert_eq!(control_messages(&[]).count(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let total: usize = control_messages(&bytes).map(|item| item.data.len() + HEADER_LENGTH).sum();
            prop_assert!(total <= bytes.len());
        }

        #[test]
        fn what_was_written_is_read(all in prop::collection::vec((any::<i32>(), any::<i32>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6)) {
            let bytes: Vec<u8> = all.iter().flat_map(|(level, kind, data)| written(*level, *kind, data)).collect();
            let read: Vec<_> = control_messages(&bytes).map(|item| (item.level, item.kind, item.data.to_vec())).collect();
            prop_assert_eq!(read, all);
        }
    }
}
