//! What gateways say to the recorder, and what it writes of it. The first byte
//! says how the others are cut.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((cut, bytes)) = data.split_first() {
        fpty_gateway::fuzzing::recorder(bytes, usize::from(*cut));
    }
});
