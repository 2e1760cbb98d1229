//! Process tests of the `synod` command, with real nodes, disks and sockets.

mod bad_input;
mod cluster;
mod kills;
mod local;
mod pipe;
mod process;
