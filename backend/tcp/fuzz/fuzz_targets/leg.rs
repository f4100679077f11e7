//! Operation lists on a leg; what must hold is asserted where they are run.
#![no_main]

#[path = "../../tests/operations/mod.rs"]
mod operations;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| operations::run(bytes));
