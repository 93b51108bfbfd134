//! Compiles msgpuck if `MSGPUCK` says where a checkout of it is, so that the bench `framer` has it beside the framer.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-env-changed=MSGPUCK");
    println!("cargo::rustc-check-cfg=cfg(msgpuck)");
    let Some(checkout) = std::env::var_os("MSGPUCK").map(PathBuf::from) else {
        return;
    };
    let own = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let hints = checkout.join("hints.c");
    cc::Build::new()
        .file(checkout.join("msgpuck.c"))
        // Version 1.0 has the table in the file above.
        .files(hints.exists().then_some(hints))
        .include(&checkout)
        .define("NDEBUG", None)
        .opt_level(3)
        .warnings(false)
        .cargo_metadata(false)
        .compile("msgpuck");
    println!("cargo::rustc-link-search=native={}", own.display());
    println!("cargo::rustc-cfg=msgpuck");
}
