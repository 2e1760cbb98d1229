//! What a plan needs of the machine: rights, tools, and a way to call them.

use std::io::Write;
use std::process::{Command, Stdio};

use super::Trouble;

/// Why there are no rights, if there are none.
pub(super) fn lacks_root() -> Option<String> {
    (!rustix::process::geteuid().is_root()).then(|| "only root may do this".into())
}

/// Runs a command, with something on its stdin, to its end.
pub(super) fn call(words: &[&str], stdin: &str) -> Result<String, Trouble> {
    let command = words.join(" ");
    let failed = |text: String| Trouble::Tool { command: command.clone(), text };
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let mut pipe = child.stdin.take().expect("it was asked for");
    // A command that ends early does not read it: its status tells.
    let _ = pipe.write_all(stdin.as_bytes());
    drop(pipe);
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
