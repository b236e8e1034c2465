//! A static program that does nothing: what a process costs.

fn main() {}
