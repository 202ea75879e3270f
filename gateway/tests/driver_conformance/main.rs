//! The contracts of the crate `ring`, on the fake driver that the simulation runs on: calm, and with
//! late and reordered completions.
//!
//! `ring/tests/driver_conformance` has the contracts, and tries them on the io_uring driver, so that
//! the fake is no kinder than Linux.

#[path = "../../../ring/tests/driver_conformance/contracts.rs"]
mod contracts;
mod fake;
#[macro_use]
#[path = "../../../ring/tests/driver_conformance/list.rs"]
mod list;
#[path = "../../../ring/tests/driver_conformance/rig.rs"]
mod rig;

mod on_the_fake_driver {
    test_contracts_on!(super::fake::everywhere);
}

/// The kernels up to 6.12 with direct descriptors, which only the fake can be.
#[test]
fn an_old_kernel_holds_a_close_back_until_older_neighbours_have_ended() {
    fake::on_an_old_kernel(contracts::a_close_does_not_wait_for_neighbours_unless_the_kernel_is_old);
}
