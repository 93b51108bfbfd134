//! What settings of the program itself may be, as the keys of other sections are.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Deserializer;
use serde::de::{self, Visitor};

use super::units::{parse_duration, parse_size};

/// Reads a duration in a section of the program's own, such as `"200ms"`, as [`parse_duration`] does.
///
/// ```
/// # use std::time::Duration;
/// # use ringhold_core::config::Config;
/// #[derive(serde::Deserialize)]
/// struct App {
///     #[serde(deserialize_with = "ringhold_core::config::duration")]
///     patience: Duration,
///     #[serde(deserialize_with = "ringhold_core::config::size", default = "block")]
///     block: usize,
/// }
///
/// fn block() -> usize {
///     4096
/// }
///
/// let text = "[app]\npatience = \"200ms\"\nblock = \"1MiB\"";
/// let (_, app) = Config::parse_with_app::<App>(text, "ingest.toml")?;
/// assert_eq!((app.patience, app.block), (Duration::from_millis(200), 1 << 20));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// What is wrong, and what would be right.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Text;

    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration with a unit, such as \"5s\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            parse_duration(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_any(Text)
}

/// Reads a size in a section of the program's own, as [`duration`] reads a time: a plain number of bytes, or a string that [`parse_size`]
/// takes. It may be of any type that has room for it.
///
/// # Errors
///
/// What is wrong, and what would be right.
pub fn size<'de, T: TryFrom<u64>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Size<T>(PhantomData<T>);

    impl<T: TryFrom<u64>> Visitor<'_> for Size<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of bytes, or a size with a unit, such as \"16MiB\"")
        }

        fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<T, E> {
            let unsigned = u64::try_from(bytes);
            let unsigned =
                unsigned.map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))?;
            self.visit_u64(unsigned)
        }

        fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<T, E> {
            T::try_from(bytes)
                .map_err(|_| E::custom(format_args!("{bytes} bytes are too large a size")))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            self.visit_u64(parse_size(text).map_err(E::custom)?)
        }
    }

    deserializer.deserialize_any(Size(PhantomData))
}
