//! The child's side: one node, until its parent lets go of it or kills it.
//!
//! Invariant: a node never outlives its parent, whatever stands between the two (a tracer, say): it is bound to its
//! parent's death and ends when its stdin does.

use std::io::{Read, Write};
use std::path::Path;

use rustix::process::{Signal, set_parent_process_death_signal};
use synod::{Config, Node, Options};

/// What a node says on stdout when it serves.
pub(super) const READY: &str = "ready";
/// The exit status of a node whose parent is gone.
const ORPHANED: i32 = 3;

/// Runs a node. It says `ready` on stdout when it serves; its log goes to stderr.
///
/// # Errors
/// When it cannot start, with what to do.
pub fn run(config: &Path) -> Result<(), String> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| format!("cannot be bound to the parent: {e}"))?;
    std::thread::spawn(|| {
        // The end of stdin is the end of the parent: nothing is ever said there.
        let _ = std::io::stdin().lock().read(&mut [0]);
        std::process::exit(ORPHANED);
    });
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    #[cfg(feature = "planted")]
    plant()?;
    let config = Config::read(config).map_err(|error| error.to_string())?;
    let _node = Node::start(config, Options::default()).map_err(|error| error.to_string())?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{READY}").and_then(|()| out.flush()).map_err(|error| error.to_string())?;
    drop(out);
    loop {
        std::thread::park();
    }
}

/// Plants the bug that the environment names: the proof that a run can fail.
#[cfg(feature = "planted")]
fn plant() -> Result<(), String> {
    let Ok(name) = std::env::var("SYNOD_PLANTED") else { return Ok(()) };
    let bug = synod_core::planted::BUGS.into_iter().find(|bug| format!("{bug:?}") == name);
    synod_core::planted::plant(Some(*bug.ok_or_else(|| format!("no bug is called {name}"))?));
    Ok(())
}
