//! Load generator for roost: many simulated clients, every reply checked, honest figures.

pub mod transport;
