//! The examples run.

// Their `main`s are public so that they can run here, and each has what they share as a module of its own.
#![allow(unreachable_pub, clippy::duplicate_mod)]

#[path = "../examples/echo.rs"]
mod echo;
#[path = "../examples/election.rs"]
mod election;
#[path = "../examples/kv.rs"]
mod kv;
#[path = "../examples/state_machine.rs"]
mod state_machine;
#[path = "../examples/tail.rs"]
mod tail;

#[test]
fn the_echo_example_runs() {
    echo::main().unwrap();
}

#[test]
fn the_election_example_runs() {
    election::main().unwrap();
}

#[test]
fn the_kv_example_runs() {
    kv::main().unwrap();
}

#[test]
fn the_state_machine_example_runs() {
    state_machine::main().unwrap();
}

#[test]
fn the_tail_example_runs() {
    tail::main().unwrap();
}
