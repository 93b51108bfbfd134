//! `call`, `status` and `probe`, against a daemon and without one.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use rmpv::Value;

use crate::common::wire::{counter, field};
use crate::harness::{Daemon, Manager, parts, ringhold, run};
use crate::ports::free_address;

pub(crate) const RPC: &str = "[sockets.rpc]\nservice = \"rpc\"\nlisten = [\"127.0.0.1:0\"]\n";

/// `ringhold`, then `ringhold call 127.0.0.1:4660 echo '{"a":1}'`: what the README begins with.
#[test]
fn the_first_two_commands_work_as_written() {
    if std::path::Path::new("/etc/ringhold/ringhold.toml").exists() {
        eprintln!("SKIPPED: this machine has a configuration of its own");
        return;
    }
    // The port is the one of the documentation, so somebody else may have it.
    if TcpListener::bind("127.0.0.1:4660").is_err() {
        eprintln!("SKIPPED: somebody listens on 127.0.0.1:4660");
        return;
    }
    let mut daemon = Daemon::launch(ringhold(), Manager::new());
    daemon.wait_for("READY=1");
    let (status, stdout, stderr) = run(&["call", "127.0.0.1:4660", "echo", "{\"a\":1}"]);
    assert_eq!(
        (status, stdout.as_str(), stderr.as_str()),
        (0, "{\"a\":1}\n", "")
    );
    let ended = daemon.stop();
    assert_eq!(ended.served(), (1, 1));
}

#[test]
fn a_call_converts_every_type_both_ways() {
    let daemon = Daemon::start(RPC);
    let address = daemon.address("rpc").to_string();
    let values = [
        "null",
        "true",
        "-9223372036854775808",
        "18446744073709551615",
        "1.5",
        "-0.0",
        r#"{"$float":"nan"}"#,
        r#"{"$float":"-inf"}"#,
        r#""grüß dich""#,
        r#"{"$bin":"AAEC/w=="}"#,
        r#"{"$str":"/w=="}"#,
        r#"{"$ext":[-128,"AAECAwQ="]}"#,
        "[]",
        "{}",
        r#"{"z":1,"a":{"b":[null,[]]}}"#,
        r#"{"$map":[[1,"one"],[null,2],[{"$bin":"AA=="},3]]}"#,
        r#"{"$map":[["$bin","not a bin"]]}"#,
    ];
    for value in values {
        let answer = run(&["call", &address, "echo", value]);
        assert_eq!(answer, (0, format!("{value}\n"), String::new()));
    }
    let all = format!("[{}]\n", values.join(","));
    let arguments: Vec<&str> = ["call", &address, "echo"]
        .into_iter()
        .chain(values)
        .collect();
    assert_eq!(run(&arguments), (0, all, String::new()));
    assert_eq!(run(&["call", &address, "echo"]).1, "[]\n");
    assert_eq!(run(&["call", &address, "ping"]).1, "\"pong\"\n");
}

#[test]
fn what_the_server_takes_is_not_nested_deeper_than_the_help_says() {
    let daemon = Daemon::start(RPC);
    let address = daemon.address("rpc").to_string();
    let call = |levels: usize| {
        let value = format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        (run(&["call", &address, "echo", &value]), value)
    };
    let (answer, value) = call(126);
    assert_eq!(answer, (0, format!("{value}\n"), String::new()));
    let ((status, _, stderr), _) = call(127);
    assert_eq!(status, 2, "{stderr}");
    assert!(stderr.contains("nested deeper"), "{stderr}");
}

#[test]
fn a_parameter_can_come_from_standard_input() {
    let daemon = Daemon::start(RPC);
    let mut child = ringhold()
        .args(["call", &daemon.address("rpc").to_string(), "echo", "1", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = "x".repeat(300_000);
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "  \"{text}\"").unwrap();
    drop(stdin);
    let (status, stdout, stderr) = parts(&child.wait_with_output().unwrap());
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_eq!(stdout, format!("[1,\"{text}\"]\n"));
}

#[test]
fn what_is_no_text_on_standard_input_is_wrong_usage() {
    let mut child = ringhold()
        .args(["call", "127.0.0.1:1", "echo", "1", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"\"\xff\"").unwrap();
    drop(stdin);
    let (status, _, stderr) = parts(&child.wait_with_output().unwrap());
    assert_eq!(status, 2, "{stderr}");
    assert!(
        stderr.contains("parameter 2") && stderr.contains("utf-8"),
        "{stderr}"
    );
}

/// What a server says is shown, but not obeyed, by a terminal.
#[test]
fn an_error_of_the_server_is_escaped_and_bounded() {
    type Write = fn(&mut Vec<u8>);
    let errors: [(Write, &str); 5] = [
        (
            |error| error.extend(b"\xa9\x1b[2J\x07\nxyz"),
            r"error: \u{1b}[2J\u{7}\nxyz",
        ),
        // A C1 control in an array, which is shown as JSON.
        (
            |error| error.extend(b"\x91\xa3\xc2\x9bm"),
            r#"error: ["\u009bm"]"#,
        ),
        (
            |error| error.extend(b"\x81\xa4code\x05"),
            r#"error: {"code":5}"#,
        ),
        (
            |error| error.extend(b"\xa1\xff"),
            r#"error: {"$str":"/w=="}"#,
        ),
        (
            |error| {
                error.extend(b"\xda\xff\xff");
                error.resize(error.len() + 0xffff, b'a');
            },
            "aaa…",
        ),
    ];
    for (error, shown) in errors {
        let mut answer = b"\x94\x01\x00".to_vec();
        error(&mut answer);
        answer.push(0xc0);
        let address = impostor(answer.leak());
        for command in [&["call", &address, "echo"][..], &["status", &address]] {
            let (status, _, stderr) = run(command);
            assert_eq!(status, 1, "{stderr}");
            assert!(stderr.trim_end().ends_with(shown), "{stderr}");
            assert!(stderr.len() < 3000);
        }
    }
}

#[test]
fn a_notification_is_not_answered_but_arrives() {
    let daemon = Daemon::start(RPC);
    let address = daemon.address("rpc");
    let before = counter(&address, "rpc", "frames_in");
    let answer = run(&["call", "--notify", &address.to_string(), "echo", "1"]);
    assert_eq!(answer, (0, String::new(), String::new()));
    // The question before was a frame itself, counted after its answer.
    assert_eq!(counter(&address, "rpc", "frames_in"), before + 2);
}

/// What is there before the result comes after it, and what is asked meanwhile is answered, if only with an error.
#[test]
fn a_call_that_follows_prints_what_comes_until_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for is_cut in [false, true] {
        let listener = listener.try_clone().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let call = rmpv::decode::read_value(&mut stream).unwrap();
            let messages: [&[u8]; 4] = [
                b"\x93\x02\xa5early\x91\x01",
                b"\x94\x01\x00\xc0\xa4done",
                b"\x94\x00\x07\xa3why\x90",
                b"\x93\x02\xa3a\x1bb\x92\xc4\x01\x00\x81\xa1x\xc0",
            ];
            stream.write_all(&messages.concat()).unwrap();
            let answer = rmpv::decode::read_value(&mut stream).unwrap();
            if is_cut {
                stream.write_all(b"\x93\x02").unwrap();
            }
            (call[2].clone(), answer)
        });
        let (status, stdout, stderr) = run(&["call", "--follow", &address, "begin"]);
        let (method, answer) = server.join().unwrap();
        assert_eq!(method, "begin".into());
        assert_eq!((&answer[1], &answer[3]), (&7.into(), &Value::Nil));
        assert_eq!(answer[2], "ringhold call answers no requests".into());
        assert_eq!(
            stdout,
            "\"done\"\n{\"early\":[1]}\n{\"a\\u001bb\":[{\"$bin\":\"AA==\"},{\"x\":null}]}\n"
        );
        assert_eq!(
            (status, stderr.is_empty()),
            if is_cut { (3, false) } else { (0, true) }
        );
    }
}

/// On the same connection, in order, each behind the answer of the one before, up to an error.
#[test]
fn what_is_called_first_is_called_before() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for is_refused in [false, true] {
        let listener = listener.try_clone().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut calls = Vec::new();
            while let Ok(call) = rmpv::decode::read_value(&mut stream) {
                let id = call[1].as_u64().unwrap() as u8;
                let is_refused = is_refused && call[2].as_str() == Some("choose");
                let answer: &[u8] = if is_refused {
                    b"\xa2no\xc0"
                } else {
                    b"\xc0\x07"
                };
                stream
                    .write_all(&[&[0x94, 1, id], answer].concat())
                    .unwrap();
                calls.push(format!("{} {}", call[2], call[3]));
            }
            calls
        });
        let mut call = ringhold();
        call.args([
            "call", "--first", "log_in", "-", "--first", "choose", "[1,[2]]",
        ]);
        call.args([&address, "get", "\"x\""]);
        call.stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = call.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"[\"ann\", \"secret\"]\n").unwrap();
        drop(input);
        let (status, stdout, stderr) = parts(&child.wait_with_output().unwrap());
        let calls = [
            "\"log_in\" [\"ann\", \"secret\"]",
            "\"choose\" [1, [2]]",
            "\"get\" [\"x\"]",
        ];
        match is_refused {
            false => {
                assert_eq!((status, &*stdout, &*stderr), (0, "7\n", ""));
                assert_eq!(server.join().unwrap(), calls);
            }
            true => {
                assert_eq!((status, &*stdout), (1, ""));
                assert!(stderr.trim_end().ends_with(": no"), "{stderr}");
                assert_eq!(server.join().unwrap(), calls[..2]);
            }
        }
    }
}

#[test]
fn a_failed_call_says_why_and_whose_fault_it_was() {
    let daemon = Daemon::start(RPC);
    let address = daemon.address("rpc").to_string();
    let nobody = free_address().to_string();
    let cases: [(&[&str], i32, &[&str]); 8] = [
        (&["call", &address, "ehco", "1"], 1, &["ehco", "echo"]),
        (&["call", &address, "status", "1"], 1, &["status"]),
        (
            &["call", &address, "echo", "hello"],
            2,
            &["parameter 1", "'\"hello\"'"],
        ),
        (
            &["call", &address, "echo", "1", "99999999999999999999"],
            2,
            &["99999999999999999999", "64 bits"],
        ),
        (&["call", "4660", "echo"], 2, &["4660", "port is missing"]),
        (&["call", &address], 2, &["METHOD"]),
        (&["call", &nobody, "echo"], 3, &[&nobody, "refused"]),
        (
            &["call", "unix:/nonexistent/socket", "echo"],
            3,
            &["unix:/nonexistent/socket", "No such file"],
        ),
    ];
    for (arguments, expected, words) in cases {
        let (status, stdout, stderr) = run(arguments);
        assert_eq!(status, expected, "{arguments:?}: {stderr}");
        assert_eq!(stdout, "");
        for word in words {
            assert!(stderr.contains(word), "{arguments:?}: {stderr}");
        }
        assert!(
            !stderr.contains("Error {") && !stderr.contains("Err("),
            "{stderr}"
        );
    }
}

/// A server that takes everything and says nothing, or not the right thing.
fn impostor(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let _ = stream.write_all(answer);
                let _ = stream.read_to_end(&mut Vec::new());
            });
        }
    });
    address
}

#[test]
fn a_call_to_something_else_ends() {
    let silent = impostor(b"");
    let (status, _, stderr) = run(&["call", &silent, "echo", "--timeout", "100ms"]);
    assert_eq!(status, 3, "{stderr}");
    assert!(stderr.contains("within 100ms"), "{stderr}");

    let web = impostor(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let (status, _, stderr) = run(&["call", &web, "echo"]);
    assert_eq!(status, 3, "{stderr}");
    assert!(stderr.contains("does not follow the protocol"), "{stderr}");
    let (status, _, stderr) = run(&["status", &web]);
    assert_eq!(status, 3, "{stderr}");

    let other = impostor(b"\x94\x01\x00\xc0\xa2hi");
    let (status, _, stderr) = run(&["status", &other]);
    assert_eq!(status, 3, "{stderr}");
    assert!(stderr.contains("--json"), "{stderr}");
    assert_eq!(
        run(&["status", "--json", &other]),
        (0, "\"hi\"\n".into(), String::new())
    );
}

/// A server that lets `serve` have every connection once the client has sent something.
fn server(serve: fn(TcpStream)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.peek(&mut [0]).unwrap();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

#[test]
fn who_is_left_without_an_answer_is_told_where_to_look() {
    let refuses = server(|mut stream| {
        let _ = stream.read(&mut [0; 100]);
    });
    let (status, _, stderr) = run(&["call", &refuses, "echo"]);
    assert_eq!(status, 3, "{stderr}");
    let words = "1 reply outstanding; the log of the server may say why\n";
    assert!(stderr.ends_with(words), "{stderr}");
}

#[test]
fn a_notification_whose_connection_is_cut_has_failed() {
    // Closed with a byte unread, a connection is reset.
    let cutting = server(|_| ());
    let (status, stdout, stderr) = run(&["call", "--notify", &cutting, "echo", "1"]);
    assert_eq!((status, stdout.as_str()), (3, ""), "{stderr}");
    assert!(stderr.contains("the server cut it"), "{stderr}");

    // Bounded all the same, for a client that would wait for each message anew.
    let chattering = server(|mut stream| {
        for _ in 0..100 {
            if stream.write_all(b"\x93\x02\xa4tick\x90").is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = stream.read(&mut [0; 100]);
    });
    let arguments = [
        "call",
        "--notify",
        "--timeout",
        "200ms",
        &chattering,
        "echo",
    ];
    let (status, stdout, stderr) = run(&arguments);
    assert_eq!((status, stdout.as_str()), (3, ""), "{stderr}");
    assert!(
        stderr.contains("no end of the connection within 200ms"),
        "{stderr}"
    );
}

#[test]
fn the_largest_frame_is_a_limit_of_this_side() {
    let daemon = Daemon::start(RPC);
    let address = daemon.address("rpc").to_string();
    let text = format!("\"{}\"", "x".repeat(1000));
    let call = ["call", &address, "echo", &text, "--frame-bytes"];
    let with = |size: &str| run(&[&call[..], &[size]].concat());
    assert_eq!(with("2KiB"), (0, format!("{text}\n"), String::new()));
    let (status, stdout, stderr) = with("1KB");
    assert_eq!((status, stdout.as_str()), (2, ""), "{stderr}");
    let (status, stdout, stderr) = with("1000");
    assert_eq!((status, stdout.as_str()), (3, ""), "{stderr}");
    for part in ["this client's limit of 1000 bytes", "--frame-bytes"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    assert!(!stderr.contains("protocol"), "{stderr}");

    // With the usual limit, a payload this large would not be possible.
    let load = ["load", &address, "-n", "2", "-s", "9MiB"];
    let (status, _, stderr) = run(&load);
    assert_eq!(status, 2, "{stderr}");
    assert!(stderr.contains("half of the largest frame"), "{stderr}");
    let (status, stdout, stderr) = run(&[&load[..], &["--frame-bytes", "18MiB"]].concat());
    assert_eq!((status, stderr.as_str()), (0, ""), "{stdout}");
    assert!(stdout.contains("sent        2, answered 2"), "{stdout}");
}

#[test]
fn status_shows_the_counters_by_socket_and_worker() {
    let daemon = Daemon::start(&format!("workers = 2\n{RPC}"));
    let address = daemon.address("rpc").to_string();
    let mut idle: Vec<_> = (0..3).map(|_| daemon.client("rpc")).collect();
    for client in &mut idle {
        let pong: String = client.call("ping", &()).unwrap();
        assert_eq!(pong, "pong");
    }
    let (status, stdout, stderr) = run(&["status", &address]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    let words = |prefix: &[&str]| -> Vec<String> {
        let mut lines = stdout.lines().map(|line| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        });
        let found = lines.find(|line| line.len() > prefix.len() && line[..prefix.len()] == *prefix);
        found.unwrap_or_else(|| panic!("no line {prefix:?}:\n{stdout}"))
    };
    assert_eq!(
        words(&["SOCKET"])[..5],
        ["SOCKET", "WORKER", "OPEN", "ACCEPTED", "SERVED"]
    );
    // Three that ping, and the one that asks; its question is counted after the answer.
    assert_eq!(words(&["rpc"])[..6], ["rpc", "all", "4", "4", "4", "3"]);
    assert_eq!(words(&["0", "2"])[..2], ["0", "2"]);
    assert_eq!(words(&["1", "2"])[..2], ["1", "2"]);
    assert!(stdout.contains("up for "), "{stdout}");

    let (status, stdout, _) = run(&["status", "--json", &address]);
    assert_eq!(status, 0);
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(json["workers"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["names"]["rpc"]["bad_input"], 0);
}

#[test]
fn the_methods_describe_themselves() {
    let daemon = Daemon::start(RPC);
    let encoded = daemon.client("rpc").call_raw("methods", &[0x90]).unwrap();
    let methods: Value = rmpv::decode::read_value(&mut &encoded[..]).unwrap();
    for method in ["ping", "echo", "methods", "time", "status"] {
        assert!(
            field(&methods, method)
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
    }
}

#[test]
fn probe_says_whether_an_engine_works() {
    let (status, stdout, stderr) = run(&["probe"]);
    assert_eq!((status, stderr.as_str()), (0, ""), "{stdout}");
    assert!(stdout.starts_with("FEATURE"), "{stdout}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut child = ringhold()
        .arg("probe")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let (status, _, stderr) = parts(&child.wait_with_output().unwrap());
    assert_eq!((status, stderr.as_str()), (0, ""));
}
