//! Words for people. A closed terminal is no reason to fail, so nothing here can.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// A line on stderr, under the command's name.
pub(crate) fn complain(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "synod: {text}");
}

/// Text on stdout, seen at once.
pub(crate) fn say(text: impl Display) {
    let mut out = std::io::stdout();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// A line on stderr that is written over again and again; nothing at all when stderr is no terminal.
pub(crate) struct Progress {
    shown: bool,
    last: Option<Instant>,
}

impl Progress {
    /// Often enough to look alive, too seldom to cost anything.
    const PERIOD: Duration = Duration::from_millis(200);

    pub(crate) fn new() -> Self {
        Self { shown: std::io::stderr().is_terminal(), last: None }
    }

    /// Shows what `text` says now, unless something was shown a moment ago.
    pub(crate) fn update(&mut self, text: impl FnOnce() -> String) {
        if self.shown && self.last.is_none_or(|last| Self::PERIOD < last.elapsed()) {
            self.last = Some(Instant::now());
            let mut err = std::io::stderr();
            let _ = write!(err, "\r{}\x1b[K", text()).and_then(|()| err.flush());
        }
    }
}

impl Drop for Progress {
    /// Leaves an empty line for what comes next.
    fn drop(&mut self) {
        if self.last.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
