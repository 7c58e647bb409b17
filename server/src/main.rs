//! The `corral` binary.
fn main() {}
