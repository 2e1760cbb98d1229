//! The `synod` command; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    synod_tools::main()
}
