//! Tests that every example of the library runs and checks its own claims.

// The examples are separate programs, each with its own copy of the shared module.
#[allow(clippy::duplicate_mod)]
#[path = "../examples/quick_start.rs"]
mod quick_start;
#[path = "../examples/state_machine.rs"]
mod state_machine;
#[allow(clippy::duplicate_mod)]
#[path = "../examples/value1.rs"]
mod value1;

#[test]
fn quick_start_elects_replicates_and_fails_over() {
    quick_start::main().unwrap();
}

#[test]
fn value1_is_at_the_same_index_everywhere_and_survives_the_leader() {
    value1::main().unwrap();
}

#[test]
fn custom_state_machine_survives_a_restart() {
    state_machine::main().unwrap();
}
