//! The examples run.

#[path = "../examples/state_machine.rs"]
mod state_machine;
#[path = "../examples/tail.rs"]
mod tail;

#[test]
fn the_state_machine_example_runs() {
    state_machine::main().unwrap();
}

#[test]
fn the_tail_example_runs() {
    tail::main().unwrap();
}
