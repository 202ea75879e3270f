//! How many rings fit, found by making them.
//!
//! A kernel may charge rings to RLIMIT_MEMLOCK: Linux did until 5.12 and does again of late, of users
//! without CAP_IPC_LOCK, and of all processes of a user together. Neither a version nor a feature bit
//! tells, and nothing tells how much the user's other processes take.

use std::thread;

use super::{
    driver::{Config, Layout},
    features::Features,
    ring::{PAUSE, Ring, Sizes},
};

/// Rings made at most: 16,384 slots each are more connections than a gateway can name.
const TRIED_MAX: u32 = 4_096;

/// How many rings of these drivers' kind can be had at once, of `wanted`; `wanted` if as many, or if
/// something else than memory is what ends them. They are gone again when this returns.
pub fn rings_that_fit(features: &Features, slots_max: u32, ring_slots_max: u32, wanted: u32) -> u32 {
    let config = Config { ring_slots_max, ..Config::new(slots_max, Vec::new(), Vec::new()) };
    // A table of direct descriptors is not charged.
    let sizes = Sizes { files: 0, ..Layout::new(features, &config).sizes() };
    let tried = wanted.min(TRIED_MAX);
    let mut rings = Vec::new();
    while (rings.len() as u32) < tried {
        match Ring::start_patiently(features, sizes) {
            Ok(ring) => rings.push(ring),
            Err(error) if error.is_out_of_memory() => {
                let fit = rings.len() as u32;
                drop(rings);
                // Whoever makes rings next should find the memory that these had.
                drop(Ring::start_patiently(features, sizes));
                thread::sleep(2 * PAUSE);
                return fit;
            }
            Err(_) => return wanted,
        }
    }
    wanted
}
