//! The link state machine under libFuzzer.
#![no_main]

#[path = "../../tests/link_machine/body.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    body::link_machine(input);
});
