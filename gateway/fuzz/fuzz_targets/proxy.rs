//! The PROXY header under libFuzzer: a verdict stands whatever follows.
#![no_main]

use roost_gateway::core::proxy::{HEAD_BYTES, Verdict, parse};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut before = Verdict::Incomplete;
    for total in 0..=input.len() {
        let now = parse(&input[..total.min(HEAD_BYTES)], total);
        assert!(before == Verdict::Incomplete || before == now, "{before:?}, then {now:?}");
        assert!(!matches!(now, Verdict::Header { bytes, .. } if bytes > total), "{now:?} of {total}");
        before = now;
    }
});
