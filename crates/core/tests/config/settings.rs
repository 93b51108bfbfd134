//! Durations and sizes in the section of the program itself.

use std::time::Duration;

use ringhold_core::config::Config;

#[derive(Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct App {
    #[serde(
        deserialize_with = "ringhold_core::config::duration",
        default = "second"
    )]
    patience: Duration,
    #[serde(deserialize_with = "ringhold_core::config::size", default)]
    block: u32,
}

fn second() -> Duration {
    Duration::from_secs(1)
}

fn read(text: &str) -> Result<(u128, u32), String> {
    let read = Config::parse_with_app::<App>(&format!("[app]\n{text}"), "test.toml");
    match read {
        Ok((_, app)) => Ok((app.patience.as_millis(), app.block)),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn they_are_written_as_in_other_sections() {
    assert_eq!(read(""), Ok((1000, 0)));
    assert_eq!(
        read("patience = \"200ms\"\nblock = \"4KiB\""),
        Ok((200, 4096))
    );
    assert_eq!(read("block = 4097"), Ok((1000, 4097)));
}

#[test]
fn what_is_wrong_is_told_with_what_is_right() {
    for (text, why) in [
        (
            "patience = 5",
            "\"patience\" in [app]: invalid type: integer `5`, expected a duration with a unit, such as \"5s\"",
        ),
        (
            "patience = \"5\"",
            "\"patience\" in [app]: \"5\" is not a duration; write a whole number and a unit (us, ms, s, min, h, d), such as \"5s\"",
        ),
        (
            "block = \"1MB\"",
            "\"block\" in [app]: \"1MB\" is not a size; write a number of bytes, or a whole number and a unit (KiB, MiB, GiB), such as \
             \"16MiB\"",
        ),
        (
            "block = -1",
            "\"block\" in [app]: invalid value: integer `-1`, expected a number of bytes, or a size with a unit, such as \"16MiB\"",
        ),
        (
            "block = \"4GiB\"",
            "\"block\" in [app]: 4294967296 bytes are too large a size",
        ),
        (
            "block = 4294967296",
            "\"block\" in [app]: 4294967296 bytes are too large a size",
        ),
    ] {
        let said = read(text).unwrap_err();
        assert_eq!(said, format!("test.toml:2: bad value for {why}"));
    }
}
