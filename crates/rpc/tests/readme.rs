//! The README shows what is compiled and run, and the other pages what there is.
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

/// The lines do not show it, so nobody would see that a module has moved.
#[test]
fn the_modules_that_the_log_can_be_filtered_by_log() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let page = std::fs::read_to_string(format!("{root}/docs/deployment.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `ringhold_"));
    let modules: Vec<_> = rows
        .flat_map(|row| row.split('`').skip(1).step_by(2))
        .filter_map(|word| word.strip_prefix("ringhold_")?.split_once("::"))
        .collect();
    assert_eq!(modules.len(), 11, "{modules:?}");
    for (library, module) in modules {
        let path = module.replace("::", "/");
        let code = std::fs::read_to_string(format!("{root}/crates/{library}/src/{path}.rs"));
        let code = code.unwrap_or_else(|error| panic!("{library}::{module}: {error}"));
        let logs = ["tracing::warn!(", "tracing::error!(", "log!(\n        WARN"];
        assert!(
            logs.iter().any(|call| code.contains(call)),
            "{library}::{module} logs nothing"
        );
    }
}
