//! The documents agree with the product.
//!
//! | file | subject |
//! | --- | --- |
//! | `agreement.rs` | documents, code and `examples/` agree |
//! | `commands.rs` | every documented command runs |
//! | `uwsgi_examples.rs` | the four configurations of uWSGI's documentation |

pub mod agreement;
pub mod commands;
pub mod uwsgi_examples;
