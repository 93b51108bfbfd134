//! Descriptors run out, in a process of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::bed::{Engine, GREETING, connect, engines, serve_echo};

/// Set to the engine in the process that serves.
const CHILD: &str = "RINGHOLD_ENGINES_CHILD";

/// How many descriptors that process may open.
const DESCRIPTORS: u64 = 64;

#[test]
fn without_descriptors_accepting_rests_and_goes_on() {
    if let Ok(chosen) = std::env::var(CHILD) {
        let mut engines = engines().into_iter();
        serve(engines.find(|engine| engine.to_string() == chosen).unwrap());
        return;
    }
    for engine in engines() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "descriptors::without_descriptors_accepting_rests_and_goes_on",
                "--nocapture",
            ])
            .env(CHILD, engine.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        overcrowd(&mut child);
        let status = child.wait().unwrap();
        assert!(status.success(), "{engine}: {status}");
    }
}

/// Serves, and answers each line on its input with how often accepting rested, until that ends.
fn serve(engine: Engine) {
    let limit = Rlimit {
        current: Some(DESCRIPTORS),
        maximum: Some(DESCRIPTORS),
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let bed = serve_echo(
        engine,
        "workers = 1\n[sockets.echo]\nlisten = [\"127.0.0.1:0\"]\n",
    );
    println!("address {}", bed.address("echo"));
    for line in std::io::stdin().lines() {
        line.unwrap();
        println!("rested {}", bed.counters().accept_backoffs);
    }
    // What is looked at in the end needs a descriptor, too.
    bed.until("no connection", |bed| bed.total().open == 0);
    let turns = bed.counters().turns;
    let total = bed.finish();
    assert_eq!((total.opened, total.failed), (100, 0));
    // Some for each connection and each rest; a worker that spins makes millions.
    assert!(turns < 20_000, "{turns} turns");
}

/// What the serving process says next that begins with `word`.
fn answer(reader: &mut impl BufRead, word: &str) -> String {
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 0 {
        // The test harness prints the name of the test without ending the line.
        if let Some((_, rest)) = line.split_once(word) {
            return rest.trim().to_owned();
        }
        line.clear();
    }
    panic!("the serving process has ended");
}

/// More connections than the serving process has descriptors: all are served, when others have ended.
fn overcrowd(child: &mut Child) {
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let address: SocketAddr = answer(&mut stdout, "address ").parse().unwrap();
    let mut clients: Vec<TcpStream> = (0..100).map(|_| connect(address)).collect();
    loop {
        stdin.write_all(b"?\n").unwrap();
        if answer(&mut stdout, "rested ").parse::<u64>().unwrap() > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    for client in &clients {
        client.set_nonblocking(true).unwrap();
    }
    while !clients.is_empty() {
        clients.retain_mut(|client| {
            let mut greeting = [0];
            match client.read(&mut greeting) {
                Ok(count) => {
                    assert_eq!((count, greeting[0]), (1, GREETING));
                    false
                }
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                    true
                }
            }
        });
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    print!("{rest}");
}
