//! Where the daemon of these tests is, as of now.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The daemon of the handover's tests, and their launcher.
///
/// It is an example of this package, which cargo builds for a whole `cargo test`, but not for one test target: what lies
/// there then may be older than what is tested. So a test that cargo has started has it built.
pub(crate) fn handover_daemon() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let target = test.parent().and_then(Path::parent).unwrap();
        if let Some(cargo) = std::env::var_os("CARGO") {
            build(&cargo, target.ends_with("release"));
        }
        let path = target.join("examples/handover_daemon");
        assert!(
            path.exists(),
            "{} is missing: `cargo test -p ringhold` builds it",
            path.display()
        );
        path
    })
    .clone()
}

fn build(cargo: &std::ffi::OsStr, release: bool) {
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "ringhold"]);
    command.args(["--example", "handover_daemon"]);
    if release {
        command.arg("--release");
    }
    let status = command.current_dir(env!("CARGO_MANIFEST_DIR")).status();
    assert!(status.unwrap().success(), "handover_daemon cannot be built");
}
