//! The keys and names of socket sections.

use std::time::Duration;

use ringhold_core::config::{Id, ListenAddress, Partition};
use ringhold_core::limits::Limits;

use super::*;

#[test]
fn partitions() {
    let workers = |text: &str| {
        parse(&format!("[sockets.a]\nworkers = {text}")).sockets["a"]
            .workers
            .clone()
    };
    assert_eq!(workers("\"all\""), Partition::All);
    assert_eq!(workers("\"0\""), Partition::Only(vec![0]));
    assert_eq!(workers("[2]"), Partition::Only(vec![2]));
    assert_eq!(workers("\"0-3\""), Partition::Only(vec![0, 1, 2, 3]));
    assert_eq!(workers("\"0-1,4\""), Partition::Only(vec![0, 1, 4]));
    assert_eq!(workers("[0, 2]"), Partition::Only(vec![0, 2]));
    assert_eq!(workers("[2, 0]"), Partition::Only(vec![2, 0]));
    for text in ["all", "0", "0-3", "0-1,4"] {
        assert_eq!(workers(&format!("{text:?}")).to_string(), text);
    }
    assert_eq!(Partition::All.resolve(3), Ok(vec![0, 1, 2]));
    assert_eq!(Partition::Only(vec![2, 0]).resolve(3), Ok(vec![2, 0]));
    assert_eq!(Partition::Only(vec![0, 2]).resolve(2), Err(2));
    for bad in [
        "\"\"",
        "\"3-0\"",
        "\"a\"",
        "\"-1\"",
        "\"0-\"",
        "[]",
        "[0, -1]",
        "[0, \"1\"]",
        "1",
        "[1024]",
        "\"0-99999999999\"",
        "true",
    ] {
        let error = error(&format!("[sockets.a]\nworkers = {bad}"));
        assert!(
            error.starts_with("test.toml:2: bad value for \"workers\" in [sockets.a]: "),
            "{error}"
        );
    }
    for bad in ["[0, 1, 0]", "\"0-2,1\""] {
        let error = error(&format!("[sockets.a]\nworkers = {bad}"));
        assert!(error.ends_with("is named twice"), "{error}");
    }
    // A list may have a line for each item; the error names its own.
    assert!(error("[sockets.a]\nworkers = [\n  0,\n  true,\n]").starts_with("test.toml:4: "));
}

#[test]
fn a_bare_number_may_be_a_count_and_names_no_worker() {
    assert_eq!(
        error("workers = 4\n[sockets.a]\nworkers = 1"),
        "test.toml:3: bad value for \"workers\" in [sockets.a]: 1 alone may mean how many workers or which one; write \"1\" or \
         [1] for worker 1 (the first is 0), \"all\" or \"0-3\" for several"
    );
    // What would be refused next is not what is told.
    for (bad, why) in [
        ("-1", "-1 is not within 0 to 4294967295"),
        ("5000", "worker 5000 is beyond 1023, the last there can be"),
    ] {
        assert_eq!(
            error(&format!("[sockets.a]\nworkers = {bad}")),
            format!("test.toml:2: bad value for \"workers\" in [sockets.a]: {why}")
        );
    }
}

#[test]
fn what_cannot_be_a_congestion_control_is_none() {
    for bad in [
        "\"\"",
        "\"a-name-of-16-byte\"",
        "\"new reno\"",
        "\"cubic\\u0000\"",
        "1",
    ] {
        let error = error(&format!("[sockets.a]\ncongestion = {bad}"));
        assert!(
            error.starts_with("test.toml:2: bad value for \"congestion\" in [sockets.a]: "),
            "{error}"
        );
    }
}

#[test]
fn buffers_are_what_the_kernel_can_keep() {
    for key in ["receive_buffer", "send_buffer"] {
        for (text, bytes) in [
            ("\"4KiB\"", 4096),
            ("4097", 4097),
            ("\"512MiB\"", 512 << 20),
        ] {
            let config = parse(&format!("[sockets.a]\n{key} = {text}"));
            let socket = &config.sockets["a"];
            let expected = match key {
                "receive_buffer" => (Some(bytes), None),
                _ => (None, Some(bytes)),
            };
            assert_eq!((socket.receive_buffer, socket.send_buffer), expected);
        }
        for (bad, says) in [
            ("4095", "4095 is not within 4096 to 536870912 bytes"),
            ("0", "0 is not within 4096 to 536870912 bytes"),
            (
                "\"1GiB\"",
                "1073741824 is not within 4096 to 536870912 bytes",
            ),
            ("true", "it must be a size, such as \"16MiB\", not true"),
        ] {
            let expected = format!("test.toml:2: bad value for {key:?} in [sockets.a]: {says}");
            assert_eq!(error(&format!("[sockets.a]\n{key} = {bad}")), expected);
        }
    }
}

#[test]
fn buffers_are_for_tcp() {
    for key in ["receive_buffer", "send_buffer"] {
        let with = |listen: &str| format!("[sockets.a]\nlisten = {listen}\n{key} = \"64KiB\"");
        for listen in ["\"unix:@x\"", "[\"unix:@x\", \"unix:/x\"]"] {
            let expected = format!(
                "test.toml:3: {key:?} in [sockets.a] is for TCP, and \"listen\" has unix sockets only; remove it. How much \
                 the kernel keeps for those is up to net.core.wmem_default"
            );
            assert_eq!(error(&with(listen)), expected);
        }
        // One that may be inherited, and one with both.
        parse(&with("[]"));
        parse(&with("[\"unix:@x\", \"127.0.0.1:1\"]"));
    }
}

#[test]
fn who_owns_a_path_is_for_unix_sockets() {
    for (key, value) in [("mode", "0660"), ("user", "nobody"), ("group", "adm")] {
        let with = |listen: &str| format!("[sockets.a]\nlisten = {listen}\n{key} = {value:?}");
        for listen in ["\"127.0.0.1:1\"", "[\"127.0.0.1:1\", \"[::1]:1\"]"] {
            let expected = format!(
                "test.toml:3: {key:?} in [sockets.a] is for unix sockets, and \"listen\" has TCP addresses only; remove it"
            );
            assert_eq!(error(&with(listen)), expected);
        }
        // One that may be inherited, and one with both.
        parse(&with("[]"));
        parse(&with("[\"127.0.0.1:1\", \"unix:/x\"]"));
    }
}

#[test]
fn keepalive_is_what_the_kernel_takes() {
    for (text, seconds) in [("0s", 0), ("1s", 1), ("2000ms", 2), ("32767s", 32_767)] {
        let config = parse(&format!("[sockets.a]\nkeepalive = {text:?}"));
        assert_eq!(config.sockets["a"].keepalive, Duration::from_secs(seconds));
    }
    for bad in [
        "\"1500ms\"",
        "\"999us\"",
        "\"32768s\"",
        "\"10h\"",
        "true",
        "5",
    ] {
        let error = error(&format!("[sockets.a]\nkeepalive = {bad}"));
        assert!(
            error.starts_with("test.toml:2: bad value for \"keepalive\" in [sockets.a]: "),
            "{error}"
        );
    }
}

#[test]
fn the_kernel_asks_as_often_as_it_can_be_told() {
    for (text, seconds) in [("1s", 1), ("2000ms", 2), ("32767s", 32_767)] {
        let config = parse(&format!("[sockets.a]\nkeepalive_interval = {text:?}"));
        let expected = Some(Duration::from_secs(seconds));
        assert_eq!(config.sockets["a"].keepalive_interval, expected);
    }
    for probes in [1, 127] {
        let config = parse(&format!("[sockets.a]\nkeepalive_probes = {probes}"));
        assert_eq!(config.sockets["a"].keepalive_probes, Some(probes));
    }
    for (key, bad) in [
        ("keepalive_interval", "\"0s\""),
        ("keepalive_interval", "\"1500ms\""),
        ("keepalive_interval", "\"32768s\""),
        ("keepalive_probes", "0"),
        ("keepalive_probes", "128"),
        ("keepalive_probes", "\"3\""),
    ] {
        let error = error(&format!("[sockets.a]\n{key} = {bad}"));
        let expected = format!("test.toml:2: bad value for {key:?} in [sockets.a]: ");
        assert!(error.starts_with(&expected), "{error}");
    }
    for key in ["keepalive_interval = \"5s\"", "keepalive_probes = 3"] {
        let error = error(&format!("[sockets.a]\nkeepalive = \"0s\"\n{key}"));
        let (key, _) = key.split_once(' ').unwrap();
        let expected =
            format!("test.toml:3: {key:?} in [sockets.a] has no effect with keepalive = \"0s\"");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn a_socket_may_have_limits_of_its_own() {
    let text = "limits = { connections = 10, idle_timeout = \"1h\" }\n[sockets.a]\n";
    let of = |keys: &str| {
        let config = parse(&format!("{text}{keys}"));
        let limits = config.sockets["a"].limits(&config.limits);
        (limits.connections, limits.idle_timeout)
    };
    let hour = Duration::from_secs(3600);
    assert_eq!(of(""), (10, hour));
    assert_eq!(of("connections = 0"), (10, hour));
    assert_eq!(of("connections = 3"), (3, hour));
    assert_eq!(of("connections = 10"), (10, hour));
    assert_eq!(of("idle_timeout = \"0s\""), (10, Duration::ZERO));
    assert_eq!(
        of("idle_timeout = \"2h\"\nconnections = 1"),
        (1, Duration::from_secs(7200))
    );
    assert_eq!(
        error(&format!("{text}enable = true\nconnections = 11")),
        "test.toml:4: \"connections\" in [sockets.a] is 11, more than a worker holds in all (\"connections\" in \
         [limits] is 10); raise that or lower this"
    );
    assert_eq!(
        error("[sockets.a]\nconections = 1"),
        "test.toml:2: unknown key \"conections\" in [sockets.a]; did you mean \"connections\"?"
    );
    // "congestion" has as few letters that differ.
    assert_eq!(
        error("[sockets.a]\nconection = 1"),
        "test.toml:2: unknown key \"conection\" in [sockets.a]; did you mean \"connections\"?"
    );
    for bad in [
        "connections = -1",
        "connections = 1048577",
        "connections = \"5\"",
        "connections_per_client = -1",
        "connections_per_client = 1048577",
        "idle_timeout = 5",
        "idle_timeout = \"5\"",
        "frame_bytes = 0",
        "frame_bytes = \"2GiB\"",
        "outbox_bytes = 0",
        "promises = 0",
        "promises = 1048577",
        "frame_timeout = 5",
        "write_timeout = 5",
        "reply_timeout = 5",
        "promise_timeout = 5",
    ] {
        let error = error(&format!("[sockets.a]\n{bad}"));
        let (key, _) = bad.split_once(' ').unwrap();
        let start = format!("test.toml:2: bad value for {key:?} in [sockets.a]: ");
        assert!(error.starts_with(&start), "{error}");
    }
}

#[test]
fn each_limit_of_connections_may_be_that_of_a_socket() {
    let config = parse(
        "[limits]\ndepth = 5\nconnections = 10\n[sockets.a]\nframe_bytes = 1\noutbox_bytes = 2\npromises = 3\nconnections = 4\n\
         idle_timeout = \"5s\"\nframe_timeout = \"6s\"\nwrite_timeout = \"7s\"\nreply_timeout = \"8s\"\npromise_timeout = \"9s\"\n\
         [sockets.b]\n",
    );
    let of = |name: &str| config.sockets[name].limits(&config.limits);
    let expected = Limits {
        frame_bytes: 1,
        depth: 5,
        outbox_bytes: 2,
        promises: 3,
        connections: 4,
        memory: 1 << 30,
        idle_timeout: Duration::from_secs(5),
        frame_timeout: Duration::from_secs(6),
        write_timeout: Duration::from_secs(7),
        reply_timeout: Duration::from_secs(8),
        promise_timeout: Duration::from_secs(9),
    };
    assert_eq!(of("a"), expected);
    assert_eq!(of("b"), config.limits);
}

/// It could never be complete.
#[test]
fn a_frame_of_a_socket_has_room_in_the_memory() {
    let with = |memory: &str| {
        format!("[limits]\nmemory = {memory}\nframe_bytes = 10\n[sockets.a]\nframe_bytes = 1000")
    };
    assert_eq!(parse(&with("1000")).sockets["a"].frame_bytes, Some(1000));
    assert_eq!(
        error(&with("999")),
        "test.toml:5: \"frame_bytes\" in [sockets.a] is 1000 bytes, more than all connections may take (\"memory\" in [limits] is \
         999); raise that or lower this"
    );
    // What the memory is to be is not known.
    let problems = error(&with("0"));
    assert!(
        problems.starts_with("test.toml:2: ") && !problems.contains("sockets"),
        "{problems}"
    );
}

#[test]
fn a_partition_beyond_the_workers_names_the_socket() {
    assert_eq!(
        error("workers = 2\n[sockets.rpc]\nenable = true\nworkers = \"1-2\""),
        "test.toml:4: socket \"rpc\" is placed on worker 2, but there are only workers 0 to 1"
    );
    assert_eq!(
        error("workers = 1\n[sockets.rpc]\nworkers = [1]"),
        "test.toml:3: socket \"rpc\" is placed on worker 1, but there is only worker 0"
    );
    // How many "auto" makes is known at start only.
    assert_eq!(
        parse("[sockets.rpc]\nworkers = [900]").sockets["rpc"].workers,
        Partition::Only(vec![900])
    );
}

#[test]
fn addresses() {
    let listen = |text: &str| {
        parse(&format!("[sockets.a]\nlisten = {text}")).sockets["a"]
            .listen
            .clone()
    };
    assert_eq!(listen("[]"), []);
    assert_eq!(
        listen("\"127.0.0.1:1\""),
        [ListenAddress::Tcp("127.0.0.1:1".parse().unwrap())]
    );
    for text in [
        "127.0.0.1:0",
        "[::]:4660",
        "unix:/run/a b.sock",
        "unix:@name",
    ] {
        assert_eq!(listen(&format!("[{text:?}]"))[0].to_string(), text);
    }
    let longest = format!("unix:/{}", "x".repeat(106));
    assert_eq!(listen(&format!("[{longest:?}]"))[0].to_string(), longest);
    let too_long = error(&format!("[sockets.a]\nlisten = [\"{longest}x\"]"));
    assert!(
        too_long.ends_with("has 108 bytes; the kernel takes 107"),
        "{too_long}"
    );
    for (bad, says) in [
        ("\"127.0.0.1\"", "has no port"),
        ("\"localhost:80\"", "host names are not looked up"),
        ("\"\"", "is not an address"),
        ("\"/run/x.sock\"", "did you mean \"unix:/run/x.sock\"?"),
        ("\"@x\"", "did you mean \"unix:@x\"?"),
        ("\"unix:\"", "has no path"),
        ("\"unix:@\"", "has no abstract name"),
        ("\"unix:x.sock\"", "is not the absolute path of a socket"),
        ("\"unix:/run/\"", "is not the absolute path of a socket"),
        (
            "\"unix:/a\\u0000b\"",
            "contains the control character '\\0'",
        ),
        ("\"unix:/a\\nb\"", "contains the control character '\\n'"),
        (
            "4660",
            "it must be a string or a list of strings, not the number 4660",
        ),
        ("[4660]", "it must be a string, not the number 4660"),
        (
            "[\"127.0.0.1:4660\", \"127.0.0.1:4660\"]",
            "is listed twice",
        ),
    ] {
        let error = error(&format!("[sockets.a]\nlisten = {bad}"));
        assert!(
            error.starts_with("test.toml:2: bad value for \"listen\" in [sockets.a]: "),
            "{error}"
        );
        assert!(error.contains(says), "{error}");
    }
    assert_eq!(
        listen("[\"127.0.0.1:0\", \"127.0.0.1:0\"]").len(),
        2,
        "port 0 is another port each time"
    );
    assert!(
        error("[sockets.a]\nlisten = [\n  \"127.0.0.1:1\",\n  \"nonsense\",\n]")
            .starts_with("test.toml:4: ")
    );
}

#[test]
fn modes_and_owners() {
    let socket = |text: &str| parse(&format!("[sockets.a]\n{text}")).sockets["a"].clone();
    assert_eq!(socket("mode = \"666\"").mode, 0o666);
    assert_eq!(socket("mode = \"0\"").mode, 0);
    assert_eq!(socket("user = \"1000\"").user, Some(Id::Number(1000)));
    assert_eq!(socket("user = 0").user, Some(Id::Number(0)));
    assert_eq!(
        socket("group = \"adm\"").group,
        Some(Id::Name("adm".to_owned()))
    );
    for (key, bad) in [
        ("mode", "660"),
        ("mode", "\"0o660\""),
        ("mode", "\"0668\""),
        ("mode", "\"1777\""),
        ("mode", "\"\""),
        ("mode", "\"+66\""),
        ("user", "\"\""),
        ("user", "-1"),
        ("group", "4294967295"),
        ("group", "true"),
    ] {
        let error = error(&format!("[sockets.a]\n{key} = {bad}"));
        assert!(
            error.starts_with(&format!(
                "test.toml:2: bad value for {key:?} in [sockets.a]: "
            )),
            "{error}"
        );
    }
}

#[test]
fn names_are_those_that_a_service_manager_can_pass() {
    let longest = "x".repeat(255);
    parse(&format!(
        "[sockets.\"a b~\"]\n[sockets.{longest}]\n[sockets.ringhold]\n"
    ));
    for (name, says) in [
        ("", "cannot be empty"),
        ("a:b", "contains ':'"),
        ("ä", "contains 'ä'"),
        ("a\\tb", "contains '\\t'"),
        ("ringhold.state", "are kept for the handover"),
        (&format!("{longest}x"), "at most 255 bytes, this one 256"),
    ] {
        let section = error(&format!("\n[sockets.\"{name}\"]"));
        assert!(
            section.starts_with("test.toml:2: bad name of section [sockets."),
            "{section}"
        );
        assert!(section.contains(says), "{section}");
        let key = error(&format!("[sockets.a]\nfd_name = \"{name}\""));
        assert!(
            key.starts_with("test.toml:2: bad value for \"fd_name\" in [sockets.a]: "),
            "{key}"
        );
        assert!(key.contains(says), "{key}");
    }
}

#[test]
fn two_sections_cannot_claim_one_descriptor_name() {
    assert_eq!(
        error("[sockets.a]\nfd_name = \"x\"\n[sockets.b]\nenable = false\nfd_name = \"x\""),
        "test.toml:5: [sockets.b] and [sockets.a] both claim the descriptors named \"x\""
    );
    // The name of a section is a claim as well.
    assert_eq!(
        error("[sockets.b]\nfd_name = \"a\"\n\n[sockets.a]\nservice = \"s\""),
        "test.toml:4: [sockets.a] and [sockets.b] both claim the descriptors named \"a\""
    );
    parse("[sockets.a]\nfd_name = \"b\"\n[sockets.b]\nfd_name = \"a\"");
}
