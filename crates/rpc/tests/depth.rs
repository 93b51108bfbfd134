//! What is nested as deep as it can be decoded has room on a worker's stack, in a debug build too. Otherwise it would end the
//! process, and with it this program, whose only test this is.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use ringhold_core::Server;
use ringhold_core::config::Config;
use ringhold_core::inherit::Inherited;
use ringhold_core::listeners::Address;
use ringhold_rpc::{Router, ServeRpc};
use serde::{Deserialize, Serialize};

const CONFIG: &str = r#"
workers = 1
[limits]
depth = 60000
[sockets.deep]
service = "deep"
listen = ["127.0.0.1:0"]
"#;

#[derive(Deserialize, Serialize)]
struct Tree(Vec<Tree>);

/// Each level is read into a buffer first, and then from there.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Either {
    Number(i64),
    Text(String),
    List(Vec<Either>),
}

fn router() -> Router {
    Router::bare()
        .method("tree", |(tree,): (Tree,)| Ok(tree))
        .method("value", |(value,): (rmpv::Value,)| Ok(value))
        .method("either", |(either,): (Either,)| Ok(either))
}

#[test]
fn what_is_nested_deep_has_room_on_the_stack() {
    let running = Server::new(Config::parse(CONFIG, "test").unwrap())
        .inherited(Inherited::none())
        .rpc("deep", router)
        .start()
        .unwrap();
    let Address::Tcp(address) = running.listeners().next().unwrap().address.clone() else {
        panic!("the configuration says TCP");
    };
    let value = [&[0x91; 1000][..], b"\x90"].concat();
    for method in ["tree", "value", "either"] {
        let name = [&[0xa0 | method.len() as u8], method.as_bytes()].concat();
        let request = [b"\x94\x00\x01", &name[..], b"\x91", &value].concat();
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(&request).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut reply = Vec::new();
        client.read_to_end(&mut reply).unwrap();
        assert!(
            reply == [b"\x94\x01\x01\xc0", &value[..]].concat(),
            "{method}: {}",
            reply.escape_ascii()
        );
    }
    running.stop();
    running.join().unwrap();
}
