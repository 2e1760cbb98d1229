//! The live line: rewritten in place on a terminal, one line per second elsewhere.
//!
//! Invariant: the line never breaks the run: whether it can be written is of no consequence.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::format::{decimal, micros, thousands};

/// Erases from the cursor to the end of the line.
const ERASE: &str = "\x1b[K";

/// What the run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Starting processes and electing leaders.
    Start,
    /// Load, not yet measured.
    WarmUp,
    /// Load, measured.
    Measure,
    /// Waiting for replicas and comparing them.
    Verify,
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "starting",
            Self::WarmUp => "warm-up",
            Self::Measure => "measuring",
            Self::Verify => "verifying",
        }
    }
}

/// What the line shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// What the run is doing.
    pub stage: Stage,
    /// Since this stage began.
    pub elapsed: Duration,
    /// Entries committed per second, lately.
    pub commits_per_second: Option<f64>,
    /// Their median latency, in microseconds.
    pub p50_us: Option<f64>,
    /// Their 99% latency, in microseconds.
    pub p99_us: Option<f64>,
    /// Proposals refused or of unknown outcome so far.
    pub errors: u64,
}

impl Sample {
    fn line(&self) -> String {
        format!(
            "{:<9} {:>6} s {:>11}/s   p50 {:>7} us   p99 {:>9} us   errors {}",
            self.stage.name(),
            decimal(self.elapsed.as_secs_f64(), 1),
            decimal(self.commits_per_second, 0),
            micros(self.p50_us),
            micros(self.p99_us),
            thousands(self.errors),
        )
    }
}

/// The live line of a run.
#[derive(Debug)]
pub struct Live<W: Write> {
    out: W,
    in_place: bool,
    /// Elsewhere than on a terminal: the stage and second shown last.
    shown: Option<(Stage, u64)>,
    /// On a terminal: whether the cursor stands behind an unfinished line.
    open: bool,
}

impl Live<io::Stderr> {
    /// A line on stderr, in place if that is a terminal.
    #[must_use]
    pub fn stderr() -> Self {
        let stderr = io::stderr();
        let in_place = stderr.is_terminal();
        Self::new(stderr, in_place)
    }
}

impl<W: Write> Live<W> {
    /// A line on `out`, rewritten in place or printed once a second.
    pub const fn new(out: W, in_place: bool) -> Self {
        Self { out, in_place, shown: None, open: false }
    }

    /// Shows `sample`; as often as you like.
    pub fn show(&mut self, sample: &Sample) {
        if self.in_place {
            self.open = true;
            self.write(format_args!("\r{}{ERASE}", sample.line()));
            return;
        }
        let now = Some((sample.stage, sample.elapsed.as_secs()));
        if self.shown != now {
            self.shown = now;
            self.write(format_args!("{}\n", sample.line()));
        }
    }

    /// Prints a line that stays, such as what was done to the cluster.
    pub fn note(&mut self, text: &str) {
        let start = if self.open { "\r" } else { "" };
        let erase = if self.open { ERASE } else { "" };
        self.open = false;
        self.write(format_args!("{start}{text}{erase}\n"));
    }

    /// Ends the line, so that what follows starts on a fresh one.
    pub fn finish(&mut self) {
        if self.open {
            self.open = false;
            self.write(format_args!("\n"));
        }
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        // A closed stderr must not end the run.
        let _ = self.out.write_fmt(text).and_then(|()| self.out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ms: u64) -> Sample {
        Sample {
            stage: Stage::Measure,
            elapsed: Duration::from_millis(ms),
            commits_per_second: Some(254_016.4),
            p50_us: Some(228.4),
            p99_us: Some(1812.0),
            errors: 0,
        }
    }

    fn shown(in_place: bool, run: impl FnOnce(&mut Live<&mut Vec<u8>>)) -> String {
        let mut out = Vec::new();
        run(&mut Live::new(&mut out, in_place));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_terminal_gets_one_line_rewritten() {
        let text = shown(true, |live| {
            live.show(&sample(1000));
            live.show(&sample(1250));
            live.finish();
            live.finish();
        });
        assert_eq!((text.matches('\r').count(), text.matches('\n').count()), (2, 1));
        let line = text.split(['\r', '\x1b']).nth(1).unwrap();
        assert_eq!(line, "measuring    1.0 s     254,016/s   p50     228 us   p99     1,812 us   errors 0");
    }

    #[test]
    fn a_file_gets_one_line_per_second() {
        let text = shown(false, |live| {
            for ms in [1000, 1250, 1900, 2100, 2200] {
                live.show(&sample(ms));
            }
            live.show(&Sample { stage: Stage::Verify, ..sample(2000) });
            live.finish();
        });
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(!text.contains(['\r', '\x1b']), "{text}");
    }

    #[test]
    fn a_note_stays_and_leaves_no_rest_of_the_line() {
        let text = shown(true, |live| {
            live.show(&sample(1000));
            live.note("killed node 1");
            live.note("restarted node 1");
        });
        assert!(text.ends_with("\rkilled node 1\x1b[K\nrestarted node 1\n"), "{text:?}");
        assert_eq!(shown(false, |live| live.note("killed node 1")), "killed node 1\n");
    }

    #[test]
    fn lines_fit_a_terminal_and_unmeasured_values_are_dashes() {
        let wide = Sample {
            elapsed: Duration::from_secs(86_400),
            commits_per_second: Some(9_999_999.0),
            p50_us: Some(99_999.0),
            p99_us: Some(2_000_000.0),
            errors: 9_999,
            ..sample(0)
        };
        assert!(wide.line().len() <= 96, "{}", wide.line());
        let empty = Sample { commits_per_second: None, p50_us: None, p99_us: None, ..sample(0) };
        assert_eq!(empty.line().matches(" - ").count() + empty.line().matches(" -/s").count(), 3, "{}", empty.line());
    }
}
