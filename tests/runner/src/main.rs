//! (see host/docs/design.md)
fn main() {}
