//! The report for people: one HTML file that needs nothing else, not even a network.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde_json::json;

use super::{hlog, result::RunResult};
use crate::latency::Latency;

const PAGE: &str = include_str!("../../assets/report.html");
/// The plots are those of the gateway's own page.
const PLOT: &str = include_str!("../../../protocol/assets/plot.js");

/// Points of a percentile curve for each factor of ten in what remains above it.
const STEPS_PER_DECADE: u32 = 10;
/// The curve ends at 1 - 10^-6.
const DECADES: u32 = 6;

/// The page.
///
/// # Errors
/// When the result cannot be written as JSON.
pub fn render(result: &RunResult, latency: &Latency) -> anyhow::Result<String> {
    let spectrum: BTreeMap<&str, _> = [
        (hlog::CORRECTED, &latency.corrected),
        (hlog::UNCORRECTED, &latency.uncorrected),
        (hlog::SEND_LAG, &latency.send_lag),
    ]
    .into_iter()
    .filter(|(_, histogram)| !histogram.is_empty())
    .map(|(name, histogram)| (name, spectrum(histogram)))
    .collect();
    // "<" would let a string of the result end the script element.
    let data =
        serde_json::to_string(&json!({ "result": result, "spectrum": spectrum }))?.replace('<', "\\u003c");
    // The data goes in last: it must not be searched for a placeholder.
    Ok(PAGE.replacen("@PLOT@", PLOT, 1).replacen("@RESULT@", &data, 1))
}

/// Points (n, value) where 1 - 10^-n of all are at most the value.
fn spectrum(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    (0..=DECADES * STEPS_PER_DECADE)
        .map(|step| f64::from(step) / f64::from(STEPS_PER_DECADE))
        // Beyond one in as many as there are, the maximum would only be drawn again and again.
        .take_while(|nines| 10_f64.powf(nines - 1.0 / f64::from(STEPS_PER_DECADE)) <= histogram.len() as f64)
        .map(|nines| (nines, histogram.value_at_quantile(1.0 - 10_f64.powf(-nines))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency;

    #[test]
    fn the_placeholders_are_where_they_are_looked_for() {
        assert_eq!(PAGE.matches("@PLOT@").count(), 1);
        assert_eq!(PAGE.matches("@RESULT@").count(), 1);
        assert!(!PLOT.contains("</script") && !PLOT.contains("@RESULT@"));
    }

    #[test]
    fn the_page_fetches_nothing() {
        for (name, text) in [("report.html", PAGE), ("plot.js", PLOT)] {
            for sign in ["https://", "src=", "@import", "url(", "fetch(", "XMLHttpRequest"] {
                assert!(!text.contains(sign), "{name} contains {sign}");
            }
        }
    }

    #[test]
    fn a_spectrum_ends_where_the_values_end() {
        let mut histogram = latency::histogram();
        (1..=1000).for_each(|value| histogram.record(value).unwrap());
        let spectrum = spectrum(&histogram);
        assert!(spectrum.windows(2).all(|pair| pair[0].1 <= pair[1].1));
        assert_eq!(spectrum.first().unwrap().1, 1);
        assert_eq!(spectrum.last().unwrap(), &(3.1, 1000));
    }
}
