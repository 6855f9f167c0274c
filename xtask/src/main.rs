//! `cargo x`: the project's own tasks.
fn main() {}
