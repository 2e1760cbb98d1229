//! Numbers for people: separators, units, and `-` for what was not measured.

/// What stands where nothing was measured.
pub const ABSENT: &str = "-";

/// A whole number with commas: `1,234,567`.
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if 0 < place && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with commas and `decimals` digits behind the point; `-` if it is absent, negative or no number.
#[must_use]
pub fn decimal(number: impl Into<Option<f64>>, decimals: usize) -> String {
    let Some(number) = number.into().filter(|number| number.is_finite() && 0.0 <= *number) else {
        return ABSENT.to_owned();
    };
    let text = format!("{number:.decimals$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(w, f)| (w, Some(f)));
    // Beyond 64 bits the digits stay bare, which no measurement reaches.
    let whole = whole.parse().map_or_else(|_| whole.to_owned(), thousands);
    fraction.map_or_else(|| whole.clone(), |fraction| format!("{whole}.{fraction}"))
}

/// Microseconds with as many digits as they deserve: `0.85`, `12.3`, `1,234`.
#[must_use]
pub fn micros(us: impl Into<Option<f64>>) -> String {
    let us = us.into();
    let decimals = match us {
        Some(us) if us < 9.995 => 2,
        Some(us) if us < 99.95 => 1,
        _ => 0,
    };
    decimal(us, decimals)
}

/// A count, or `-`.
#[must_use]
pub fn count(number: impl Into<Option<u64>>) -> String {
    number.into().map_or_else(|| ABSENT.to_owned(), thousands)
}

/// Bytes in MiB with one digit: `123.4 MiB`, or `-`.
#[must_use]
pub fn mebibytes(bytes: impl Into<Option<u64>>) -> String {
    let bytes: Option<u64> = bytes.into();
    bytes.map_or_else(|| ABSENT.to_owned(), |bytes| format!("{} MiB", decimal(bytes as f64 / 1_048_576.0, 1)))
}

/// Seconds without needless digits: `10 s`, `0.25 s`.
#[must_use]
pub fn seconds(seconds: f64) -> String {
    format!("{seconds} s")
}

/// A count with its noun: `1 group`, `8 groups`.
#[must_use]
pub fn plural(number: u64, noun: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {noun}{s}", thousands(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
        assert_eq!(thousands(u64::MAX), "18,446,744,073,709,551,615");
        for (us, text) in [(0.0, "0.00"), (9.994, "9.99"), (9.996, "10.0"), (99.96, "100"), (1234.6, "1,235")] {
            assert_eq!(micros(us), text);
        }
        assert_eq!(decimal(1234.56, 1), "1,234.6");
        assert_eq!(decimal(999_999.96, 1), "1,000,000.0");
        assert_eq!(mebibytes(5 << 19), "2.5 MiB");
        assert_eq!((plural(1, "shard"), plural(1000, "group")), ("1 shard".into(), "1,000 groups".into()));
        assert_eq!((seconds(10.0), seconds(0.25)), ("10 s".into(), "0.25 s".into()));
    }

    #[test]
    fn what_was_not_measured_is_a_dash() {
        assert_eq!((micros(None), count(None), mebibytes(None)), ("-".into(), "-".into(), "-".into()));
        assert_eq!(
            (decimal(f64::NAN, 1), decimal(f64::INFINITY, 1), micros(f64::NAN)),
            ("-".into(), "-".into(), "-".into())
        );
    }
}
