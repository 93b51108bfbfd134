//! What the fuzz targets run. The test `seeds` of ringhold-rpc does, too.
#![forbid(unsafe_code)]

pub mod connection;
pub mod framer;
pub mod rpc;

#[path = "../../crates/framer/tests/common/reference.rs"]
pub mod reference;

/// What panics that are part of a test say first.
pub const ON_PURPOSE: &str = "on purpose";

/// Lets panics that begin with [`ON_PURPOSE`] unwind. All others end the process, as libFuzzer wants it: those that a
/// service call would catch as well, which may be failed assertions of the code under test.
pub fn allow_panics_on_purpose() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let payload = info.payload();
        let formatted = payload.downcast_ref::<String>().map(String::as_str);
        let text = formatted.or(payload.downcast_ref::<&str>().copied());
        if !text.is_some_and(|text| text.starts_with(ON_PURPOSE)) {
            abort(info);
        }
    }));
}

/// Input that is taken from the front.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next byte as a number; zero at the end.
    pub fn number(&mut self) -> usize {
        self.byte().map_or(0, usize::from)
    }

    /// The next bytes, fewer at the end.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
