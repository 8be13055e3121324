//! The product as its users meet it: real servers, real sockets, real
//! terminals. Every case runs on every server that `make` has built for (see
//! `harness/servers.rs`), each in a folder of its own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

mod addresses;
mod compat;
mod departure;
mod documentation;
mod gateway;
mod protocol;
mod resources;
mod session;
mod start;
mod stats;
mod stream;
