//! Calls that are written like one of two before.

use crate::envelope::Envelope;

/// Bytes of a call that are compared.
const HEAD: usize = size_of::<u128>();

/// How a recent call was written: one comparison tells that another call is written in the same way and names the same
/// method.
#[derive(Debug)]
pub(crate) struct Recent {
    /// The bits that were the same in all such calls, and what they are.
    mask: u128,
    bits: u128,
    /// Where the name of the method begins and ends.
    start: usize,
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
        start: 0,
        end: 0,
        has_id: false,
        method: usize::MAX,
    };

    /// The envelope of a call that is like the noted one, and the router's number of its method.
    #[inline(always)]
    pub(crate) fn envelope<'f>(&self, frame: &'f [u8]) -> Option<(Envelope<'f>, usize)> {
        let head = u128::from_ne_bytes(*frame.first_chunk::<HEAD>()?);
        if (head ^ self.bits) & self.mask != 0 {
            return None;
        }
        let (head, params) = frame.split_at_checked(self.end)?;
        // Read as it lies in the frame: what was loaded as a whole above can be had in parts only by way of memory.
        let id = match frame {
            [_, _, _, a, b, c, d, ..] if self.has_id => Some(u32::from_be_bytes([*a, *b, *c, *d])),
            _ => None,
        };
        let method = head.get(self.start..)?;
        let envelope = Envelope { id, method, params };
        Some((envelope, self.method))
    }

    /// Takes note of a call that is written as [`usual`](crate::envelope::usual) says, if its like can be told: if it has an
    /// id of four bytes or none, and all up to its parameters is among the first bytes.
    pub(crate) fn note(&mut self, frame: &[u8], envelope: &Envelope<'_>, method: usize) {
        let Some(head) = frame.first_chunk::<HEAD>() else {
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
        let mask = u128::from_ne_bytes(mask);
        *self = Recent {
            mask,
            bits: u128::from_ne_bytes(*head) & mask,
            start: end - envelope.method.len(),
            end,
            has_id,
            method,
        };
    }
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

    /// The envelope of a call that is like one of the two, and the router's number of its method.
    #[inline(always)]
    pub(crate) fn envelope<'f>(&self, frame: &'f [u8]) -> Option<(Envelope<'f>, usize)> {
        let [one, other] = &self.calls;
        one.envelope(frame).or_else(|| other.envelope(frame))
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

    fn noted(frame: &[u8]) -> Recent {
        let mut recent = Recent::NONE;
        recent.note(frame, &usual(frame).unwrap(), 5);
        recent
    }

    #[test]
    fn what_is_alike() {
        let call = b"\x94\x00\xce\x01\x02\x03\x04\xa3add\x92\xcd\x01\x02\x05";
        let alike = b"\x94\x00\xce\x00\x00\x00\x07\xa3add\x93\x01\x02\xc0\xc0\xc0";
        let expected = Envelope {
            id: Some(7),
            method: b"add",
            params: b"\x93\x01\x02\xc0\xc0\xc0",
        };
        assert_eq!(noted(call).envelope(alike), Some((expected, 5)));
        for other in [
            &b"\x94\x00\xce\x01\x02\x03\x04\xa3sub\x92\xcd\x01\x02\x05"[..],
            b"\x94\x00\xcd\x01\x02\xa3add\x92\xcd\x01\x02\xcd\x01\x02",
            b"\x94\x00\xce\x01\x02\x03\x04\xa4adds\x92\xcd\x01\x02",
            b"\x94\x00\xce\x01\x02\x03\x04\xa3add\xc0\xcd\x01\x02\x05",
            &alike[..15],
        ] {
            assert_eq!(noted(call).envelope(other), None);
        }
        assert_eq!(Recent::NONE.envelope(call), None);
    }

    #[test]
    fn a_call_whose_like_cannot_be_told_leaves_the_note_as_it_is() {
        let mut recent = noted(b"\x93\x02\xa4push\x91\xc4\x07sevensA");
        let before = format!("{recent:?}");
        for other in [
            &b"\x94\x00\x07\xa3add\x92\xcd\x01\x02\xcd\x01\x02\x03\x04\x05"[..],
            b"\x93\x02\xafa_long_longname\x91\xc0",
            b"\x93\x02\xa3add\x91\xc0",
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
                let found = recents.envelope(&frame);
                match found {
                    Some((envelope, method)) => {
                        assert_eq!((Some(envelope), method), (usual(&frame), number(name)));
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
        ) {
            let head = [0xa0 | name.len() as u8];
            let call = [&kind[..], &head, name.as_bytes(), b"\x92", &params].concat();
            let recent = noted(&call);
            let mut other = call.clone();
            for (at, byte) in changes {
                let at = at % other.len();
                other[at] = byte;
            }
            if let Some((envelope, method)) = recent.envelope(&other) {
                prop_assert_eq!(method, 5);
                prop_assert_eq!(envelope.method, name.as_bytes());
                prop_assert_eq!(Some(envelope), usual(&other));
            }
        }
    }
}
