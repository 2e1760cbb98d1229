//! The examples run.

// Their `main`s are public so that they can run here.
#[allow(unreachable_pub)]
#[path = "../examples/state_machine.rs"]
mod state_machine;
#[allow(unreachable_pub)]
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
