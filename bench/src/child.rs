//! A child process's side of the conversation with its controller.
//!
//! Invariant: a child never outlives its controller: when stdin closes, it ends at once, whatever it is doing.

use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, channel};

use crate::messages::{Answer, Order};

/// The exit status of a child whose controller is gone or speaks nonsense.
const ORPHANED: i32 = 3;

/// The orders, as they come.
#[must_use]
pub fn orders() -> Receiver<Order> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let order = line.ok().and_then(|line| serde_json::from_str(&line).ok());
            let Some(order) = order else { break };
            if send.send(order).is_err() {
                break;
            }
        }
        std::process::exit(ORPHANED);
    });
    receive
}

/// Says something to the controller.
pub fn answer(answer: &Answer) {
    let mut line = serde_json::to_string(answer).expect("an answer has string keys only");
    line.push('\n');
    let mut out = std::io::stdout().lock();
    if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(ORPHANED);
    }
}

/// Logs to stderr, which the controller keeps in a file; `RUST_LOG` says how much.
pub fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}
