//! Messages, byte by byte.

/// `[0, id, method, params]`
pub(crate) fn request(id: u32, method: &str, params: &[u8]) -> Vec<u8> {
    let mut out = b"\x94\x00".to_vec();
    rmp::encode::write_uint(&mut out, u64::from(id)).unwrap();
    rmp::encode::write_str(&mut out, method).unwrap();
    out.extend_from_slice(params);
    out
}

/// `[2, method, params]`
pub(crate) fn notification(method: &str, params: &[u8]) -> Vec<u8> {
    let mut out = b"\x93\x02".to_vec();
    rmp::encode::write_str(&mut out, method).unwrap();
    out.extend_from_slice(params);
    out
}

/// The request that has `value` sent back.
pub(crate) fn echo(id: u32, value: &[u8]) -> Vec<u8> {
    request(id, "echo", &[b"\x91", value].concat())
}

/// What it is answered with.
pub(crate) fn echo_reply(id: u32, value: &[u8]) -> Vec<u8> {
    let mut out = b"\x94\x01".to_vec();
    rmp::encode::write_uint(&mut out, u64::from(id)).unwrap();
    out.push(0xc0);
    out.extend_from_slice(value);
    out
}

/// What subscribers get when `value` was published.
pub(crate) fn event(value: &[u8]) -> Vec<u8> {
    notification("event", &[b"\x91", value].concat())
}

/// A bin of so many bytes; no two seeds make the same one.
pub(crate) fn bin(length: usize, seed: u8) -> Vec<u8> {
    let mut out = Vec::new();
    let bytes: Vec<u8> = (0..length)
        .map(|index| (index as u8).wrapping_mul(31) ^ (index >> 8) as u8 ^ seed)
        .collect();
    rmp::encode::write_bin(&mut out, &bytes).unwrap();
    out
}
