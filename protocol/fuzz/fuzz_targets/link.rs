//! The link decoder under libFuzzer.
#![no_main]
#![allow(dead_code)] // The bodies are shared; each target runs one.

#[path = "../../tests/codec/bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    bodies::link(input);
});
