//! `/dev/cpu_dma_latency`: keeping the processors awake for a target's turn, and saying whether anybody does.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};

use crate::error::{At, Result};

const DEVICE: &str = "/dev/cpu_dma_latency";

/// The latency is held at 0 µs as long as this lives.
pub(crate) struct Held(#[expect(dead_code, reason = "the open descriptor is the request")] File);

/// Asks the kernel to keep the processors out of every sleep state.
pub(crate) fn hold() -> Result<Held> {
    let mut device = OpenOptions::new().write(true).open(DEVICE).at(DEVICE)?;
    device.write_all(&0_i32.to_ne_bytes()).at(DEVICE)?;
    Ok(Held(device))
}

/// What holds now, µs; a large number when nobody asked for anything. `None` where the kernel has no such thing.
pub(crate) fn now_us() -> Option<i32> {
    let mut bytes = [0; 4];
    File::open(DEVICE).ok()?.read_exact(&mut bytes).ok()?;
    Some(i32::from_ne_bytes(bytes))
}
