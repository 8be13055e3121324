//! TODO ('R', 'gateway', 'observe', 'metrics')

pub mod counters;
pub(crate) mod prometheus;
