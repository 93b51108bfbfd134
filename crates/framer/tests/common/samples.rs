//! Frames, made by hand and at random.

use proptest::collection::vec;
use proptest::prelude::*;

/// The smallest frame that begins with each type byte but 0xc1, and one with a payload or objects in it if it can have any.
pub fn one_of_each_type() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for byte in 0..=u8::MAX {
        let frames: &[&[u8]] = match byte {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => &[b""],
            0x80..=0x8f => &[&[0; 30][..usize::from(byte & 15) * 2]],
            0x90..=0x9f => &[&[0; 15][..usize::from(byte & 15)]],
            0xa0..=0xbf => &[&[b'x'; 31][..usize::from(byte & 31)]],
            0xc1 => continue,
            0xc4 | 0xd9 => &[&[0], &[1, 7], &[5, 0xc1, 0xc1, 0xc1, 0xc1, 0xc1]],
            0xc5 | 0xda => &[&[0, 0], &[0, 2, 0xdd, 0xdd]],
            0xc6 | 0xdb => &[&[0, 0, 0, 0], &[0, 0, 0, 3, 7, 7, 7]],
            0xc7 => &[&[0, 5], &[2, 0xff, 7, 7]],
            0xc8 => &[&[0, 0, 5], &[0, 1, 0xff, 7]],
            0xc9 => &[&[0, 0, 0, 0, 5], &[0, 0, 0, 1, 0xff, 7]],
            0xcc | 0xd0 => &[&[0xc1]],
            0xcd | 0xd1 => &[&[0xc1; 2]],
            0xce | 0xd2 | 0xca => &[&[0xc1; 4]],
            0xcf | 0xd3 | 0xcb => &[&[0xc1; 8]],
            0xd4 => &[&[5; 2]],
            0xd5 => &[&[5; 3]],
            0xd6 => &[&[5; 5]],
            0xd7 => &[&[5; 9]],
            0xd8 => &[&[5; 17]],
            0xdc => &[&[0, 0], &[0, 2, 1, 0x90]],
            0xdd => &[&[0, 0, 0, 0], &[0, 0, 0, 2, 0x91, 1, 2]],
            0xde => &[&[0, 0], &[0, 1, 0x80, 0xa1, b'x']],
            0xdf => &[&[0, 0, 0, 0], &[0, 0, 0, 1, 1, 2]],
        };
        all.extend(frames.iter().map(|rest| [&[byte], *rest].concat()));
    }
    all
}

/// What has gone wrong elsewhere, or nearly did here: places where a frame may end, levels may be left, and lengths be
/// misread.
pub fn awkward() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        // The payload of the last object ends the frame; so does a container that is empty, at every width.
        &b"\x92\x01\xa3two"[..],
        b"\x91\xc4\x00",
        b"\x91\xc7\x00\x05",
        b"\x92\x90\x80",
        b"\x92\xdc\x00\x00\xde\x00\x00",
        b"\x91\xdd\x00\x00\x00\x00",
        b"\x82\x01\xdf\x00\x00\x00\x00\x02\x90",
        // Levels that are left all at once, and one by one.
        b"\x91\x91\x91\x91\x91\x01",
        b"\x92\x92\x92\x92\x01\x02\x03\x04\x05",
        b"\x93\x91\x90\x91\x90\x91\x91\x90",
        b"\x92\x91\x91\x90\x91\x91\x90",
        b"\x81\x81\x01\x02\x81\x03\x04",
        b"\x81\x90\x91\x90",
        // A request, a response, a notification, an event with a timestamp.
        b"\x94\x00\xce\x00\x00\x00\x07\xa7measure\x90",
        b"\x94\x01\xcd\x01\x00\xc0\x81\xa1x\xcb\x40\x09\x21\xfb\x54\x44\x2d\x18",
        b"\x93\x02\xa4blob\x91\xc4\x03\x00\x01\x02",
        b"\x93\xa3tag\xd7\x00\x00\x00\x00\x01\x00\x00\x00\x02\x82\xa1k\xa1v\xd9\x01l\xc3",
        // Once cut after three bytes, a reader lost its way here.
        b"\x94\x00\x0a\xa1f\x90",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    // Every header in the last place of a container, with another object behind the container.
    for frame in one_of_each_type() {
        all.push([b"\x92\x91", &frame[..], b"\x07"].concat());
    }
    all
}

/// A frame of any shape: every type, lengths in every width that can hold them.
pub fn frame() -> impl Strategy<Value = Vec<u8>> {
    let scalar = prop_oneof![
        any::<u8>()
            .prop_filter("one byte", |byte| matches!(byte, 0..=0x7f | 0xe0..=0xff))
            .prop_map(|byte| vec![byte]),
        prop_oneof![Just(0xc0), Just(0xc2), Just(0xc3)].prop_map(|byte: u8| vec![byte]),
        (prop_oneof![Just(0xcc), Just(0xd0)], any::<[u8; 1]>()).prop_map(joined),
        (prop_oneof![Just(0xcd), Just(0xd1)], any::<[u8; 2]>()).prop_map(joined),
        (
            prop_oneof![Just(0xca), Just(0xce), Just(0xd2)],
            any::<[u8; 4]>()
        )
            .prop_map(joined),
        (
            prop_oneof![Just(0xcb), Just(0xcf), Just(0xd3)],
            any::<[u8; 8]>()
        )
            .prop_map(joined),
        (0u8..5, any::<[u8; 17]>()).prop_map(|(power, bytes)| [
            &[0xd4 + power],
            &bytes[..1 + (1 << power)]
        ]
        .concat()),
        // UTF-8, since one of the oracles asks for it in some places.
        ("[a-z]{0,40}", 0..4usize).prop_map(|(text, width)| {
            let fix = if text.len() < 32 {
                Some(0xa0 + text.len() as u8)
            } else {
                None
            };
            [
                header(text.len(), width, fix, [0xd9, 0xda, 0xdb]),
                text.into_bytes(),
            ]
            .concat()
        }),
        (vec(any::<u8>(), 0..300), 0..3usize).prop_map(|(bytes, width)| [
            header(bytes.len(), width, None, [0xc4, 0xc5, 0xc6]),
            bytes
        ]
        .concat()),
        (vec(any::<u8>(), 0..40), any::<u8>(), 0..3usize).prop_map(|(bytes, kind, width)| {
            [
                header(bytes.len(), width, None, [0xc7, 0xc8, 0xc9]),
                vec![kind],
                bytes,
            ]
            .concat()
        }),
    ];
    scalar.prop_recursive(6, 60, 20, |element| {
        let elements = || vec(element.clone(), 0..20);
        prop_oneof![
            (elements(), 0..3usize).prop_map(|(elements, width)| {
                let fix = if elements.len() < 16 {
                    Some(0x90 + elements.len() as u8)
                } else {
                    None
                };
                [
                    header(elements.len(), width, fix, [0, 0xdc, 0xdd]),
                    elements.concat(),
                ]
                .concat()
            }),
            (elements(), 0..3usize).prop_map(|(mut elements, width)| {
                let entries = elements.len() / 2;
                elements.truncate(entries * 2);
                let fix = if entries < 16 {
                    Some(0x80 + entries as u8)
                } else {
                    None
                };
                [
                    header(entries, width, fix, [0, 0xde, 0xdf]),
                    elements.concat(),
                ]
                .concat()
            }),
        ]
    })
}

fn joined<const N: usize>((byte, rest): (u8, [u8; N])) -> Vec<u8> {
    [&[byte][..], &rest].concat()
}

/// A header for this length: at least `width` steps wider than the narrowest form that exists, if there is one.
fn header(length: usize, width: usize, fix: Option<u8>, [in_8, in_16, in_32]: [u8; 3]) -> Vec<u8> {
    let mut forms = Vec::from_iter(fix.map(|byte| vec![byte]));
    if in_8 != 0 && length < 1 << 8 {
        forms.push(vec![in_8, length as u8]);
    }
    if length < 1 << 16 {
        forms.push([&[in_16][..], &(length as u16).to_be_bytes()].concat());
    }
    forms.push([&[in_32][..], &(length as u32).to_be_bytes()].concat());
    forms.swap_remove(width.min(forms.len() - 1))
}

/// Bytes that are msgpack more or less: headers in abundance, small lengths, and sometimes nonsense.
pub fn soup() -> impl Strategy<Value = Vec<u8>> {
    vec(
        prop_oneof![
            3 => 0x80u8..=0x9f,
            2 => 0xa0u8..=0xa8,
            4 => (0xc0u8..=0xdf).prop_filter("mostly valid", |byte| *byte != 0xc1),
            4 => 0u8..=4,
            1 => any::<u8>(),
        ],
        0..200,
    )
}
