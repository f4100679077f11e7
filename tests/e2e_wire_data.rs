#![allow(missing_docs)]
#[test]
fn t() {}
