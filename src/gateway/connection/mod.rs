//! TODO ('R', 'gateway', 'connection')

pub(crate) mod access;
pub mod client_hello;
pub(crate) mod exec_request;
pub(crate) mod fair_share;
pub(crate) mod handshake;
pub(crate) mod http_probe;
pub mod http_request;
pub(crate) mod late_hello;
pub mod limits;
pub(crate) mod lingering_close;
pub(crate) mod listeners;
pub(crate) mod session_access;
pub(crate) mod shared_counts;
