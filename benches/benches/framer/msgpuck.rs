//! msgpuck (<https://github.com/tarantool/msgpuck>), whose `mp_check` is the fastest known reader in C: a table of hints and a count
//! of the objects that are still to come. It has no limits, and nothing to go on from.
//!
//! [`skip`] is that algorithm in Rust. [`check`] is msgpuck itself, if the bench was built with `MSGPUCK` set to a checkout of it.

use rmp::Marker;

/// Zero and above: so many bytes follow the type byte. Below, an array or a map with so many objects in it, or [`LONG`].
static HINTS: [i8; 256] = {
    let mut hints = [0; 256];
    let mut byte = 0;
    while byte < hints.len() {
        let marker = Marker::from_u8(byte as u8);
        hints[byte] = match (super::payload(marker), marker) {
            (Some(payload), _) => payload as i8,
            // Those without elements are one byte.
            (None, Marker::FixArray(len)) => -(len as i8),
            (None, Marker::FixMap(len)) => -2 * len as i8,
            _ => LONG,
        };
        byte += 1;
    }
    hints
};
const LONG: i8 = i8::MIN;

pub(crate) fn skip(bytes: &mut &[u8]) -> Option<()> {
    let mut next = 0;
    let mut due = 1_i64;
    while due > 0 {
        let byte = *bytes.get(next)?;
        next += 1;
        due -= 1;
        let hint = HINTS[usize::from(byte)];
        if hint >= 0 {
            next += hint as usize;
        } else if hint != LONG {
            due -= i64::from(hint);
        } else {
            due += long(byte, bytes, &mut next)?;
        }
    }
    *bytes = bytes.get(next..)?;
    Some(())
}

/// The objects in what has its length behind the type byte.
fn long(byte: u8, bytes: &[u8], next: &mut usize) -> Option<i64> {
    let payload = match Marker::from_u8(byte) {
        Marker::Str8 | Marker::Bin8 => length::<1>(bytes, next)?,
        Marker::Str16 | Marker::Bin16 => length::<2>(bytes, next)?,
        Marker::Str32 | Marker::Bin32 => length::<4>(bytes, next)?,
        Marker::Ext8 => length::<1>(bytes, next)? + 1,
        Marker::Ext16 => length::<2>(bytes, next)? + 1,
        Marker::Ext32 => length::<4>(bytes, next)? + 1,
        Marker::Array16 => return Some(length::<2>(bytes, next)? as i64),
        Marker::Array32 => return Some(length::<4>(bytes, next)? as i64),
        Marker::Map16 => return Some(2 * length::<2>(bytes, next)? as i64),
        Marker::Map32 => return Some(2 * length::<4>(bytes, next)? as i64),
        _ => return None,
    };
    *next += payload as usize;
    Some(0)
}

fn length<const N: usize>(bytes: &[u8], next: &mut usize) -> Option<u64> {
    let length: &[u8; N] = bytes.get(*next..)?.first_chunk()?;
    *next += N;
    Some(
        length
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    )
}

/// `mp_check`, compiled by the C compiler of this machine.
#[cfg(msgpuck)]
pub(crate) fn check(bytes: &mut &[u8]) -> Option<()> {
    let range = bytes.as_ptr_range();
    let mut next = range.start;
    // SAFETY: it reads what lies between the two, and moves the first one behind the object that begins there.
    #[expect(unsafe_code, reason = "calling C")]
    let failed = unsafe { mp_check(&mut next, range.end) };
    if failed != 0 {
        return None;
    }
    let used = next.addr() - range.start.addr();
    *bytes = &bytes[used..];
    Some(())
}

#[cfg(msgpuck)]
#[link(name = "msgpuck", kind = "static")]
#[expect(unsafe_code, reason = "calling C")]
unsafe extern "C" {
    fn mp_check(data: &mut *const u8, end: *const u8) -> std::ffi::c_int;
}
