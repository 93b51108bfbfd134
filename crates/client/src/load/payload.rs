//! The bytes of the requests, and of the replies that they must have.

use rmp::encode;

use super::plan::{Echo, LoadPlan, Mode};
use crate::envelope;

/// How many different beginnings a payload can have inside the block.
const SPAN: usize = 4096;

/// The length of the part of a payload that no other payload shares.
const STAMP: usize = 8;

/// Writes the messages of a load and checks the results.
///
/// Each payload begins with a stamp, a mixture of its id and the connection's salt, and goes on with
/// a stretch of a block of noise, at a place that depends on the stamp. So payloads cost two copies,
/// results two comparisons, and a result that belongs to another request is not taken for the right one.
#[derive(Debug)]
pub(crate) struct Template {
    /// A message up to its payload, with the id at `id_at`.
    head: Vec<u8>,
    id_at: Option<usize>,
    /// A right result up to its payload.
    result_head: Vec<u8>,
    payload: usize,
    noise: Vec<u8>,
}

impl Template {
    pub(crate) fn new(plan: &LoadPlan) -> Self {
        let mut bin = Vec::new();
        // Writing to a Vec does not fail.
        let _ = encode::write_bin_len(&mut bin, plan.payload as u32);
        let mut head = Vec::new();
        let id_at = match plan.mode {
            Mode::Notify => {
                envelope::begin_notification(&mut head, plan.method.as_bytes());
                None
            }
            _ => {
                envelope::begin_request(&mut head, u32::MAX, plan.method.as_bytes());
                Some(3)
            }
        };
        head.push(0x91);
        head.extend_from_slice(&bin);
        let result_head = match plan.echo {
            Echo::First => bin,
            Echo::All => [&[0x91], &bin[..]].concat(),
        };
        Self {
            head,
            id_at,
            result_head,
            payload: plan.payload,
            noise: noise(plan.payload + SPAN),
        }
    }

    /// The length of each message in bytes.
    pub(crate) fn message_len(&self) -> usize {
        self.head.len() + self.payload
    }

    /// The length of a right result in bytes.
    pub(crate) fn result_len(&self) -> usize {
        self.result_head.len() + self.payload
    }

    /// Appends the message with this id.
    pub(crate) fn append(&self, out: &mut Vec<u8>, id: u32, salt: u64) {
        let start = out.len();
        out.extend_from_slice(&self.head);
        if let Some(at) = self.id_at {
            out[start + at..start + at + 4].copy_from_slice(&id.to_be_bytes());
        }
        let (stamp, rest) = self.parts(id, salt);
        out.extend_from_slice(&stamp[..self.payload.min(STAMP)]);
        out.extend_from_slice(rest);
    }

    /// Whether these bytes, as many as [`result_len`](Self::result_len), are the result of this request.
    pub(crate) fn is_right(&self, result: &[u8], id: u32, salt: u64) -> bool {
        let Some(payload) = result.strip_prefix(&self.result_head[..]) else {
            return false;
        };
        let Some((head, tail)) = payload.split_at_checked(self.payload.min(STAMP)) else {
            return false;
        };
        let (stamp, rest) = self.parts(id, salt);
        head == &stamp[..head.len()] && tail == rest
    }

    /// The stamp of a payload and what follows it.
    fn parts(&self, id: u32, salt: u64) -> ([u8; STAMP], &[u8]) {
        let stamp = mix(salt ^ u64::from(id));
        let start = (stamp >> 52) as usize;
        (
            stamp.to_le_bytes(),
            &self.noise[start..start + self.payload.saturating_sub(STAMP)],
        )
    }
}

/// A permutation of 64 bits without visible pattern (the finalizer of SplitMix64).
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The same bytes in every run.
fn noise(len: usize) -> Vec<u8> {
    (0..len.div_ceil(8) as u64)
        .flat_map(|index| mix(index).to_le_bytes())
        .take(len)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Envelope;

    fn template(payload: usize, echo: Echo) -> Template {
        let address = "127.0.0.1:1".parse().unwrap();
        Template::new(&LoadPlan {
            payload,
            echo,
            ..LoadPlan::new(address)
        })
    }

    #[test]
    fn a_request_carries_its_id_and_the_result_that_is_right() {
        for payload in [0, 1, 7, 8, 9, 100, 255, 256, 70_000] {
            for (echo, skip) in [(Echo::First, 1), (Echo::All, 0)] {
                let template = template(payload, echo);
                let mut out = vec![0xaa];
                template.append(&mut out, 0x1_2345, 99);
                assert_eq!(out.len(), 1 + template.message_len());
                let Ok(Envelope::Request { id, method, params }) = Envelope::parse(&out[1..])
                else {
                    panic!("not a request");
                };
                assert_eq!((id, method), (0x1_2345, &b"echo"[..]));
                let result = &params[skip..];
                assert_eq!(result.len(), template.result_len());
                assert!(template.is_right(result, id, 99));
            }
        }
    }

    #[test]
    fn no_altered_byte_and_no_other_result_is_right() {
        let template = template(40, Echo::First);
        let mut out = Vec::new();
        template.append(&mut out, 0x1_0000, 1);
        let mut result = out.split_off(template.message_len() - template.result_len());
        assert!(template.is_right(&result, 0x1_0000, 1));
        assert!(!template.is_right(&result, 0x1_0001, 1));
        assert!(!template.is_right(&result, 0x1_0000, 2));
        assert!(!template.is_right(&result[..result.len() - 1], 0x1_0000, 1));
        for index in 0..result.len() {
            result[index] ^= 1;
            assert!(!template.is_right(&result, 0x1_0000, 1));
            result[index] ^= 1;
        }
    }

    #[test]
    fn notifications_have_no_id() {
        let address = "127.0.0.1:1".parse().unwrap();
        let template = Template::new(&LoadPlan {
            mode: Mode::Notify,
            ..LoadPlan::new(address)
        });
        let mut out = Vec::new();
        template.append(&mut out, 5, 1);
        assert_eq!(out.len(), template.message_len());
        assert!(matches!(
            Envelope::parse(&out),
            Ok(Envelope::Notification {
                method: b"echo",
                ..
            })
        ));
    }
}
