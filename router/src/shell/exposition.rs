//! Which text format of metrics a scraper gets: OpenMetrics 1.0 if it asks for it, or Prometheus'
//! text format 0.0.4, which everybody reads.
//!
//! Metrics are written as OpenMetrics; [`Format::of_openmetrics`] makes the other format from that.

use std::{borrow::Cow, collections::HashSet};

use hyper::{
    HeaderMap,
    header::{ACCEPT, HeaderValue},
};

/// A text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The format that a request with these headers prefers (RFC 9110, 12.5.1).
    pub fn accepted(headers: &HeaderMap) -> Self {
        let (mut text, mut openmetrics) = (0, 0);
        for range in headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()) {
            for range in range.split(',') {
                let mut parts = range.split(';').map(str::trim);
                let media = parts.next().unwrap_or("").to_ascii_lowercase();
                let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
                let parameter = |name: &str| {
                    parameters
                        .iter()
                        .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
                        .map(|(_, value)| value.trim())
                };
                let quality = parameter("q").map_or(1_000, per_mille);
                let version = parameter("version").map(|version| version.trim_matches('"'));
                match (media.as_str(), version) {
                    ("application/openmetrics-text", None | Some("1.0.0" | "0.0.1")) => {
                        openmetrics = openmetrics.max(quality);
                    }
                    ("text/plain", None | Some("0.0.4")) => text = text.max(quality),
                    _ => {}
                }
            }
        }
        if openmetrics > 0 && openmetrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// The value of `Content-Type`.
    pub const fn content_type(self) -> HeaderValue {
        match self {
            Self::Text => HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
            Self::OpenMetrics => {
                HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8")
            }
        }
    }

    /// A text in OpenMetrics in this format.
    ///
    /// In the older one a counter is described under the name of its samples, with `_total`;
    /// there are no units, and no end is marked.
    pub fn of_openmetrics(self, text: String) -> String {
        if self == Self::OpenMetrics {
            return text;
        }
        let counters: HashSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
        let mut older = String::with_capacity(text.len());
        for line in text.lines() {
            let line = match line.strip_prefix("# ").and_then(|rest| rest.split_once(' ')) {
                Some((keyword @ ("HELP" | "TYPE"), rest)) => match rest.split_once(' ') {
                    Some((name, rest)) if counters.contains(name) => {
                        Cow::Owned(format!("# {keyword} {name}_total {rest}"))
                    }
                    _ => Cow::Borrowed(line),
                },
                Some(("UNIT", _)) => continue,
                _ if line == "# EOF" => continue,
                _ => Cow::Borrowed(line),
            };
            older.push_str(&line);
            older.push('\n');
        }
        older
    }
}

/// A weight of RFC 9110 (0 to 1, at most three decimals) in thousandths; what is none weighs
/// nothing.
fn per_mille(text: &str) -> u32 {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let Ok(decimals) = format!("{decimals:0<3}").parse::<u16>() else { return 0 };
    match (whole, decimals) {
        ("0", 0..1_000) => decimals.into(),
        ("1", 0) => 1_000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(values: &[&'static str]) -> Format {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, HeaderValue::from_static(value));
        }
        Format::accepted(&headers)
    }

    #[test]
    fn openmetrics_is_for_who_prefers_it() {
        for values in [
            &["application/openmetrics-text"][..],
            &["application/openmetrics-text; version=1.0.0; charset=utf-8"],
            &["Application/OpenMetrics-Text;Version=\"0.0.1\""],
            // What Prometheus 2 and 3 send.
            &[
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            ],
            &["text/plain;version=0.0.4;q=0.3", "application/openmetrics-text;version=1.0.0;q=0.4"],
        ] {
            assert_eq!(accepted(values), Format::OpenMetrics, "{values:?}");
        }
        for values in [
            &[][..],
            &["*/*"],
            &["text/plain"],
            &["text/plain;version=0.0.4, application/openmetrics-text;q=0.9"],
            &["application/openmetrics-text;q=0"],
            &["application/openmetrics-text;version=2.0.0"],
            &["application/openmetrics-text;q=many"],
            &["text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"],
            &[";;,=,q=1"],
        ] {
            assert_eq!(accepted(values), Format::Text, "{values:?}");
        }
    }

    #[test]
    fn the_older_format_names_counters_as_their_samples() {
        let text = "# HELP a_seconds What.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\na_seconds_total{x=\"# UNIT\"} 1\n\
                    # HELP b That.\n# TYPE b gauge\nb 2\n# EOF\n";
        assert_eq!(Format::OpenMetrics.of_openmetrics(text.to_owned()), text);
        assert_eq!(
            Format::Text.of_openmetrics(text.to_owned()),
            "# HELP a_seconds_total What.\n# TYPE a_seconds_total counter\na_seconds_total{x=\"# UNIT\"} 1\n\
             # HELP b That.\n# TYPE b gauge\nb 2\n"
        );
    }
}
