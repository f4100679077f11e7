//! Operation lists on a TCP leg; what must hold is asserted where they are run.
#[path = "../../../backend/tcp/tests/operations/mod.rs"]
mod operations;

/// An input is such a list.
pub fn run(data: &[u8]) {
    operations::run(data);
}
