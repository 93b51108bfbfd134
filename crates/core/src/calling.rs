//! Which call of a service a worker is in, for whoever finds that it does not return.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

/// The calls of a service, as its methods are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Call {
    Connected = 1,
    Restore,
    Save,
    Frame,
    Abandoned,
    RequestName,
    Disconnected,
    Tick,
    Readable,
    HandOver,
}

impl Call {
    /// In the order of their numbers.
    const ALL: [Call; 10] = [
        Call::Connected,
        Call::Restore,
        Call::Save,
        Call::Frame,
        Call::Abandoned,
        Call::RequestName,
        Call::Disconnected,
        Call::Tick,
        Call::Readable,
        Call::HandOver,
    ];

    fn is_for_a_connection(self) -> bool {
        !matches!(self, Call::Tick | Call::Readable | Call::HandOver)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Call::Connected => "connected",
            Call::Restore => "restore",
            Call::Save => "save",
            Call::Frame => "frame",
            Call::Abandoned => "abandoned",
            Call::RequestName => "request_name",
            Call::Disconnected => "disconnected",
            Call::Tick => "tick",
            Call::Readable => "readable",
            Call::HandOver => "hand_over",
        })
    }
}

/// On whose behalf a service is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// A connection of the socket name of this number.
    Socket(usize),
    /// No connection's: the worker's service of this number.
    Service(usize),
}

/// The last call that a worker has begun in its turn. All frames of a received buffer are one. It is written for each of them, so that is
/// one store and nothing else; who reads it knows that the worker has not moved on since.
#[derive(Debug, Default)]
pub(crate) struct Calling(AtomicU32);

impl Calling {
    /// Begins one on behalf of a connection of this name.
    #[inline]
    pub(crate) fn begin_for(&self, name: u16, call: Call) {
        debug_assert!(call.is_for_a_connection());
        self.store(u32::from(name), call);
    }

    /// Begins one of the worker's service of this number.
    pub(crate) fn begin(&self, service: usize, call: Call) {
        debug_assert!(!call.is_for_a_connection());
        // There are a few.
        self.store(service as u32, call);
    }

    #[inline]
    fn store(&self, number: u32, call: Call) {
        self.0
            .store(number << 8 | u32::from(call as u8), Ordering::Relaxed);
    }

    /// All that were begun in this turn are over.
    #[inline]
    pub(crate) fn over(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    pub(crate) fn last(&self) -> Option<(Call, Whose)> {
        let [call, number @ ..] = self.0.load(Ordering::Relaxed).to_le_bytes();
        let [low, middle, high] = number;
        let number = u32::from_le_bytes([low, middle, high, 0]) as usize;
        let call = *Call::ALL.get(usize::from(call).checked_sub(1)?)?;
        let whose = match call.is_for_a_connection() {
            true => Whose::Socket(number),
            false => Whose::Service(number),
        };
        Some((call, whose))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_call_is_known_until_the_turn_is_over() {
        let calling = Calling::default();
        assert_eq!(calling.last(), None);
        for call in Call::ALL {
            let expected = match call.is_for_a_connection() {
                true => {
                    calling.begin_for(u16::MAX, call);
                    Whose::Socket(0xffff)
                }
                false => {
                    calling.begin(3, call);
                    Whose::Service(3)
                }
            };
            assert_eq!(calling.last(), Some((call, expected)));
        }
        calling.over();
        assert_eq!(calling.last(), None);
    }
}
