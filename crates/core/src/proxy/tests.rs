use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn tcp(address: &str) -> Option<PeerAddress> {
    Some(PeerAddress::Tcp(address.parse().unwrap()))
}

/// A header of version 2, of which the length is right.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

fn v4_addresses() -> Vec<u8> {
    [192, 0, 2, 7, 192, 0, 2, 1, 0xa1, 0x60, 0x12, 0x34].into()
}

fn v6_addresses() -> Vec<u8> {
    let from: Ipv6Addr = "2001:db8::7".parse().unwrap();
    let to: Ipv6Addr = "2001:db8::1".parse().unwrap();
    [&from.octets()[..], &to.octets(), &[0xa1, 0x60, 0x12, 0x34]].concat()
}

/// Headers that are right, and where they say that the client is.
fn right() -> Vec<(Vec<u8>, Option<PeerAddress>)> {
    let line = |text: &str| text.as_bytes().to_vec();
    let with = |addresses: Vec<u8>, more: &[u8]| [&addresses, more].concat();
    let longest = "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535";
    vec![
        (
            line("PROXY TCP4 192.0.2.7 192.0.2.1 41312 4660\r\n"),
            tcp("192.0.2.7:41312"),
        ),
        (
            line("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n"),
            tcp("0.0.0.0:0"),
        ),
        (
            line("PROXY TCP6 2001:db8::7 ::1 65535 1\r\n"),
            tcp("[2001:db8::7]:65535"),
        ),
        (
            line("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 1\r\n"),
            tcp("[::ffff:192.0.2.7]:1"),
        ),
        (line("PROXY UNKNOWN\r\n"), None),
        (line(&format!("{longest}\r\n")), None),
        (
            line(&format!("{longest:107}\r\n").replace("  \r", "\r")),
            None,
        ),
        (
            [b"PROXY UNKNOWN \xff\0\r ".as_slice(), b"\r\n"].concat(),
            None,
        ),
        (v2(0x21, 0x11, &v4_addresses()), tcp("192.0.2.7:41312")),
        (
            v2(0x21, 0x11, &with(v4_addresses(), &[4, 0, 1, 0])),
            tcp("192.0.2.7:41312"),
        ),
        (v2(0x21, 0x21, &v6_addresses()), tcp("[2001:db8::7]:41312")),
        (
            v2(0x21, 0x21, &with(v6_addresses(), &[7; 4044])),
            tcp("[2001:db8::7]:41312"),
        ),
        (v2(0x21, 0x31, &[0; 216]), Some(PeerAddress::Unix)),
        (v2(0x21, 0x31, &[b'/'; 220]), Some(PeerAddress::Unix)),
        // The proxy does not know.
        (v2(0x21, 0x00, &[]), None),
        (v2(0x21, 0x00, &[9; 30]), None),
        // No streams.
        (v2(0x21, 0x12, &v4_addresses()), None),
        (v2(0x21, 0x22, &v6_addresses()), None),
        (v2(0x21, 0x32, &[0; 216]), None),
        // The proxy's own connections, whatever else it says.
        (v2(0x20, 0x00, &[]), None),
        (v2(0x20, 0x11, &v4_addresses()), None),
        (v2(0x20, 0x11, &[]), None),
        (v2(0x20, 0xff, &[1, 2, 3]), None),
    ]
}

/// What is no header, whatever comes behind it, and how many of its bytes show that.
fn wrong() -> Vec<(Vec<u8>, usize, &'static str)> {
    let line = |text: &str| (format!("{text}\n").into_bytes(), text.len() + 1);
    let begins = |bytes: &[u8], count| (bytes.to_vec(), count, "but begins otherwise");
    let fixed = |command, family, rest: &[u8], why| (v2(command, family, rest), FIXED_BYTES, why);
    let mut wrong = vec![
        begins(b"\x94\x00\x01", 1),
        begins(b"\0", 1),
        begins(b"proxy TCP4", 1),
        begins(b"PROXI TCP4", 5),
        begins(b"PROXYTCP4", 6),
        begins(b"PROXY\tTCP4", 6),
        begins(b"\r\n\r\n\0\r\nQUIT\r", 12),
        begins(b"\r\r", 2),
        begins(b"\x16\x03\x01\x02\x00", 1),
        (
            [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat(),
            107,
            "but its line is longer than 107 bytes",
        ),
        (
            [b"PROXY TCP4 ".as_slice(), &[b'1'; 96]].concat(),
            107,
            "but its line is longer than 107 bytes",
        ),
        fixed(
            0x11,
            0x11,
            &v4_addresses(),
            "but its version or command is not known",
        ),
        fixed(
            0x22,
            0x11,
            &v4_addresses(),
            "but its version or command is not known",
        ),
        fixed(
            0x21,
            0x41,
            &[0; 300],
            "but its family or protocol is not known",
        ),
        fixed(
            0x21,
            0x13,
            &[0; 300],
            "but its family or protocol is not known",
        ),
        fixed(0x21, 0x11, &[0; 11], "but it has no room for its addresses"),
        fixed(0x21, 0x21, &[0; 35], "but it has no room for its addresses"),
        fixed(
            0x21,
            0x31,
            &[0; 215],
            "but it has no room for its addresses",
        ),
        fixed(0x21, 0x11, &[0; 4081], "but it is longer than 4096 bytes"),
        fixed(0x20, 0x00, &[0; 65535], "but it is longer than 4096 bytes"),
    ];
    wrong.extend(
        [
            "PROXY \r",
            "PROXY TCP4\r",
            "PROXY TCP4 192.0.2.7 192.0.2.1 41312 4660",
            "PROXY TCP4 192.0.2.7 192.0.2.1 41312 4660\r\r",
            "PROXY TCP4 192.0.2.7 192.0.2.1 41312\r",
            "PROXY TCP4 192.0.2.7 192.0.2.1 41312 \r",
            "PROXY TCP4 192.0.2.7 192.0.2.1 41312 4660 1\r",
            "PROXY TCP4  192.0.2.7 192.0.2.1 41312 4660\r",
            "PROXY TCP4 192.0.2.7 192.0.2.1 41312 65536\r",
            "PROXY TCP4 192.0.2.7 192.0.2.1 041312 4660\r",
            "PROXY TCP4 192.0.2.7 192.0.2.1 41312 +4660\r",
            "PROXY TCP4 192.0.2.7 192.0.2.1 -1 4660\r",
            "PROXY TCP4 192.0.2.07 192.0.2.1 41312 4660\r",
            "PROXY TCP4 192.0.2 192.0.2.1 41312 4660\r",
            "PROXY TCP4 ::1 ::1 41312 4660\r",
            "PROXY TCP6 192.0.2.7 192.0.2.1 41312 4660\r",
            "PROXY TCP6 fe80::1%1 ::1 41312 4660\r",
            "PROXY TCP 192.0.2.7 192.0.2.1 41312 4660\r",
            "PROXY UDP4 192.0.2.7 192.0.2.1 41312 4660\r",
            "PROXY UNKNOWNS\r",
            "PROXY unknown\r",
            "PROXY UNKNOWN",
        ]
        .map(|text| {
            let (bytes, count) = line(text);
            (bytes, count, "but its line is wrong")
        }),
    );
    wrong
}

/// What is found when the bytes arrive one by one, and with how many that is.
fn one_by_one(bytes: &[u8]) -> Option<(usize, Result<Header, &'static str>)> {
    (0..=bytes.len()).find_map(|count| {
        let found = parse(&bytes[..count]).transpose()?;
        Some((count, found))
    })
}

#[test]
fn a_header_is_read_wherever_it_is_cut() {
    for (bytes, client) in right() {
        let length = bytes.len();
        assert!(length <= HEADER_BYTES_MAX);
        let expected = Header { length, client };
        assert_eq!(one_by_one(&bytes), Some((length, Ok(expected))));
    }
    let (lines, binary): (Vec<_>, Vec<_>) =
        right().into_iter().partition(|(bytes, _)| bytes[0] == b'P');
    let longest = |headers: &[(Vec<u8>, _)]| headers.iter().map(|(bytes, _)| bytes.len()).max();
    assert_eq!(longest(&lines), Some(LINE_BYTES_MAX));
    assert_eq!(longest(&binary), Some(HEADER_BYTES_MAX));
}

#[test]
fn what_follows_is_not_looked_at() {
    for (bytes, client) in right() {
        let length = bytes.len();
        for behind in [
            &b"\x94\0"[..],
            b"\n",
            b"\r\n",
            b"PROXY UNKNOWN\r\n",
            &[0; 5000],
        ] {
            let all = [&bytes, behind].concat();
            let client = client.clone();
            assert_eq!(parse(&all), Ok(Some(Header { length, client })));
        }
    }
}

#[test]
fn what_is_wrong_is_known_as_soon_as_it_shows_and_stays_so() {
    for (bytes, shows_at, why) in wrong() {
        let text = bytes.escape_ascii();
        assert_eq!(one_by_one(&bytes), Some((shows_at, Err(why))), "{text}");
        for count in shows_at..=bytes.len() {
            assert_eq!(parse(&bytes[..count]), Err(why), "{count} of {text}");
        }
    }
}

#[test]
fn clients_are_handed_over_as_they_are() {
    for (_, client) in right() {
        let passed = client.as_ref().map(Client::from);
        assert_eq!(passed.as_ref().and_then(Client::address), client);
    }
    assert_eq!(Client::Awaited.address(), None);
}

/// Something like a header: a right one, of which a byte may be changed and to which some may be added.
fn almost() -> impl Strategy<Value = Vec<u8>> {
    let header = prop::sample::select(right()).prop_map(|(bytes, _)| bytes);
    let change = prop::option::of((any::<prop::sample::Index>(), any::<u8>()));
    (header, change, vec(any::<u8>(), 0..20)).prop_map(|(mut bytes, change, more)| {
        if let Some((place, byte)) = change {
            let place = place.index(bytes.len().min(120));
            bytes[place] = byte;
        }
        bytes.extend(more);
        bytes
    })
}

proptest! {
    /// However many bytes there are, the verdict is that of the first ones that allow it.
    #[test]
    fn the_verdict_does_not_depend_on_the_cuts(bytes in prop_oneof![almost(), vec(any::<u8>(), 0..60)]) {
        let first = one_by_one(&bytes);
        for count in 0..=bytes.len() {
            let found = parse(&bytes[..count]).transpose();
            let expected = first.clone().filter(|(at, _)| *at <= count).map(|(_, found)| found);
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn every_address_is_read(from: SocketAddr, to_v4: Ipv4Addr, to_v6: Ipv6Addr, to_port: u16, more in vec(any::<u8>(), 0..50)) {
        let from = SocketAddr::new(from.ip(), from.port());
        let to: IpAddr = match from {
            SocketAddr::V4(_) => to_v4.into(),
            SocketAddr::V6(_) => to_v6.into(),
        };
        let octets = |ip| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let (family, name) = if from.is_ipv4() { (0x11, "TCP4") } else { (0x21, "TCP6") };
        let line = format!("PROXY {name} {} {to} {} {to_port}\r\n", from.ip(), from.port());
        let ports = [from.port().to_be_bytes(), to_port.to_be_bytes()].concat();
        let binary = v2(0x21, family, &[octets(from.ip()), octets(to), ports, more].concat());
        for bytes in [line.into_bytes(), binary] {
            let length = bytes.len();
            let client = Some(PeerAddress::Tcp(from));
            prop_assert_eq!(parse(&bytes), Ok(Some(Header { length, client })));
        }
    }
}
