//! Connections of clients: their records, and what becomes of each.

pub mod lifecycle;
mod peer;
pub mod record;
pub(crate) mod table;
