//! TCP ports for servers that the cases start.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports below those that the kernel chooses by itself (ip(7), ip_local_port_range): no
/// connection of anybody has one by chance.
const FIRST: u16 = 10_240;
const COUNT: u16 = 22_000;

/// An address with a port as [`free_port`] gives it.
pub fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// A port of 127.0.0.1 that nobody listens on, and that no other case is given.
///
/// # Panics
/// There is none.
pub fn free_port() -> u16 {
    static DRAWN: AtomicU16 = AtomicU16::new(0);
    // Somebody else may run these tests at the same time.
    let begin = std::process::id() % u32::from(COUNT);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let draw = || {
        let drawn = begin + u32::from(DRAWN.fetch_add(1, Ordering::Relaxed));
        FIRST + (drawn % u32::from(COUNT)) as u16
    };
    (0..COUNT).map(|_| draw()).find(is_free).expect("a free port")
}
