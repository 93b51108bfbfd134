//! For tests without the usual harness, which has threads: a program that runs itself again for each of its cases.

use std::process::ExitCode;

/// Runs the cases whose title contains what the first argument says, if there is one, as the usual harness does; `run` says
/// what is wrong. Behind `--child` this is the process of a case, and what follows is for `child`.
pub(crate) fn main<C>(
    cases: &[C],
    title: impl Fn(&C) -> &str,
    run: impl Fn(&C) -> Result<(), String>,
    child: impl FnOnce(&[String]),
) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--child") {
        child(&arguments[1..]);
        return ExitCode::SUCCESS;
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--list") {
        // None is ignored, which nextest asks for, too.
        for case in cases.iter().filter(|_| !has("--ignored")) {
            println!("{}: test", title(case));
        }
        return ExitCode::SUCCESS;
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let is_chosen = |case: &&C| match filter {
        Some(filter) if has("--exact") => title(case) == filter,
        Some(filter) => title(case).contains(filter.as_str()),
        None => true,
    };
    let mut failed = 0;
    for case in cases.iter().filter(is_chosen) {
        match run(case) {
            Ok(()) => println!("test {} ... ok", title(case)),
            Err(fault) => {
                println!("test {} ... FAILED\n{fault}", title(case));
                failed += 1;
            }
        }
    }
    println!("\ntest result: {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}
