//! The listing in docs/configuration.md: what it shows as the defaults, and that it has every key.

use super::*;

const PAGE: &str = include_str!("../../../../docs/configuration.md");

/// The listing of all keys, which is the first one of the page.
fn listing() -> &'static str {
    let (_, rest) = PAGE.split_once("```toml\n").unwrap();
    rest.split_once("```").unwrap().0
}

/// The key of a line `key = value`.
fn key(line: &str) -> Option<&str> {
    let key = line.split_once('=')?.0.trim_end();
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    key.bytes().all(is_word).then_some(key)
}

/// The listing with the keys that are commented out.
fn whole() -> String {
    let lines = listing().lines().map(|line| {
        let inner = line.strip_prefix("# ");
        inner.filter(|line| key(line).is_some()).unwrap_or(line)
    });
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn what_is_not_commented_out_are_the_defaults() {
    let mut socket = SocketConfig::new("rpc");
    socket.listen = vec![
        ListenAddress::Tcp("127.0.0.1:4660".parse().unwrap()),
        ListenAddress::UnixPath("/run/ringhold/rpc.sock".into()),
    ];
    let expected = Config {
        sockets: [("rpc".to_owned(), socket)].into(),
        ..Config::default()
    };
    assert_eq!(parse(listing()), expected);
}

#[test]
fn what_is_commented_out_can_be_written() {
    let config = parse(&whole());
    assert_eq!(config.pin, Some(true));
    let socket = &config.sockets["rpc"];
    assert_eq!(socket.fd_name.as_deref(), Some("ringhold-rpc.socket"));
    assert_eq!(socket.group, Some(Id::Name("clients".to_owned())));
    assert_eq!(socket.congestion.as_deref(), Some("cubic"));
    assert_eq!(socket.receive_buffer, Some(4 << 20));
    assert_eq!(socket.send_buffer, Some(4 << 20));
}

/// The keys that a section knows are those that an error about another one lists.
#[test]
fn every_key_is_listed() {
    let whole = whole();
    for header in ["", "[limits]", "[handover]", "[ring]", "[sockets.rpc]"] {
        let start = match header {
            "" => 0,
            _ => whole.find(header).unwrap() + header.len(),
        };
        let section = &whole[start..];
        let section = section
            .split_once("\n[")
            .map_or(section, |(section, _)| section);
        let listed: Vec<&str> = section.lines().filter_map(key).collect();
        let error = error(&format!("{header}\nqqqqqqqqqq = 1"));
        let known = error.split_once("known are ").unwrap().1;
        // Sections are known to the top level as well.
        let known = known
            .split(", ")
            .filter(|key| !whole.contains(&format!("\n[{key}")));
        let known: Vec<&str> = known.collect();
        assert!(!known.is_empty(), "{error}");
        for key in known {
            assert!(listed.contains(&key), "{key} in {header:?}: {listed:?}");
        }
    }
}
