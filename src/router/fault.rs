//! A panic inside one session, for the test that it ends that session alone.
//! In no build but one with the feature `fault-injection`.

/// What a client sends to have its session panic.
const PANIC: &[u8] = b"forkpty-fault-panic";

/// Panics if the client asks for it.
pub fn strike(bytes: &[u8]) {
    assert!(!bytes.windows(PANIC.len()).any(|window| window == PANIC), "injected fault");
}
