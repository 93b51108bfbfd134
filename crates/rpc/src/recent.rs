//! Calls that are written like one of two before.

use crate::envelope::Envelope;

/// Bytes of a call that are compared.
const HEAD: usize = size_of::<u128>();

/// A call of fewer bytes is like none.
const CALL_MIN: usize = size_of::<u64>();

/// A call of a method that the router has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known<'f> {
    pub(crate) id: Option<u32>,
    /// They end where the frame does.
    pub(crate) params: &'f [u8],
    /// The method, as the router numbers it.
    pub(crate) method: usize,
}

/// How a recent call was written: one comparison tells that another call is written in the same way and names the same
/// method.
#[derive(Debug)]
pub(crate) struct Recent {
    /// The bits that were the same in all such calls, and what they are.
    mask: u128,
    bits: u128,
    /// Where the parameters begin.
    end: usize,
    has_id: bool,
    /// The method, as the router numbers it.
    method: usize,
}

impl Recent {
    /// No call is like that: its first byte says that it is an array.
    pub(crate) const NONE: Recent = Recent {
        mask: u128::MAX,
        bits: 0,
        end: 0,
        has_id: false,
        method: usize::MAX,
    };

    /// What there is to know of a call that begins with this head, if that is like the one of the noted call.
    #[inline(always)]
    fn known<'f>(&self, frame: &'f [u8], head: u128) -> Option<Known<'f>> {
        if (head ^ self.bits) & self.mask != 0 {
            return None;
        }
        let params = frame.get(self.end..)?;
        // Read as it lies in the frame: what was loaded as a whole above can be had in parts only by way of memory.
        let id = match frame {
            [_, _, _, a, b, c, d, ..] if self.has_id => Some(u32::from_be_bytes([*a, *b, *c, *d])),
            _ => None,
        };
        let method = self.method;
        Some(Known { id, params, method })
    }

    /// Takes note of a call that is written as [`usual`](crate::envelope::usual) says, if its like can be told: if it has an
    /// id of four bytes or none, and all up to its parameters is among the first bytes.
    fn note(&mut self, frame: &[u8], envelope: &Envelope<'_>, method: usize) {
        let Some(head) = head(frame) else {
            return;
        };
        let has_id = envelope.id.is_some();
        if has_id && frame[2] != 0xce {
            return;
        }
        let end = frame.len() - envelope.params.len();
        let mut mask = [0; HEAD];
        let Some((array, before)) = mask.get_mut(..=end).and_then(<[_]>::split_last_mut) else {
            return;
        };
        before.fill(0xff);
        if has_id {
            before[3..7].fill(0);
        }
        // A fixarray, of whichever length.
        *array = 0xf0;
        let mask = u128::from_le_bytes(mask);
        *self = Recent {
            mask,
            bits: head & mask,
            end,
            has_id,
            method,
        };
    }
}

/// The first bytes of a call. Those that a short one does not have are zero, which no array begins with.
#[inline(always)]
fn head(frame: &[u8]) -> Option<u128> {
    if let Some(head) = frame.first_chunk::<HEAD>() {
        return Some(u128::from_le_bytes(*head));
    }
    let first = frame.first_chunk::<CALL_MIN>()?;
    let last = frame.last_chunk::<CALL_MIN>()?;
    let [first, last] = [first, last].map(|bytes| u128::from(u64::from_le_bytes(*bytes)));
    // They overlap or meet.
    Some(first | last << (8 * (frame.len() - CALL_MIN)))
}

/// After a note so many calls that are like neither pass before the next one: where nothing repeats itself, notes cost little.
const REST_CALLS: u32 = 16;

/// Two calls as they were written, since those of two methods often come by turns.
#[derive(Debug)]
pub(crate) struct Recents {
    calls: [Recent; 2],
    /// Which of the two was noted first.
    older: usize,
    /// The methods of the last two calls that were like neither.
    missed: [usize; 2],
    /// So many more of those pass before one may be noted.
    rest: u32,
}

impl Recents {
    pub(crate) const NONE: Recents = Recents {
        calls: [Recent::NONE; 2],
        older: 0,
        missed: [usize::MAX; 2],
        rest: 0,
    };

    /// What there is to know of a call that is like one of the two.
    #[inline(always)]
    pub(crate) fn known<'f>(&self, frame: &'f [u8]) -> Option<Known<'f>> {
        let head = head(frame)?;
        let [one, other] = &self.calls;
        one.known(frame, head).or_else(|| other.known(frame, head))
    }

    /// Takes note of a call that was like neither, if its method has been missed lately.
    pub(crate) fn missed(&mut self, frame: &[u8], envelope: &Envelope<'_>, method: usize) {
        if self.rest > 0 {
            self.rest -= 1;
            return;
        }
        let again = self.missed.contains(&method);
        if self.missed[0] != method {
            self.missed = [method, self.missed[0]];
        }
        if !again {
            return;
        }
        // One that is written in another way by now takes its own place.
        let its_own = self.calls.iter().position(|recent| recent.method == method);
        let place = its_own.unwrap_or(self.older);
        self.calls[place].note(frame, envelope, method);
        self.older = 1 - place;
        self.rest = REST_CALLS;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::envelope::usual;

    fn known<'f>(recent: &Recent, frame: &'f [u8]) -> Option<Known<'f>> {
        recent.known(frame, head(frame)?)
    }

    fn noted(frame: &[u8]) -> Recent {
        let mut recent = Recent::NONE;
        recent.note(frame, &usual(frame).unwrap(), 5);
        recent
    }

    #[test]
    fn what_is_alike() {
        let call = b"\x94\x00\xce\x01\x02\x03\x04\xa3add\x92\xcd\x01\x02\x05";
        let alike = b"\x94\x00\xce\x00\x00\x00\x07\xa3add\x93\x01\x02\xc0\xc0\xc0";
        let expected = Known {
            id: Some(7),
            params: b"\x93\x01\x02\xc0\xc0\xc0",
            method: 5,
        };
        assert_eq!(known(&noted(call), alike), Some(expected));
        for other in [
            &b"\x94\x00\xce\x01\x02\x03\x04\xa3sub\x92\xcd\x01\x02\x05"[..],
            b"\x94\x00\xcd\x01\x02\xa3add\x92\xcd\x01\x02\xcd\x01\x02",
            b"\x94\x00\xce\x01\x02\x03\x04\xa4adds\x92\xcd\x01\x02",
            b"\x94\x00\xce\x01\x02\x03\x04\xa3add\xc0\xcd\x01\x02\x05",
            &alike[..11],
            &alike[..7],
        ] {
            assert_eq!(known(&noted(call), other), None);
        }
        assert_eq!(known(&Recent::NONE, call), None);
    }

    #[test]
    fn short_calls_are_known_as_well() {
        let long = b"\x93\x02\xa4tick\x92\xcd\x01\x02\xcd\x01\x02\x03\x04";
        for length in 8..=12 {
            let short = [
                &long[..7],
                &[0x90 + (length - 8) as u8],
                &[5; 4][..length - 8],
            ]
            .concat();
            assert_eq!(short.len(), length);
            let expected = Known {
                id: None,
                params: &short[7..],
                method: 5,
            };
            assert_eq!(known(&noted(long), &short), Some(expected));
            assert!(known(&noted(&short), long).is_some());
            assert!(known(&noted(&short), &short).is_some());
            let mut other = short.clone();
            other[6] = b'c';
            assert_eq!(known(&noted(long), &other), None);
        }
    }

    #[test]
    fn a_call_whose_like_cannot_be_told_leaves_the_note_as_it_is() {
        let mut recent = noted(b"\x93\x02\xa4push\x91\xc4\x07sevensA");
        let before = format!("{recent:?}");
        for other in [
            &b"\x94\x00\x07\xa3add\x92\xcd\x01\x02\xcd\x01\x02\x03\x04\x05"[..],
            b"\x93\x02\xafa_long_longname\x91\xc0",
            b"\x93\x02\xa3add\x90",
        ] {
            recent.note(other, &usual(other).unwrap(), 6);
        }
        assert_eq!(format!("{recent:?}"), before);
    }

    fn call_of(name: &str) -> Vec<u8> {
        [
            &b"\x94\x00\xce\x00\x00\x00\x01\xa4"[..],
            name.as_bytes(),
            b"\x92\x01\xcd\x01\x02",
        ]
        .concat()
    }

    /// Calls of these methods, one after the other. Returns for each whether it was like one before.
    fn seen(recents: &mut Recents, names: &[&str]) -> Vec<bool> {
        let number = |name: &str| name.as_bytes()[0] as usize;
        names
            .iter()
            .map(|name| {
                let frame = call_of(name);
                let found = recents.known(&frame);
                match found {
                    Some(Known { id, params, method }) => {
                        assert_eq!(method, number(name));
                        let method = name.as_bytes();
                        assert_eq!(usual(&frame), Some(Envelope { id, method, params }));
                    }
                    None => recents.missed(&frame, &usual(&frame).unwrap(), number(name)),
                }
                found.is_some()
            })
            .collect()
    }

    #[test]
    fn two_methods_by_turns_are_known_both() {
        let mut recents = Recents::NONE;
        seen(&mut recents, &["echo", "ping"].repeat(20));
        assert_eq!(
            seen(&mut recents, &["echo", "ping"].repeat(50)),
            [true; 100]
        );
        // A third one takes the place of the one that has been known longer.
        seen(&mut recents, &["look"; 20]);
        assert_eq!(seen(&mut recents, &["look"]), [true]);
        let others = seen(&mut recents, &["echo", "ping"]);
        assert_eq!(others.iter().filter(|known| **known).count(), 1);
    }

    #[test]
    fn a_single_call_is_not_noted_and_a_repeated_one_is() {
        let mut recents = Recents::NONE;
        assert_eq!(seen(&mut recents, &["echo", "ping", "look"]), [false; 3]);
        assert_eq!(seen(&mut recents, &["look", "look"]), [false, true]);
    }

    proptest! {
        #[test]
        fn what_is_said_of_its_like_is_what_is_read(
            kind in prop_oneof![Just(b"\x94\x00\xce\x01\x02\x03\x04".to_vec()), Just(b"\x93\x02".to_vec())],
            name in "[a-z]{0,12}",
            params in proptest::collection::vec(any::<u8>(), 0..20),
            changes in proptest::collection::vec((0usize..40, any::<u8>()), 0..6),
            left_out in 0usize..12,
            added in proptest::collection::vec(any::<u8>(), 0..12),
        ) {
            let head = [0xa0 | name.len() as u8];
            let call = [&kind[..], &head, name.as_bytes(), b"\x92", &params].concat();
            let recent = noted(&call);
            let kept = &call[..call.len().saturating_sub(left_out).max(1)];
            let mut other = [kept, &added].concat();
            for (at, byte) in changes {
                let at = at % other.len();
                other[at] = byte;
            }
            if let Some(Known { id, params, method }) = known(&recent, &other) {
                prop_assert_eq!(method, 5);
                let method = name.as_bytes();
                prop_assert_eq!(usual(&other), Some(Envelope { id, method, params }));
            }
        }
    }
}
