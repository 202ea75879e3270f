//! What a core and its loop rely on, as contracts over a [`rig::Rig`]: here on the io_uring driver, in
//! every tier of features that this kernel has.
//!
//! The simulation's fake driver is tried by the same contracts, in `gateway/tests/driver_conformance`,
//! so that it is no kinder than Linux.

mod contracts;
#[macro_use]
mod list;
mod rig;
mod uring;

mod on_io_uring {
    test_contracts_on!(super::uring::everywhere);
}
