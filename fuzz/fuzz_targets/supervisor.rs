//! What gateways say to the processes that outlive them, and are told again.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    fpty_gateway::fuzzing::supervisor(data);
});
