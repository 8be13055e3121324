//! The product as its users meet it: real servers, real sockets, real
//! terminals. Every case runs on every server that `make` has built for (see
//! `harness/servers.rs`), each in a folder of its own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

mod addresses;
mod audit;
mod audit_commands;
mod audit_lost;
mod audit_routes;
mod coming_back;
mod command;
mod command_wire;
mod commands;
mod compat;
mod departure;
mod descriptors;
mod documentation;
mod documents;
mod ends;
mod extended;
mod fault;
mod fpty_command;
mod gateway;
mod handover;
mod hostile;
mod isolation;
mod keys;
mod library;
mod load;
mod metrics;
mod namespaces;
mod pressure;
mod protocol;
mod pty_client_escape;
mod pty_client_jobs;
mod pty_client_keys;
mod pty_client_output;
mod pty_client_pipe;
mod pty_client_smoke;
mod pty_client_start;
mod pty_client_status;
mod pty_client_stopping;
mod pty_client_terminal;
mod pty_client_wire;
mod pty_server;
mod pty_server_absence;
mod pty_server_flood;
mod pty_server_life;
mod pty_server_python;
mod pty_server_scrollback;
mod recordings;
mod refused_calls;
mod resources;
mod scarcity;
mod session;
mod slow_start;
mod ssh;
mod start;
mod stats;
mod stats_hostile;
mod stats_sessions;
mod stream;
mod streams;
mod vanish;
