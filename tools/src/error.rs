//! Why a command fails, as one line.

use std::path::{Path, PathBuf};

use synod::client::ClientError;
use synod::{ConfigError, StartError};

/// A failed command. Its text says what to do and is one line.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The flags cannot be meant.
    #[error("{0}")]
    Usage(String),
    /// A configuration or cluster file cannot be used.
    #[error("{}", config_text(.0))]
    Config(#[from] ConfigError),
    /// A node cannot be made or started.
    #[error("{}", start_text(.0))]
    Start(#[from] StartError),
    /// The cluster does not do what it was asked.
    #[error("{}", one_line(&.0.to_string()))]
    Client(#[from] ClientError),
    /// A file or stream fails.
    #[error("{what}: {error}")]
    Io {
        /// Which, or what was tried.
        what: String,
        /// Why.
        error: std::io::Error,
    },
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl ToolError {
    /// What is wrong with a file: a value that cannot work does not say by itself where it stands.
    pub(crate) fn in_file(path: &Path, error: ConfigError) -> Self {
        match error {
            ConfigError::Invalid(text) => Self::Failed(format!("{}: {text}", path.display())),
            named => Self::Config(named),
        }
    }

    /// The status that the process exits with.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            _ => 1,
        }
    }
}

/// For `map_err`: an error of the system at a path.
pub(crate) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> ToolError {
    let path: PathBuf = path.to_owned();
    move |error| ToolError::Io { what: path.display().to_string(), error }
}

fn config_text(error: &ConfigError) -> String {
    match error {
        // The parser draws the place over several lines; its first line says where, its message what.
        ConfigError::Parse { path, error } => {
            let drawn = error.to_string();
            let place = drawn.lines().next().unwrap_or("no TOML");
            format!("{}: {place}: {}", path.display(), one_line(error.message()))
        }
        ConfigError::Read { error: source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            format!("{error}: `synod help init` shows a node's file, and `synod local` writes all files of a cluster")
        }
        other => one_line(&other.to_string()),
    }
}

fn start_text(error: &StartError) -> String {
    match error {
        StartError::Config(error) => config_text(error),
        other => one_line(&other.to_string()),
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use synod::Cluster;

    use super::*;

    #[test]
    fn a_malformed_file_is_one_line_that_names_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.toml");
        for (text, words) in [
            ("groups = 1\ngroups = 2\n", ["line 2", "duplicate"]),
            ("colour = 3\n", ["line 1", "colour"]),
            ("= = =", ["line 1", "cluster.toml"]),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = ToolError::from(Cluster::read(&path).unwrap_err());
            let text = error.to_string();
            assert_eq!(text.lines().count(), 1, "{text}");
            words.iter().for_each(|word| assert!(text.contains(word), "{text} should say {word}"));
            assert_eq!(error.exit_status(), 1);
        }
    }

    #[test]
    fn only_wrong_usage_exits_with_2() {
        assert_eq!(ToolError::Usage(String::new()).exit_status(), 2);
        assert_eq!(ToolError::Failed(String::new()).exit_status(), 1);
    }
}
