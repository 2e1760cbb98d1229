//! Latencies: an HdrHistogram of nanoseconds with fixed bounds, and a text form that fits into JSON.
//!
//! Invariants: values lie in 0..=[`VALUE_NS_MAX`], kept to three digits; what is higher counts as the highest and is
//! counted as saturated. Text from anywhere decodes to a histogram of fixed size or to an error.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The highest latency that is told apart, in nanoseconds: two minutes.
pub const VALUE_NS_MAX: u64 = 120_000_000_000;

const DIGITS: u8 = 3;
const TEXT_HEAD: &str = "v1;";

/// A histogram of latencies in nanoseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct LatencyHistogram {
    counts: Histogram<u64>,
    saturated: u64,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self::new()
    }
}

impl LatencyHistogram {
    /// An empty histogram; about 230 KiB.
    ///
    /// # Panics
    /// Never: the bounds are constants.
    #[must_use]
    pub fn new() -> Self {
        let counts = Histogram::new_with_bounds(1, VALUE_NS_MAX, DIGITS).expect("the bounds are constants and legal");
        Self { counts, saturated: 0 }
    }

    /// Records `n` entries that took `value_ns` nanoseconds each.
    pub fn record_n(&mut self, value_ns: u64, n: u64) {
        if n == 0 {
            return;
        }
        if VALUE_NS_MAX < value_ns {
            self.saturated = self.saturated.saturating_add(n);
        }
        self.counts.saturating_record_n(value_ns.min(VALUE_NS_MAX), n);
    }

    /// Adds all that `other` recorded.
    pub fn merge(&mut self, other: &Self) {
        self.saturated = self.saturated.saturating_add(other.saturated);
        self.counts.add(&other.counts).expect("both histograms have the same bounds");
    }

    /// Adds all that a histogram of nanoseconds with bounds of its own recorded.
    pub fn merge_hdr(&mut self, other: &Histogram<u64>) {
        for step in other.iter_recorded() {
            self.record_n(step.value_iterated_to(), step.count_at_value());
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts.reset();
        self.saturated = 0;
    }

    /// Recorded entries.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.len()
    }

    /// Whether nothing was recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Entries above [`VALUE_NS_MAX`], which count as that.
    #[must_use]
    pub const fn saturated(&self) -> u64 {
        self.saturated
    }

    /// The latency in microseconds that a share `quantile` (0 to 1) of all entries did not exceed; `None` if nothing
    /// was recorded.
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> Option<f64> {
        (!self.is_empty()).then(|| micros(self.counts.value_at_quantile(quantile)))
    }

    /// The mean in microseconds; `None` if nothing was recorded.
    #[must_use]
    pub fn mean_us(&self) -> Option<f64> {
        (!self.is_empty()).then(|| (self.counts.mean()).round() / 1e3)
    }

    /// The maximum in microseconds, to three digits; `None` if nothing was recorded.
    #[must_use]
    pub fn max_us(&self) -> Option<f64> {
        (!self.is_empty()).then(|| micros(self.counts.max()))
    }

    /// The histogram beneath, for formats that walk it.
    #[must_use]
    pub const fn as_hdr(&self) -> &Histogram<u64> {
        &self.counts
    }

    /// Text of the form `v1;saturated;value:count,value:count`, values in nanoseconds, ascending.
    #[must_use]
    pub fn encode(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!("{TEXT_HEAD}{};", self.saturated);
        for (place, step) in self.counts.iter_recorded().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            let value = self.counts.lowest_equivalent(step.value_iterated_to());
            write!(text, "{comma}{value}:{}", step.count_at_value()).expect("a String takes any text");
        }
        text
    }

    /// Reads what [`LatencyHistogram::encode`] wrote.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn decode(text: &str) -> Result<Self, DecodeError> {
        let body = text.strip_prefix(TEXT_HEAD).ok_or(DecodeError::Head)?;
        let (saturated, pairs) = body.split_once(';').ok_or(DecodeError::Head)?;
        let mut decoded = Self::new();
        let mut free_from = 0;
        let mut total = 0_u64;
        for pair in pairs.split(',').filter(|_| !pairs.is_empty()) {
            let (value, count) = pair.split_once(':').ok_or(DecodeError::Pair)?;
            let (value, count) = (number(value)?, number(count)?);
            if value < free_from || VALUE_NS_MAX < value || count == 0 {
                return Err(DecodeError::Pair);
            }
            free_from = decoded.counts.next_non_equivalent(value);
            total = total.checked_add(count).ok_or(DecodeError::Overflow)?;
            decoded.counts.saturating_record_n(value, count);
        }
        decoded.saturated = number(saturated)?;
        if total < decoded.saturated {
            return Err(DecodeError::Overflow);
        }
        Ok(decoded)
    }
}

/// Text that is no histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The text does not begin as one.
    #[error("not a latency histogram: the text must begin with `v1;SATURATED;`; are both sides of the same version?")]
    Head,
    /// A pair is not a number, a colon and a number, or not in order.
    #[error("damaged latency histogram: expected pairs `NANOSECONDS:COUNT`, ascending, at most two minutes each")]
    Pair,
    /// The counts do not fit.
    #[error("damaged latency histogram: its counts do not add up")]
    Overflow,
}

impl TryFrom<String> for LatencyHistogram {
    type Error = DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::decode(&text)
    }
}

impl From<LatencyHistogram> for String {
    fn from(histogram: LatencyHistogram) -> Self {
        histogram.encode()
    }
}

fn micros(value_ns: u64) -> f64 {
    value_ns as f64 / 1e3
}

/// Parses plain digits only: the standard parser would take a sign as well.
fn number(text: &str) -> Result<u64, DecodeError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(DecodeError::Pair);
    }
    text.parse().map_err(|_| DecodeError::Pair)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_histogram_shows_no_numbers() {
        let empty = LatencyHistogram::new();
        assert_eq!((empty.quantile_us(0.5), empty.mean_us(), empty.max_us()), (None, None, None));
        assert_eq!(LatencyHistogram::decode(&empty.encode()), Ok(empty));
    }

    #[test]
    fn what_is_too_high_counts_as_the_highest_and_is_counted() {
        let mut histogram = LatencyHistogram::new();
        histogram.record_n(0, 1);
        histogram.record_n(VALUE_NS_MAX, 2);
        assert_eq!(histogram.saturated(), 0);
        histogram.record_n(u64::MAX, 3);
        assert_eq!((histogram.saturated(), histogram.count()), (3, 6));
        let max_us = histogram.max_us().unwrap();
        assert!((max_us / 120e6 - 1.0).abs() < 0.001, "{max_us}");
    }

    #[test]
    fn quantiles_are_weighted_by_count() {
        let mut histogram = LatencyHistogram::new();
        histogram.record_n(100_000, 990);
        histogram.record_n(5_000_000, 10);
        let near = |value: Option<f64>, expected: f64| (value.unwrap() / expected - 1.0).abs() < 0.001;
        assert!(near(histogram.quantile_us(0.5), 100.0));
        assert!(near(histogram.quantile_us(0.99), 100.0));
        assert!(near(histogram.quantile_us(0.991), 5000.0));
        assert!(near(histogram.mean_us(), 149.0));
    }

    #[test]
    fn merging_adds_counts_from_histograms_of_any_bounds() {
        let mut all = LatencyHistogram::new();
        let mut other = LatencyHistogram::new();
        other.record_n(2 * VALUE_NS_MAX, 1);
        all.merge(&other);
        let mut hdr = Histogram::<u64>::new(2).unwrap();
        hdr.record_n(1000, 7).unwrap();
        all.merge_hdr(&hdr);
        assert_eq!((all.count(), all.saturated()), (8, 1));
        all.clear();
        assert_eq!(all, LatencyHistogram::new());
    }

    #[test]
    fn damaged_text_is_refused() {
        for text in [
            "",
            "v1;",
            "v2;0;1:1",
            "v1;0",
            "v1;1;",
            "v1;0;1",
            "v1;0;1:0",
            "v1;0;+1:1",
            "v1;0;2:1,1:1",
            "v1;0;1:1,1:1",
            "v1;0;1:1,",
            "v1;0;120000000001:1",
            "v1;0;1:18446744073709551615,2:1",
            "v1;0;1:18446744073709551616",
        ] {
            assert!(LatencyHistogram::decode(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(values in prop::collection::vec((0..2 * VALUE_NS_MAX, 1u64..1_000_000), 0..50)) {
            let mut histogram = LatencyHistogram::new();
            for (value_ns, n) in values {
                histogram.record_n(value_ns >> (value_ns % 37), n);
            }
            let decoded = LatencyHistogram::decode(&histogram.encode()).unwrap();
            prop_assert_eq!(&decoded, &histogram);
            prop_assert_eq!(decoded.encode(), histogram.encode());
            for quantile in [0.0, 0.5, 0.9999, 1.0] {
                prop_assert_eq!(decoded.quantile_us(quantile), histogram.quantile_us(quantile));
            }
            prop_assert_eq!(decoded.mean_us(), histogram.mean_us());
            prop_assert_eq!(decoded.max_us(), histogram.max_us());
        }

        #[test]
        fn random_text_never_panics(text in "\\PC*") {
            let _ = LatencyHistogram::decode(&text);
        }

        #[test]
        fn text_that_looks_right_never_panics(text in "v1;[0-9]{0,3};([0-9]{0,21}:[0-9]{0,21},){0,4}[0-9]{0,12}:[0-9]{1,20}") {
            if let Ok(histogram) = LatencyHistogram::decode(&text) {
                prop_assert_eq!(LatencyHistogram::decode(&histogram.encode()), Ok(histogram));
            }
        }
    }
}
