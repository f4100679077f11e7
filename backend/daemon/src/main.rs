//! vonicd: the master, and by it the engine.
fn main() {}
