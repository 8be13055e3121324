//! The plugin in its server.
//!
//! | file | subject |
//! | --- | --- |
//! | `library.rs` | the library's symbols, and which servers load it |
//! | `start.rs` | how a server with the plugin starts |
//! | `gateway_process.rs` | respawn, reload, stop and harakiri of gateways |
//! | `startup_descriptors.rs` | descriptors that a server is started with |
//! | `inherited_descriptors.rs` | what workers, mules and spoolers inherit |
//! | `other_clients.rs` | the C client, socat, scripts |

pub mod gateway_process;
pub mod inherited_descriptors;
pub mod library;
pub mod other_clients;
pub mod start;
pub mod startup_descriptors;
