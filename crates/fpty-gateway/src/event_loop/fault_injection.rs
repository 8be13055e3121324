//! Panics on demand, for the tests that each ends only what it was about. In
//! no build but one for tests (the feature `testing`), and in no release: elsewhere these
//! are nothing.
//!
//! Where the environment has `FORKPTY_FAULTS`, what is handled asks for it: bytes with
//! `forkpty-fault-in-PLACE` make whoever handles them there panic. Where no bytes come
//! by, a session that types `forkpty-fault-at-PLACE;` has the next one panic who comes
//! there, and with `PLACE!;` everybody from then on.

#[cfg(all(feature = "testing", debug_assertions))]
mod injected {
    use std::cell::RefCell;
    use std::sync::LazyLock;

    /// Looking through all that is handled takes long where nothing is optimised.
    static IS_WANTED: LazyLock<bool> =
        LazyLock::new(|| std::env::var_os("FORKPTY_FAULTS").is_some());

    thread_local! {
        /// The places where the next one is to panic.
        static NEXT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    }

    fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
        bytes.windows(wanted.len()).position(|window| window == wanted)
    }

    /// Panics if these bytes ask for it.
    pub fn panic_if_requested<B: AsRef<[u8]>>(place: &str, bytes: impl FnOnce() -> B) {
        if !*IS_WANTED {
            return;
        }
        let bytes = bytes();
        let wanted = format!("forkpty-fault-in-{place}");
        assert!(find(bytes.as_ref(), wanted.as_bytes()).is_none(), "injected fault in {place}");
    }

    /// Arms a panic elsewhere, where bytes that a session types ask for one.
    pub fn arm(bytes: &[u8]) {
        const ASKS: &[u8] = b"forkpty-fault-at-";
        if !*IS_WANTED {
            return;
        }
        let Some(at) = find(bytes, ASKS) else { return };
        let place = bytes[at + ASKS.len()..].split(|byte| *byte == b';').next();
        NEXT.with_borrow_mut(|next| next.extend(place.map(<[u8]>::to_vec)));
    }

    /// Panics if that was asked for.
    pub fn point(place: &str) {
        let is_it = NEXT.with_borrow_mut(|next| {
            let found = next
                .iter()
                .position(|wanted| wanted.strip_suffix(b"!").unwrap_or(wanted) == place.as_bytes());
            found.inspect(|at| {
                if !next[*at].ends_with(b"!") {
                    next.remove(*at);
                }
            })
        });
        assert!(is_it.is_none(), "injected fault at {place}");
    }
}

#[cfg(all(feature = "testing", debug_assertions))]
pub use injected::{arm, panic_if_requested, point};

#[cfg(not(all(feature = "testing", debug_assertions)))]
mod nothing {
    /// Injects nothing.
    #[inline(always)]
    pub fn panic_if_requested<B: AsRef<[u8]>>(_: &str, _: impl FnOnce() -> B) {}
    /// Arms nothing.
    #[inline(always)]
    pub fn arm(_: &[u8]) {}
    /// Injects nothing.
    #[inline(always)]
    pub fn point(_: &str) {}
}

#[cfg(not(all(feature = "testing", debug_assertions)))]
pub use nothing::{arm, panic_if_requested, point};
