//! Who owns which key: what holds for any key and any workers, and how even it comes out.

mod properties;
mod spread;
