//! The product as its users meet it: real servers, real sockets, real
//! terminals. Where servers differ a case runs on each of those that `make` has
//! built for, elsewhere on one of them (see `harness/servers.rs`); and always in a
//! folder of its own.
//!
//! | folder | subject |
//! | --- | --- |
//! | `connection/` | how clients connect, and which of them are let in |
//! | `session/` | a session: its program, its bytes, its end |
//! | `command/` | commands of a client, with a terminal and without |
//! | `detach/` | sessions that are detached and attached again |
//! | `recording/` | recordings of sessions |
//! | `audit/` | the audit: one start and one end line for each session |
//! | `control/` | the list of sessions, and the end of one of them |
//! | `metrics/` | numbers: statistics, Prometheus, uWSGI's metrics |
//! | `process/` | processes: the supervisor, what a killed process leaves, and what runs out |
//! | `config/` | rules of sockets, and what a configuration may not say |
//! | `client/` | the command `fpty` and the plugin's client (`--pty-connect`) |
//! | `pty_server/` | the shared terminal of a worker (`--pty-socket`) |
//! | `uwsgi/` | the plugin in its server |
//! | `documents/` | the documents agree with the product |
//! | `harness/` | what all of them share |

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

mod audit;
mod client;
mod command;
mod config;
mod connection;
mod control;
mod detach;
mod documents;
mod metrics;
mod process;
mod pty_server;
mod recording;
mod session;
mod uwsgi;
