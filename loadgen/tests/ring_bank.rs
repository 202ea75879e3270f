//! Many rings on one thread, against a real kernel.
#![forbid(unsafe_code)]

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use roost_loadgen::ring::{Bank, BankConfig, Features, Kind};

/// Nothing here takes this long on any machine; what does has waited in vain.
const LIMIT: Duration = Duration::from_secs(60);

/// The kernel works off deferred work in slices of 20 and signals only the first: the rest of a
/// hundred connects, each a chain of several ops, must not wait for a timeout.
#[test]
fn connects_beyond_a_slice_do_not_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let config = BankConfig {
        slots: 200,
        slots_per_ring: 100,
        target: listener.local_addr().expect("an address"),
        recv_blocks: 16,
        recv_block_bytes: 4096,
    };
    let mut bank = Bank::new(&Features::probe().expect("io_uring"), config).expect("a bank");
    // On the second ring, so that there is more than one to wait for.
    for slot in 100..200 {
        bank.connect(slot, None);
    }
    let start = Instant::now();
    let mut completions = Vec::new();
    while completions.len() < 100 {
        bank.turn(LIMIT, &mut completions).expect("a turn");
        assert!(start.elapsed() < LIMIT / 2, "waited in vain with {} of 100", completions.len());
    }
    for completion in &completions {
        assert_eq!((completion.kind, completion.result), (Kind::Connect, 0), "slot {}", completion.slot);
    }
}
