//! Process tests of the `synod` command, with real nodes, disks and sockets.

mod absent;
mod bad_input;
mod cluster;
mod damage;
mod denied;
mod group;
mod identity;
mod kills;
mod local;
mod member;
mod pipe;
mod process;
mod rejoin;
mod repair;
mod shards;
mod witness;
