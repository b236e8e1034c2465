//! viaduct
fn main() {}
