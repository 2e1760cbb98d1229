//! The percentile text that HdrHistogram plotters read: latencies in milliseconds.

use std::fmt::Write as _;

use crate::histogram::LatencyHistogram;

/// Steps between a percentile and half way to 100%, as other tools write them.
const STEPS_PER_HALF: u32 = 5;
const NS_PER_MS: f64 = 1e6;

/// The text of `histogram`: a header, a line per percentile, and three lines of summary.
#[must_use]
pub fn render(histogram: &LatencyHistogram) -> String {
    let counts = histogram.as_hdr();
    let mut out = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut total = 0_u64;
    for step in counts.iter_quantiles(STEPS_PER_HALF) {
        total = total.saturating_add(step.count_since_last_iteration());
        let quantile = step.quantile_iterated_to();
        let value_ms = step.value_iterated_to() as f64 / NS_PER_MS;
        write!(out, "{value_ms:12.6} {quantile:14.12} {total:10}").expect("a String takes any text");
        // The last line has no reciprocal: it would be infinite.
        if quantile < 1.0 {
            write!(out, " {:14.2}", 1.0 / (1.0 - quantile)).expect("a String takes any text");
        }
        out.push('\n');
    }
    let (mean, deviation) = (counts.mean() / NS_PER_MS, counts.stdev() / NS_PER_MS);
    let max = counts.max() as f64 / NS_PER_MS;
    let sub_buckets = 2 * 10_u32.pow(counts.sigfig().into());
    write!(
        out,
        "#[Mean    = {mean:12.6}, StdDeviation   = {deviation:12.6}]\n\
         #[Max     = {max:12.6}, Total count    = {:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {:12}]\n",
        counts.len(),
        counts.buckets(),
        sub_buckets.next_power_of_two(),
    )
    .expect("a String takes any text");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_that_of_other_tools() {
        let histogram = crate::report::sample::histogram();
        let text = render(&histogram);
        let mut lines = text.lines();
        assert_eq!(lines.next().unwrap().split_whitespace().last(), Some("1/(1-Percentile)"));
        assert_eq!(lines.next(), Some(""));
        let rows: Vec<Vec<f64>> = lines
            .by_ref()
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|cell| cell.parse().unwrap()).collect())
            .collect();
        let (last, others) = rows.split_last().unwrap();
        assert!(others.iter().all(|row| row.len() == 4), "{text}");
        assert!(rows.is_sorted_by(|a, b| a[0] <= b[0] && a[1] <= b[1] && a[2] <= b[2]), "{text}");
        assert_eq!((last.len(), last[1], last[2]), (3, 1.0, histogram.count() as f64));
        assert!((rows[0][0] - 0.14).abs() < 0.001, "values are in milliseconds: {text}");
        assert_eq!(lines.count(), 2, "two more lines of summary follow the first");
        assert!(text.ends_with("SubBuckets     =         2048]\n"), "{text}");
    }

    #[test]
    fn an_empty_histogram_has_no_rows() {
        let text = render(&LatencyHistogram::new());
        assert!(text.lines().skip(2).all(|line| line.starts_with("#[")), "{text}");
        assert!(!text.contains("NaN"), "{text}");
    }
}
