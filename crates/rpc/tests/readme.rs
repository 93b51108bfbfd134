//! The README shows what is compiled and run.
#![allow(clippy::unwrap_used)]

#[test]
fn the_readme_shows_the_calculator_as_it_is() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let readme = std::fs::read_to_string(format!("{root}/README.md")).unwrap();
    let example = include_str!("../examples/calculator.rs");
    let code = example.split_once("\n\n").unwrap().1;
    assert!(
        readme.contains(&format!("```rust\n{code}```")),
        "the README's code differs from crates/rpc/examples/calculator.rs:\n{code}"
    );
}
