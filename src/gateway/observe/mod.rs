//! TODO ('R', 'gateway', 'observe')

pub mod audit;
pub(crate) mod metrics;
pub mod recording;
