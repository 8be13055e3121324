//! Numbers in the server's own metrics (`enable-metrics`).

use std::ffi::{CStr, c_char};
use std::ptr::{addr_of, null_mut};
use std::sync::atomic::AtomicU64;

use crate::ffi;
use fpty_gateway::host::MetricKind;

/// Whether anybody asked for metrics.
fn are_enabled() -> bool {
    // SAFETY: a plain int that is set while options are read and only read
    // afterwards.
    unsafe { addr_of!(ffi::uwsgi.has_metrics).read() != 0 }
}

/// Adds a number in shared memory, at which the master looks every second.
/// To be called before the server sets its metrics up.
pub fn register(name: &'static CStr, kind: MetricKind, number: &'static AtomicU64) {
    if !are_enabled() {
        return;
    }
    let kind = match kind {
        MetricKind::Counter => ffi::UWSGI_METRIC_COUNTER,
        MetricKind::Gauge => ffi::UWSGI_METRIC_GAUGE,
    };
    let text = |text: &'static CStr| text.as_ptr().cast_mut().cast::<c_char>();
    // SAFETY: the strings live forever, as does the number, which the server
    // reads as a whole, and never writes.
    unsafe {
        ffi::uwsgi_register_metric(
            text(name),
            null_mut(),
            // One of three.
            kind as u8,
            text(c"ptr"),
            number.as_ptr().cast(),
            0,
            null_mut(),
        );
    }
}
