//! Figures that a test measured, for whoever runs the tests and wants to keep them.

use std::{env, fmt, fs::OpenOptions, io::Write};

/// Prints a figure, and appends it as a line `name key=value...` to the file that
/// `ROOST_FIGURES_FILE` names, if it does. Values hold no space.
pub(crate) fn figure(line: fmt::Arguments<'_>) {
    println!("{line}");
    if let Some(path) = env::var_os("ROOST_FIGURES_FILE") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("the figures file");
        writeln!(file, "{line}").expect("the figures file");
    }
}

/// `direct` or `plain`: what clients are in a tier.
pub(crate) fn descriptors(features: &roost_ring::Features) -> &'static str {
    if features.direct() { "direct" } else { "plain" }
}
