//! What gateways say to each other.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fpty_gateway::fuzzing::peers(data));
