//! The configuration file: every default, every key, and what is said about mistakes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use ringhold_core::config::{
    Config, EngineChoice, Handover, Id, ListenAddress, Partition, RingConfig, SocketConfig, Workers,
};
use ringhold_core::limits::Limits;

mod keys;
mod listing;
mod program;
mod settings;
mod sockets;

fn parse(text: &str) -> Config {
    Config::parse(text, "test.toml").unwrap()
}

/// All errors of `text`, a line each.
fn errors(text: &str) -> Vec<String> {
    let error = Config::parse(text, "test.toml").unwrap_err();
    let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
    assert_eq!(
        lines.len(),
        error.problems().len(),
        "one line each: {error}"
    );
    lines
}

/// The only error of `text`.
fn error(text: &str) -> String {
    let mut all = errors(text);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(parse(""), Config::default());
    assert_eq!(
        parse("# nothing\n[limits]\n[handover]\n[ring]\n[sockets]\n"),
        Config::default()
    );
}

#[test]
fn engines_and_workers() {
    assert_eq!(parse("engine = \"auto\"").engine, EngineChoice::Auto);
    assert_eq!(parse("engine = \"ring\"").engine, EngineChoice::Ring);
    assert_eq!(parse("workers = \"auto\"").workers, Workers::Auto);
    assert_eq!(parse("workers = 1024").workers, Workers::Count(1024));
    assert_eq!(
        error("engine = \"rign\""),
        "test.toml:1: bad value for \"engine\": \"rign\" is not an engine (\"auto\", \"ring\" or \"portable\"); \
         did you mean \"ring\"?"
    );
    for bad in ["0", "-1", "1025", "\"many\"", "1.5"] {
        let error = error(&format!("workers = {bad}"));
        assert!(
            error.starts_with("test.toml:1: bad value for \"workers\": "),
            "{error}"
        );
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_key() {
    let text = "engine = \"auto\"\n\n[limits]\n\n[sockets.rpc]\nservice = \"rpc\"\nlistne = [\"127.0.0.1:4660\"]\n";
    assert_eq!(
        error(text),
        "test.toml:7: unknown key \"listne\" in [sockets.rpc]; did you mean \"listen\"?"
    );
    assert_eq!(
        error("enigne = \"auto\""),
        "test.toml:1: unknown key \"enigne\"; did you mean \"engine\"?"
    );
    assert_eq!(
        error("\n[limit]\ndepth = 3"),
        "test.toml:2: unknown key \"limit\"; did you mean \"limits\"?"
    );
    assert_eq!(
        error("[handover]\nzzz = 3"),
        "test.toml:2: unknown key \"zzz\" in [handover]; known are drain"
    );
    assert_eq!(
        error("[ring]\nentires = 8"),
        "test.toml:2: unknown key \"entires\" in [ring]; did you mean \"entries\"?"
    );
    // An inline table and a dotted key are sections as well.
    assert_eq!(
        error("sockets = { a = {}, b = { enabled = true } }"),
        "test.toml:1: unknown key \"enabled\" in [sockets.b]; did you mean \"enable\"?"
    );
    assert_eq!(
        error("limits.dept = 3"),
        "test.toml:1: unknown key \"dept\" in [limits]; did you mean \"depth\"?"
    );
}

#[test]
fn all_problems_are_reported_in_the_order_of_their_lines() {
    let lines = errors(
        "spin = 3\nfoo = 1\n[sockets.b]\nbacklog = 0\n[sockets.a]\nenable = \"yes\"\n[ring]\nbuffers = 3",
    );
    assert_eq!(
        lines,
        [
            "test.toml:1: bad value for \"spin\": it must be a duration with a unit, such as \"5s\", not the number 3",
            "test.toml:2: unknown key \"foo\"; known are engine, workers, pin, spin, limits, handover, ring, sockets",
            "test.toml:4: bad value for \"backlog\" in [sockets.b]: 0 is not within 1 to 2147483647",
            "test.toml:6: bad value for \"enable\" in [sockets.a]: it must be true or false, not \"yes\"",
            "test.toml:8: bad value for \"buffers\" in [ring]: 3 is not a power of two",
        ]
    );
}

#[test]
fn each_item_of_a_list_that_is_wrong_is_reported() {
    let text = "[sockets.x]\nlisten = [\"4700\",\n\"[::1]:1\",\n7,\n\"[::1]:1\"]\nworkers = [0, \"a\", -1]";
    let errors = errors(text);
    let places: Vec<&str> = errors
        .iter()
        .filter_map(|line| line.split(": ").next())
        .collect();
    assert_eq!(
        places,
        [
            "test.toml:2",
            "test.toml:4",
            "test.toml:5",
            "test.toml:6",
            "test.toml:6"
        ],
        "{errors:#?}"
    );
}

#[test]
fn toml_mistakes_have_a_line() {
    let error = error("engine = \"auto\"\nworkers = = 3\n");
    assert!(error.starts_with("test.toml:2: "), "{error}");
    assert!(errors("a = 1\na = 2\n")[0].starts_with("test.toml:2: "));
    assert_eq!(
        self::error("limits = 3"),
        "test.toml:1: \"limits\" must be a section, [limits], not the number 3"
    );
    assert_eq!(
        self::error("[sockets]\nrpc = true"),
        "test.toml:2: \"rpc\" must be a section, [sockets.rpc], not true"
    );
}

#[test]
fn durations() {
    let drain = |text: &str| {
        parse(&format!("[handover]\ndrain = \"{text}\""))
            .handover
            .drain
    };
    assert_eq!(drain("0s"), Duration::ZERO);
    assert_eq!(drain("7us"), Duration::from_micros(7));
    assert_eq!(drain("7ms"), Duration::from_millis(7));
    assert_eq!(drain("7s"), Duration::from_secs(7));
    assert_eq!(drain("7 s"), Duration::from_secs(7));
    assert_eq!(drain("7min"), Duration::from_secs(420));
    assert_eq!(drain("7h"), Duration::from_secs(25_200));
    assert_eq!(drain("7d"), Duration::from_secs(604_800));
    assert_eq!(
        error("[handover]\n\ndrain = \"5 apples\""),
        "test.toml:3: bad value for \"drain\" in [handover]: \"5 apples\" is not a duration; write a whole number and \
         a unit (us, ms, s, min, h, d), such as \"5s\""
    );
    for bad in [
        "",
        "s",
        "5",
        "-5s",
        "1.5s",
        "5S",
        "5s 3ms",
        "+5s",
        "99999999999999999999s",
        "9999999999999999d",
    ] {
        let error = error(&format!("[handover]\ndrain = \"{bad}\""));
        assert!(
            error.starts_with("test.toml:2: bad value for \"drain\" in [handover]: "),
            "{error}"
        );
    }
    assert_eq!(parse("spin = \"1s\"").spin, Duration::from_secs(1));
    assert!(
        error("spin = \"1001ms\"").ends_with("a worker can spin for one second at most, \"1s\"")
    );
}

#[test]
fn every_limit_has_a_range() {
    let limits = |text: &str| parse(&format!("[limits]\n{text}")).limits;
    assert_eq!(limits("frame_bytes = 1").frame_bytes, 1);
    assert_eq!(limits("frame_bytes = \"512B\"").frame_bytes, 512);
    assert_eq!(
        limits("frame_bytes = \"1GiB\"").frame_bytes,
        Limits::MAX_FRAME_BYTES
    );
    assert_eq!(limits("depth = 65535").depth, Limits::MAX_DEPTH);
    assert_eq!(limits("outbox_bytes = 65536").outbox_bytes, 65_536);
    assert_eq!(limits("outbox_bytes = 0x10000").outbox_bytes, 65_536);
    assert_eq!(
        limits("connections = 1_048_576").connections,
        Limits::MAX_CONNECTIONS
    );
    assert_eq!(limits("memory = \"16MiB\"").memory, 16 << 20);
    assert_eq!(
        limits("idle_timeout = \"10s\"").idle_timeout,
        Duration::from_secs(10)
    );
    assert_eq!(
        limits("frame_timeout = \"0s\"").frame_timeout,
        Duration::ZERO
    );
    assert_eq!(
        limits("write_timeout = \"1s\"").write_timeout,
        Duration::from_secs(1)
    );
    assert_eq!(
        limits("promise_timeout = \"1d\"").promise_timeout,
        Duration::from_secs(86_400)
    );
    for (key, bad) in [
        ("frame_bytes", "0"),
        ("frame_bytes", "\"2GiB\""),
        ("frame_bytes", "1073741825"),
        ("frame_bytes", "\"16MB\""),
        ("frame_bytes", "\"16mib\""),
        ("frame_bytes", "-1"),
        ("frame_bytes", "true"),
        ("depth", "0"),
        ("depth", "65536"),
        ("depth", "\"128\""),
        ("outbox_bytes", "0"),
        ("outbox_bytes", "\"99999999999GiB\""),
        ("outbox_bytes", "1.5"),
        ("connections", "0"),
        ("connections", "1048577"),
        ("connections", "99999999999999999999999"),
        ("memory", "\"\""),
        ("idle_timeout", "10"),
        ("frame_timeout", "\"soon\""),
        ("write_timeout", "[]"),
        ("promise_timeout", "30"),
    ] {
        let error = error(&format!("[limits]\n{key} = {bad}"));
        assert!(
            error.starts_with(&format!("test.toml:2: bad value for {key:?} in [limits]: ")),
            "{error}"
        );
    }
    assert_eq!(
        error("[limits]\ndepth = 3\nmemory = \"8MiB\""),
        "test.toml:3: \"memory\" in [limits] is 8388608 bytes, less than one frame of \"frame_bytes\" = 16777216 \
         bytes; raise the one or lower the other"
    );
}

/// Such as what the default in its place would be in the way of.
#[test]
fn what_follows_from_a_bad_value_is_not_reported() {
    for (text, bad) in [
        (
            "[limits]\nframe_bytes = \"2GiB\"\nmemory = \"1KiB\"",
            "2: bad value for \"frame_bytes\" in [limits]: ",
        ),
        (
            "[limits]\nframe_bytes = \"1GiB\"\nmemory = \"512 MB\"",
            "3: bad value for \"memory\" in [limits]: ",
        ),
        (
            "[sockets.a]\nconnections = 20000\n[limits]\nconnections = \"many\"",
            "4: bad value for \"connections\" in [limits]: ",
        ),
        (
            "[sockets.a]\nfd_name = \"a:b\"\n[sockets.b]\nfd_name = \"a\"",
            "2: bad value for \"fd_name\" in [sockets.a]: ",
        ),
        (
            "[sockets.a]\nfd_name = \"b\"\n[sockets.b]\nfd_name = \"a:b\"",
            "4: bad value for \"fd_name\" in [sockets.b]: ",
        ),
        (
            "limits = 3\n[sockets.a]\nconnections = 20000",
            "1: \"limits\" must be a section, [limits], ",
        ),
    ] {
        let error = error(text);
        assert!(error.starts_with(&format!("test.toml:{bad}")), "{error}");
    }
}

#[test]
fn ring_sizes_are_powers_of_two_within_what_the_kernel_takes() {
    for (key, bad) in [
        ("entries", "7"),
        ("entries", "100"),
        ("entries", "65536"),
        ("buffers", "1"),
        ("buffers", "65536"),
        ("buffer_bytes", "512"),
        ("buffer_bytes", "\"2MiB\""),
        ("buffer_bytes", "5000"),
    ] {
        let error = error(&format!("[ring]\n{key} = {bad}"));
        assert!(
            error.starts_with(&format!("test.toml:2: bad value for {key:?} in [ring]: ")),
            "{error}"
        );
    }
}

#[test]
fn files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ringhold.toml");
    std::fs::write(&path, "workers = 3\n").unwrap();
    assert_eq!(Config::from_file(&path).unwrap().workers, Workers::Count(3));
    std::fs::write(&path, "wrokers = 3\n").unwrap();
    let error = Config::from_file(&path).unwrap_err();
    assert_eq!(error.problems()[0].line, Some(1));
    assert_eq!(
        error.to_string(),
        format!(
            "{}:1: unknown key \"wrokers\"; did you mean \"workers\"?",
            path.display()
        )
    );
    std::fs::write(&path, b"a = \"\xff\"").unwrap();
    let error = Config::from_file(&path).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{}: the file is not UTF-8 text", path.display())
    );
    let error = Config::from_file(Path::new("/nonexistent/x.toml")).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/nonexistent/x.toml: cannot read the configuration: "),
        "{error}"
    );
    assert_eq!(error.problems()[0].line, None);
}

/// What a program of one's own may want to know.
#[derive(Debug, Default, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct App {
    archive: Option<PathBuf>,
    shards: Vec<u16>,
    retry: Retry,
    peers: Vec<Retry>,
}

#[derive(Debug, Default, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Retry {
    times: u16,
}

#[test]
fn a_program_has_a_section_of_its_own() {
    let text = "workers = 2\n[app]\narchive = \"/srv/a\"\nshards = [1, 2]\n[limits]\ndepth = 3";
    let (config, app) = Config::parse_with_app::<App>(text, "test.toml").unwrap();
    assert_eq!(
        (config.workers, config.limits.depth),
        (Workers::Count(2), 3)
    );
    assert_eq!(app.archive.as_deref(), Some(Path::new("/srv/a")));
    assert_eq!(app.shards, [1, 2]);

    let (config, app) = Config::parse_with_app::<App>("", "test.toml").unwrap();
    assert_eq!((config, app), (Config::default(), App::default()));
}

#[test]
fn what_is_wrong_in_it_is_reported_with_the_rest() {
    let wrong = |text: &str| {
        let error = Config::parse_with_app::<App>(text, "test.toml").unwrap_err();
        let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
        lines
    };
    let [depth, app] = wrong("[limits]\ndepth = 0\n\n[app]\nshards = [1,\n\"two\"]")
        .try_into()
        .unwrap();
    assert!(
        depth.starts_with("test.toml:2: bad value for \"depth\" in [limits]: "),
        "{depth}"
    );
    assert_eq!(
        app,
        "test.toml:6: bad value for \"shards\" in [app]: invalid type: string \"two\", expected u16"
    );
    let [unknown] = wrong("\n[app]\nshard = [1]").try_into().unwrap();
    assert!(
        unknown.starts_with("test.toml:3: bad section [app]: unknown field `shard`, expected"),
        "{unknown}"
    );
    for text in [
        "[app]\nretry.times = \"many\"",
        "[app]\nretry = { times = \"many\" }",
        "[app.retry]\ntimes = \"many\"",
        "[[app.peers]]\ntimes = 3\n[[app.peers]]\ntimes = \"many\"",
        "[app]\npeers = [\n{ times = \"many\" }]",
    ] {
        let section = match text.contains("peers") {
            true => "app.peers",
            false => "app.retry",
        };
        let line = text.lines().count();
        let expected = format!(
            "test.toml:{line}: bad value for \"times\" in [{section}]: invalid type: string \"many\", expected u16"
        );
        assert_eq!(wrong(text), [expected], "{text}");
    }
    assert_eq!(
        wrong("[app]\narchive = 7"),
        [
            "test.toml:2: bad value for \"archive\" in [app]: invalid type: integer `7`, expected path string"
        ]
    );
    assert_eq!(
        wrong("workers = 1\napp = 7"),
        ["test.toml:2: bad section [app]: invalid type: integer `7`, expected struct App"]
    );
    #[derive(Debug, serde::Deserialize)]
    struct Needy {
        #[expect(dead_code, reason = "it is not there")]
        file: String,
    }
    let missing = |text| {
        let error = Config::parse_with_app::<Needy>(text, "test.toml").unwrap_err();
        error.to_string()
    };
    assert_eq!(
        missing("\n\nworkers = 1"),
        "test.toml: there is no section [app]: missing field `file`"
    );
    // That it is missing may be because of what comes first, a slip in its name.
    assert_eq!(
        missing("workers = 1\n[ap]\nfile = \"a\""),
        "test.toml:2: unknown key \"ap\"; did you mean \"app\"?\n\
         test.toml: there is no section [app]: missing field `file`"
    );
    assert_eq!(
        missing("\n\n[app]"),
        "test.toml:3: bad section [app]: missing field `file`"
    );
    // Who has none is told so, and whose it is.
    assert_eq!(
        error("[app]\nshards = [1]"),
        "test.toml:1: unknown key \"app\"; it is the section of a program that has settings of its own and reads them \
         (Config::from_file_with_app)"
    );
}

#[test]
fn what_is_there_twice_is_named() {
    for (text, line, key) in [
        ("[limits]\ndepth = 3\ndepth = 4", 3, "depth"),
        ("[limits]\n[ring]\n[limits]", 3, "limits"),
        ("[sockets.rpc]\n[sockets.rpc]", 2, "rpc"),
        ("workers = 1\nworkers = 1", 2, "workers"),
    ] {
        let expected = format!("test.toml:{line}: duplicate key {key:?}; remove one of the two");
        assert_eq!(error(text), expected, "{text}");
    }
}
