//! `check`, and what is wrong with a configuration.

use std::process::Command;

use crate::common::clean;
use crate::harness::{Daemon, Manager, parts, ringhold, run};
use crate::ports::free_address;

/// Runs `check` and `serve` with this configuration; both must refuse it for the same reasons. Returns those.
fn refused(text: &str) -> String {
    let manager = Manager::new();
    let path = manager.write("ringhold.toml", text);
    let (status, stdout, problems) = run(&["check", "--config", &path]);
    assert_eq!((status, stdout.as_str()), (2, ""), "{problems}");
    let (status, stdout, served) = run(&["serve", "--config", &path]);
    assert_eq!((status, stdout.as_str()), (2, ""), "{served}");
    assert_eq!(served, problems);
    assert!(
        !problems.contains("Error {") && !problems.contains("Some("),
        "{problems}"
    );
    problems.replace(&path, "FILE")
}

#[test]
fn problems_have_lines_and_the_nearest_key() {
    let problems = refused(
        "[limits]\nframe_byte = \"1MiB\"\ndepth = 0\n\n[sockets.rpc]\nservise = \"rpc\"\nlisten = [\"4660\"]\n",
    );
    let lines: Vec<&str> = problems.lines().collect();
    let expected: [(&str, &[&str]); 4] = [
        (
            "ringhold: FILE:2: ",
            &["frame_byte", "did you mean \"frame_bytes\"?"],
        ),
        ("ringhold: FILE:3: ", &["depth"]),
        (
            "ringhold: FILE:6: ",
            &["servise", "did you mean \"service\"?"],
        ),
        ("ringhold: FILE:7: ", &["\"4660\"", "127.0.0.1:4660"]),
    ];
    assert_eq!(lines.len(), expected.len(), "{problems}");
    for (line, (start, parts)) in lines.iter().zip(expected) {
        assert!(line.starts_with(start), "{line}");
        for part in parts {
            assert!(line.contains(part), "{line}");
        }
    }
}

/// As the first command of a unit, whose output is in the log each time.
#[test]
fn a_quiet_check_says_what_is_wrong_and_nothing_else() {
    let manager = Manager::new();
    let listen = free_address();
    for (listen, expected, said) in [
        (listen.to_string(), 0, ""),
        ("4660".to_owned(), 2, "ringhold: "),
    ] {
        let config = format!("[sockets.rpc]\nlisten = [\"{listen}\"]\n");
        let path = manager.write("ringhold.toml", &config);
        for quiet in ["--quiet", "-q"] {
            let (status, stdout, stderr) = run(&["check", quiet, "--config", &path]);
            assert_eq!((status, stdout.as_str()), (expected, ""), "{stderr}");
            assert_eq!(stderr.is_empty(), said.is_empty(), "{stderr}");
            assert!(stderr.starts_with(said), "{stderr}");
        }
    }
}

/// The unit may make the directory when it starts. Descriptors that are passed on need none.
#[test]
fn a_directory_that_is_missing_is_a_warning() {
    let manager = Manager::new();
    let missing = manager.path("missing");
    let config = format!(
        "[sockets.rpc]\nlisten = [\"unix:{missing}/a\", \"unix:@{missing}/b\", \"unix:{}/c\"]\n",
        manager.path("")
    );
    let path = manager.write("ringhold.toml", &config);
    for (more, is_said) in [("--quiet", true), ("--assume-inherited", false)] {
        let (status, _, stderr) = run(&["check", more, "--config", &path]);
        assert_eq!(status, 0, "{stderr}");
        let said = format!(
            "ringhold: warning: socket \"rpc\" cannot listen on unix:{missing}/a before the directory {missing} exists, which \
             RuntimeDirectory= in the service unit makes\n"
        );
        assert_eq!(stderr, if is_said { said.as_str() } else { "" });
    }
}

#[test]
fn a_file_that_is_no_toml_or_is_not_there_is_named() {
    assert!(refused("[sockets\n").starts_with("ringhold: FILE:1: "));
    for command in ["check", "serve"] {
        let (status, _, stderr) = run(&[command, "--config", "/nonexistent/ringhold.toml"]);
        assert_eq!(status, 2, "{stderr}");
        assert!(
            stderr.starts_with("ringhold: /nonexistent/ringhold.toml: ")
                && stderr.contains("No such file"),
            "{stderr}"
        );
    }
}

#[test]
fn an_unknown_service_is_named_with_the_known_ones() {
    let problems = refused("[sockets.a]\nservice = \"rcp\"\nlisten = [\"127.0.0.1:0\"]\n");
    assert_eq!(
        problems,
        "ringhold: socket \"a\" is answered by service \"rcp\", which does not exist; did you mean \"rpc\"? \
         the services are \"rpc\"\n"
    );
}

#[test]
fn every_socket_that_cannot_be_is_reported_at_once() {
    let problems =
        refused("[sockets.rpc]\n[sockets.b]\nservice = \"none\"\nlisten = [\"127.0.0.1:0\"]\n");
    assert!(
        problems.contains("\"rpc\" has nothing to listen on"),
        "{problems}"
    );
    assert!(problems.contains("service \"none\""), "{problems}");
    assert!(
        problems.lines().all(|line| line.starts_with("ringhold: ")),
        "{problems}"
    );
}

#[test]
fn an_address_of_two_sections_is_found_by_check_too() {
    let problems = refused(
        "[sockets.one]\nservice = \"rpc\"\nlisten = \"0.0.0.0:4793\"\n\
         [sockets.two]\nservice = \"rpc\"\nlisten = \"127.0.0.1:4793\"\n",
    );
    assert_eq!(
        problems,
        "ringhold: socket \"two\" cannot listen on 127.0.0.1:4793: 0.0.0.0:4793 of socket \"one\" is in the way; remove \
         one of the two\n"
    );
}

#[test]
fn under_a_service_manager_problems_are_marked_as_errors() {
    let manager = Manager::new();
    let path = manager.write("ringhold.toml", "nonsense = 1\n");
    // As in a unit that starts the daemon itself, and in one whose script does.
    for (run, expected) in [
        ("exec \"$@\"", "<3>ringhold"),
        ("\"$@\"; exit $?", "ringhold"),
    ] {
        let mut command = Command::new("sh");
        clean(&mut command);
        let shell = format!("export SYSTEMD_EXEC_PID=$$; {run}");
        let output = command
            .args(["-c", &shell, "sh", env!("CARGO_BIN_EXE_ringhold")])
            .args(["serve", "--log", "off", "--config", &path])
            .env("INVOCATION_ID", "0123456789abcdef0123456789abcdef")
            .output()
            .unwrap();
        let (status, _, stderr) = parts(&output);
        assert_eq!(status, 2);
        assert!(
            stderr.starts_with(&format!("{expected}: {path}:1: ")),
            "{stderr}"
        );
    }
}

#[test]
fn a_filter_that_means_nothing_is_refused() {
    let (status, _, stderr) = run(&["serve", "--log", "inof"]);
    assert_eq!(status, 2, "{stderr}");
    assert!(stderr.contains("\"inof\" is not a level"), "{stderr}");
    let output = ringhold().env("RINGHOLD_LOG", "loud").output().unwrap();
    let (status, _, stderr) = parts(&output);
    assert_eq!(status, 2, "{stderr}");
    assert!(
        stderr.starts_with("ringhold: RINGHOLD_LOG: \"loud\" is not a level"),
        "{stderr}"
    );
}

#[test]
fn the_filter_of_the_environment_concerns_only_who_logs() {
    let manager = Manager::new();
    let path = manager.write(
        "ringhold.toml",
        "[sockets.rpc]\nservice = \"rpc\"\nlisten = [\"127.0.0.1:0\"]\n",
    );
    let nobody = free_address().to_string();
    for filter in ["", "loud"] {
        let cases: [(&[&str], i32, &str); 5] = [
            (&["check", "--config", &path], 0, ""),
            (&["probe"], 0, ""),
            (&["call", &nobody, "ping"], 3, "refused"),
            (&["load", &nobody], 3, "refused"),
            (&["status", &nobody], 3, "refused"),
        ];
        for (arguments, expected, part) in cases {
            let mut command = ringhold();
            command.args(arguments).env("RINGHOLD_LOG", filter);
            let (status, _, stderr) = parts(&command.output().unwrap());
            assert_eq!(status, expected, "{filter:?} {arguments:?}: {stderr}");
            assert!(stderr.contains(part), "{filter:?} {arguments:?}: {stderr}");
        }
    }
}

#[test]
fn an_empty_filter_of_the_environment_is_none() {
    let manager = Manager::new();
    let path = manager.write(
        "ringhold.toml",
        "[sockets.rpc]\nservice = \"rpc\"\nlisten = [\"127.0.0.1:0\"]\n",
    );
    let mut command = ringhold();
    command
        .args(["serve", "--config", &path])
        .env("RINGHOLD_LOG", "");
    let mut daemon = Daemon::launch(command, manager);
    daemon.wait_for("READY=1");
    assert!(daemon.stop().log.contains("listening on"));
}

#[test]
fn a_filter_on_the_command_line_is_the_one_that_counts() {
    let (status, _, stderr) = {
        let mut command = ringhold();
        command
            .args(["serve", "--log", "off", "--config", "/nonexistent"])
            .env("RINGHOLD_LOG", "loud");
        parts(&command.output().unwrap())
    };
    assert_eq!(status, 2);
    assert!(stderr.starts_with("ringhold: /nonexistent: "), "{stderr}");
}

#[test]
fn check_prints_the_table_and_binds_nothing() {
    let manager = Manager::new();
    let socket = manager.path("rpc.sock");
    let text = format!(
        "workers = 2\n[limits]\nconnections = 500\nidle_timeout = \"1min\"\n\
         [sockets.rpc]\nidle_timeout = \"0s\"\nlisten = [\"127.0.0.1:4999\", \"unix:{socket}\"]\n\
         [sockets.quiet]\nservice = \"rpc\"\nlisten = [\"[::1]:4998\"]\nworkers = [1]\nconnections = 5\nconnections_per_client = 2\n\
         [sockets.off]\nservice = \"rpc\"\nlisten = [\"127.0.0.1:4997\"]\nenable = false\n"
    );
    let path = manager.write("ringhold.toml", &text);
    let (status, stdout, stderr) = run(&["check", "--config", &path]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    let rows: Vec<Vec<&str>> = stdout
        .lines()
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        })
        .collect();
    let unix = format!("unix:{socket}");
    assert_eq!(
        rows,
        [
            vec![
                "NAME",
                "ADDRESS",
                "SOURCE",
                "SERVICE",
                "WORKERS",
                "ENABLED",
                "CONNECTIONS",
                "PER CLIENT",
                "IDLE",
                "PROXY"
            ],
            vec!["off", "-", "-", "rpc", "-", "no", "-", "-", "-", "-"],
            vec![
                "quiet",
                "[::1]:4998",
                "would bind",
                "rpc",
                "1",
                "yes",
                "5",
                "2",
                "60s",
                "no"
            ],
            vec![
                "rpc",
                "127.0.0.1:4999",
                "would bind",
                "rpc",
                "0-1",
                "yes",
                "500",
                "any",
                "never",
                "no"
            ],
            vec![
                "rpc",
                &unix,
                "would bind",
                "rpc",
                "0-1",
                "yes",
                "500",
                "any",
                "never",
                "no"
            ],
        ],
        "{stdout}"
    );
    assert!(!std::path::Path::new(&socket).exists());

    let (status, stdout, stderr) = run(&["check", "--inherited-only", "--config", &path]);
    assert_eq!((status, stdout.as_str()), (2, ""));
    for name in ["rpc", "quiet"] {
        let line = format!("ringhold: socket \"{name}\" was not inherited");
        assert!(stderr.contains(&line), "{stderr}");
    }
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
}
