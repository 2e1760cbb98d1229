//! Axes: where they end and what stands at them.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};

use crate::format::decimal;

const LABELS_MAX: usize = 7;

/// An axis and the places of its labels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    pub(super) range: Range<f64>,
    pub(super) labels: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, pixels: (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        pixels.0 + (share * f64::from(pixels.1 - pixels.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Labels and bold lines only; light lines would add nothing.
        if hint.weight().allow_light_points() { Vec::new() } else { self.labels.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// From 0 to a round number that `most` does not exceed.
pub(super) fn linear_axis(most: f64) -> Axis {
    let most = if 0.0 < most { most } else { 1.0 };
    let step = round_step(most / (LABELS_MAX - 2) as f64);
    let count = (most / step).ceil() as u32;
    Axis { range: 0.0..step * f64::from(count), labels: (0..=count).map(|n| step * f64::from(n)).collect() }
}

/// Seconds from 0 to `end`, which is at least 1.
pub(super) fn time_axis(end: u32) -> Axis {
    let end = f64::from(end.max(1));
    let step = round_step(end / LABELS_MAX as f64).max(1.0);
    let labels = (0..).map(|n| step * f64::from(n)).take_while(|at| *at <= end).collect();
    Axis { range: 0.0..end, labels }
}

/// Logarithms of latencies in microseconds, from a round one below all to a round one above.
pub(super) fn latency_axis(latencies_us: impl Iterator<Item = f64>) -> Axis {
    let (least, most) = latencies_us
        .map(|us| us.max(1e-3))
        .fold((f64::INFINITY, 0.0_f64), |(least, most), us| (least.min(us), most.max(us)));
    if most < least {
        return Axis { range: 0.0..1.0, labels: vec![0.0, 1.0] };
    }
    // 1, 2 and 5 of each decade from nanoseconds to a quarter of an hour.
    let round: Vec<f64> = (-3..9).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power))).collect();
    let low = round.partition_point(|us| *us <= least).saturating_sub(1);
    let high = round.partition_point(|us| *us < most).max(low + 1).min(round.len() - 1);
    let places = &round[low..=high];
    let logs =
        |keep: fn(f64) -> bool| -> Vec<f64> { places.iter().map(|us| us.log10()).filter(|log| keep(*log)).collect() };
    let is_whole = |log: f64| (log - log.round()).abs() < 1e-9;
    let labels = if places.len() <= LABELS_MAX { logs(|_| true) } else { logs(is_whole) };
    Axis { range: places[0].log10()..places[places.len() - 1].log10(), labels }
}

/// The least of 1, 2 or 5 times a power of ten that is at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0]
        .map(|digit| digit * power)
        .into_iter()
        .find(|round| step <= round * 1.000_001)
        .unwrap_or(10.0 * power)
}

/// 0%, 90%, 99%, 99.9% and so on.
pub(super) fn nines_label(nines: f64) -> String {
    let nines = nines.round().clamp(0.0, 12.0);
    let decimals = (nines as usize).saturating_sub(2);
    format!("{:.decimals$}%", 100.0 - 100.0 * 10_f64.powf(-nines))
}

/// Microseconds in the unit that suits them.
pub(super) fn latency_label(us: f64) -> String {
    let (number, unit) = match us {
        us if us < 0.999 => (us * 1e3, "ns"),
        us if us < 999.0 => (us, "\u{b5}s"),
        us if us < 999_000.0 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    if number < 1e-9 { "0".to_owned() } else { format!("{} {unit}", short(number)) }
}

/// A rate with its thousands or millions.
pub(super) fn rate_label(rate: f64) -> String {
    match rate {
        rate if rate < 9_999.0 => decimal(rate.abs(), if 0.0 < rate && rate < 5.0 { 1 } else { 0 }),
        rate if rate < 999_000.0 => format!("{}k", short(rate / 1e3)),
        rate => format!("{}M", short(rate / 1e6)),
    }
}

pub(super) fn time_label(seconds: f64) -> String {
    format!("{} s", short(seconds))
}

/// At most two digits behind the point, none that say nothing.
fn short(number: f64) -> String {
    format!("{}", (number * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_read_well() {
        assert_eq!([0.0, 1.0, 2.0, 3.0, 6.0].map(nines_label), ["0%", "90%", "99%", "99.9%", "99.9999%"]);
        assert_eq!(
            [0.0, 0.5, 200.0, 1000.0, 2500.0, 1e6].map(latency_label),
            ["0", "500 ns", "200 \u{b5}s", "1 ms", "2.5 ms", "1 s"]
        );
        assert_eq!([0.0, 500.0, 5000.0, 250_000.0, 1.5e6].map(rate_label), ["0", "500", "5,000", "250k", "1.5M"]);
        assert_eq!([0.0, 2.0].map(time_label), ["0 s", "2 s"]);
    }

    #[test]
    fn axes_end_on_round_numbers() {
        assert_eq!(linear_axis(411_873.0).range, 0.0..500_000.0);
        assert_eq!(linear_axis(0.0).range, 0.0..1.0);
        assert_eq!(time_axis(10).labels, [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(time_axis(1).labels, [0.0, 1.0]);
        let axis = latency_axis([180.0, 640.0].into_iter());
        assert_eq!(
            axis.labels.iter().map(|log| latency_label(10_f64.powf(*log))).collect::<Vec<_>>(),
            ["100 \u{b5}s", "200 \u{b5}s", "500 \u{b5}s", "1 ms"]
        );
        assert_eq!(latency_axis(std::iter::empty()).range, 0.0..1.0);
    }

    proptest! {
        #[test]
        fn axes_hold_their_values_and_few_labels(a in 0.0..2e8, b in 0.0..2e8) {
            let latency = latency_axis([a, b].into_iter());
            for us in [a, b] {
                prop_assert!(latency.range.start <= us.max(1e-3).log10() + 1e-9);
                prop_assert!(us.max(1e-3).log10() <= latency.range.end + 1e-9);
            }
            prop_assert!(latency.range.start < latency.range.end);
            let linear = linear_axis(a);
            prop_assert!(a <= linear.range.end * 1.000_001);
            for axis in [&latency, &linear, &time_axis(b as u32)] {
                prop_assert!((1..=13).contains(&axis.labels.len()), "{:?}", axis);
            }
        }
    }
}
