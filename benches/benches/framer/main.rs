//! How fast is the end of a frame found?
//!
//! `cargo bench -p ringhold-benches --bench framer`; a part of it with a filter behind `--`, such as `whole/telemetry`.
//!
//! `whole` has all frames of a stream in one buffer, as large as what a core has just received and still has in its cache.
//! `cut` delivers the same stream in pieces of random length. The framer goes on where it was; the others have no state to
//! go on from and read the frame from its start again, which is what one does without a resumable scanner. Their answer to
//! "not all here yet" is whatever error they give.
//!
//! Every reader is checked to find all the frames before its time is taken.

#![allow(missing_docs, reason = "criterion's macros define undocumented items")]

mod msgpuck;

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use ringhold_framer::{Framer, Limits, Progress};
use rmp::Marker;
use rmp::encode;
use serde::Deserialize;
use serde::de::IgnoredAny;

criterion_group!(benches, whole, cut);
criterion_main!(benches);

/// Frames one behind the other, and how many.
struct Stream {
    name: &'static str,
    bytes: Vec<u8>,
    frames: usize,
}

fn whole(c: &mut Criterion) {
    let mut group = group(c, "whole");
    for stream in streams() {
        let bytes = &stream.bytes[..];
        let mut framer = Framer::new(Limits::default());
        measure(&mut group, &stream, "ringhold", || ends(&mut framer, bytes));
        measure(&mut group, &stream, "msgpuck-skip", || {
            all_of(bytes, msgpuck::skip)
        });
        #[cfg(msgpuck)]
        measure(&mut group, &stream, "msgpuck", || {
            all_of(bytes, msgpuck::check)
        });
        measure(&mut group, &stream, "recursive-skip", || {
            all_of(bytes, skip)
        });
        measure(&mut group, &stream, "rmp-serde-ignored", || {
            ignore_all(bytes)
        });
        measure(&mut group, &stream, "rmpv-ref", || all_of(bytes, read_rmpv));
    }
    group.finish();
}

fn cut(c: &mut Criterion) {
    let mut group = group(c, "cut");
    for stream in streams() {
        let pieces = pieces(&stream);
        let mut framer = Framer::new(Limits::default());
        measure(&mut group, &stream, "ringhold", || {
            let (mut start, mut frames) = (0, 0);
            for &end in &pieces {
                while let Ok(Progress::Complete { used }) = framer.feed(&stream.bytes[start..end]) {
                    start += used;
                    frames += 1;
                }
                start = end;
            }
            frames
        });
        measure(&mut group, &stream, "recursive-skip", || {
            again_and_again(&stream, &pieces, skip)
        });
        measure(&mut group, &stream, "rmp-serde-ignored", || {
            again_and_again(&stream, &pieces, ignore)
        });
        measure(&mut group, &stream, "rmpv-ref", || {
            again_and_again(&stream, &pieces, read_rmpv)
        });
    }
    group.finish();
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(10);
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(1));
    group
}

fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    stream: &Stream,
    reader: &str,
    mut read: impl FnMut() -> usize,
) {
    assert_eq!(read(), stream.frames, "{reader} on {}", stream.name);
    group.throughput(Throughput::ElementsAndBytes {
        elements: stream.frames as u64,
        bytes: stream.bytes.len() as u64,
    });
    group.bench_function(format!("{}/{reader}", stream.name), |b| {
        b.iter(|| black_box(read()))
    });
}

/// A reader of one object: takes it off the front, or leaves the bytes alone and answers `None` if it is not all there.
type Reader = fn(&mut &[u8]) -> Option<()>;

/// By itself, as in a program that does more than this: what the compiler makes of a loop depends on what is around it.
#[inline(never)]
fn ends(framer: &mut Framer, mut bytes: &[u8]) -> usize {
    let mut frames = 0;
    while let Ok(Progress::Complete { used }) = framer.feed(bytes) {
        bytes = &bytes[used..];
        frames += 1;
    }
    frames
}

fn all_of(mut bytes: &[u8], read: Reader) -> usize {
    let mut frames = 0;
    while !bytes.is_empty() && read(&mut bytes).is_some() {
        frames += 1;
    }
    frames
}

fn again_and_again(stream: &Stream, pieces: &[usize], read: Reader) -> usize {
    let (mut start, mut frames) = (0, 0);
    for &end in pieces {
        let mut rest = &stream.bytes[start..end];
        while !rest.is_empty() && read(&mut rest).is_some() {
            start = end - rest.len();
            frames += 1;
        }
    }
    frames
}

fn read_rmpv(bytes: &mut &[u8]) -> Option<()> {
    let mut rest = *bytes;
    black_box(rmpv::decode::read_value_ref(&mut rest).ok()?);
    *bytes = rest;
    Some(())
}

fn ignore_all(bytes: &[u8]) -> usize {
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    let mut frames = 0;
    while IgnoredAny::deserialize(&mut reader).is_ok() {
        frames += 1;
    }
    frames
}

/// Through a `Cursor`, since a reader of slices does not tell how far it got. That costs a copy of every payload.
fn ignore(bytes: &mut &[u8]) -> Option<()> {
    let mut reader = rmp_serde::Deserializer::new(std::io::Cursor::new(*bytes));
    IgnoredAny::deserialize(&mut reader).ok()?;
    *bytes = &bytes[reader.position() as usize..];
    Some(())
}

/// What one writes first: a match over rmp's markers that calls itself for what is inside. It has no limits.
fn skip(bytes: &mut &[u8]) -> Option<()> {
    let mut rest = *bytes;
    skip_object(&mut rest)?;
    *bytes = rest;
    Some(())
}

fn skip_object(bytes: &mut &[u8]) -> Option<()> {
    let [marker] = take(bytes)?;
    let marker = Marker::from_u8(marker);
    if let Some(payload) = payload(marker) {
        *bytes = bytes.get(payload..)?;
        return Some(());
    }
    let payload = match marker {
        Marker::Str8 | Marker::Bin8 => usize::from(u8::from_be_bytes(take(bytes)?)),
        Marker::Str16 | Marker::Bin16 => usize::from(u16::from_be_bytes(take(bytes)?)),
        Marker::Str32 | Marker::Bin32 => u32::from_be_bytes(take(bytes)?) as usize,
        Marker::Ext8 => usize::from(u8::from_be_bytes(take(bytes)?)) + 1,
        Marker::Ext16 => usize::from(u16::from_be_bytes(take(bytes)?)) + 1,
        Marker::Ext32 => u32::from_be_bytes(take(bytes)?) as usize + 1,
        Marker::FixArray(len) => return skip_objects(bytes, u64::from(len)),
        Marker::Array16 => {
            let len = u16::from_be_bytes(take(bytes)?);
            return skip_objects(bytes, u64::from(len));
        }
        Marker::Array32 => {
            let len = u32::from_be_bytes(take(bytes)?);
            return skip_objects(bytes, u64::from(len));
        }
        Marker::FixMap(len) => return skip_objects(bytes, 2 * u64::from(len)),
        Marker::Map16 => {
            let len = u16::from_be_bytes(take(bytes)?);
            return skip_objects(bytes, 2 * u64::from(len));
        }
        Marker::Map32 => {
            let len = u32::from_be_bytes(take(bytes)?);
            return skip_objects(bytes, 2 * u64::from(len));
        }
        _ => return None,
    };
    *bytes = bytes.get(payload..)?;
    Some(())
}

/// The bytes behind the type byte, where that alone decides how many they are.
const fn payload(marker: Marker) -> Option<usize> {
    Some(match marker {
        Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::False | Marker::True => 0,
        Marker::U8 | Marker::I8 => 1,
        Marker::U16 | Marker::I16 | Marker::FixExt1 => 2,
        Marker::FixExt2 => 3,
        Marker::U32 | Marker::I32 | Marker::F32 => 4,
        Marker::FixExt4 => 5,
        Marker::U64 | Marker::I64 | Marker::F64 => 8,
        Marker::FixExt8 => 9,
        Marker::FixExt16 => 17,
        Marker::FixStr(len) => len as usize,
        _ => return None,
    })
}

fn skip_objects(bytes: &mut &[u8], count: u64) -> Option<()> {
    (0..count).try_for_each(|_| skip_object(bytes))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

/// Streams of about half a mebibyte, so that no branch predictor can learn one by heart.
fn streams() -> [Stream; 7] {
    const SIZE: usize = 512 << 10;
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let dice = &mut dice;
    [
        stream("rpc-16B", SIZE, dice, |to, _| {
            request(to, 0x0102_0304, "measure", &[])
        }),
        stream("rpc-varied", SIZE, dice, varied_request),
        stream("telemetry-200B", SIZE, dice, telemetry),
        stream("log-500B", SIZE, dice, log_record),
        stream("batch-1MiB", 1 << 20, dice, batch),
        stream("binary-64KiB", 8 << 16, dice, |to, _| blob(to, 64 << 10)),
        stream("binary-1MiB", 4 << 20, dice, |to, _| blob(to, 1 << 20)),
    ]
}

fn stream(
    name: &'static str,
    size: usize,
    dice: &mut Dice,
    frame: impl Fn(&mut Vec<u8>, &mut Dice),
) -> Stream {
    let (mut bytes, mut frames) = (Vec::new(), 0);
    while bytes.len() < size {
        frame(&mut bytes, dice);
        frames += 1;
    }
    Stream {
        name,
        bytes,
        frames,
    }
}

/// Where the pieces end: from a single byte up to four Ethernet segments long, as one receives them.
fn pieces(stream: &Stream) -> Vec<usize> {
    let mut dice = Dice(0xd1b5_4a32_d192_ed03);
    let (mut ends, mut end) = (Vec::new(), 0);
    while end < stream.bytes.len() {
        end = stream.bytes.len().min(end + 1 + dice.below(4 * 1448));
        ends.push(end);
    }
    ends
}

/// MessagePack-RPC: [0, id, method, parameters].
fn request(to: &mut Vec<u8>, id: u32, method: &str, parameters: &[u64]) {
    written(encode::write_array_len(to, 4));
    written(encode::write_uint(to, 0));
    written(encode::write_uint(to, u64::from(id)));
    written(encode::write_str(to, method));
    written(encode::write_array_len(to, parameters.len() as u32));
    for parameter in parameters {
        written(encode::write_uint(to, *parameter));
    }
}

fn varied_request(to: &mut Vec<u8>, dice: &mut Dice) {
    const METHODS: [&str; 8] = [
        "get",
        "set",
        "list",
        "measure",
        "start",
        "stop",
        "status",
        "calibrate",
    ];
    let id = 1 << dice.below(20);
    let parameters: Vec<u64> = (0..dice.below(4)).map(|_| 1 << dice.below(33)).collect();
    request(to, id, METHODS[dice.below(METHODS.len())], &parameters);
}

/// A map of 14 to 18 readings.
fn telemetry(to: &mut Vec<u8>, dice: &mut Dice) {
    const KEYS: [&str; 9] = [
        "temp",
        "pressure",
        "t",
        "rpm",
        "voltage",
        "ch0",
        "ch1",
        "state",
        "flow_rate",
    ];
    let entries = 14 + dice.below(5);
    written(encode::write_map_len(to, entries as u32));
    for _ in 0..entries {
        written(encode::write_str(to, KEYS[dice.below(KEYS.len())]));
        match dice.below(6) {
            0 => written(encode::write_f64(to, dice.next() as f64)),
            1 => written(encode::write_f32(to, dice.next() as f32)),
            2 => written(encode::write_uint(to, dice.next() >> dice.below(64))),
            3 => written(encode::write_sint(to, -(dice.below(40_000) as i64))),
            4 => written(encode::write_bool(to, dice.below(2) == 1)),
            _ => written(encode::write_str(
                to,
                ["ok", "warming up", "idle"][dice.below(3)],
            )),
        };
    }
}

/// Fluentd's forward protocol: [tag, time as an extension, record].
fn log_record(to: &mut Vec<u8>, dice: &mut Dice) {
    written(encode::write_array_len(to, 3));
    written(encode::write_str(to, "app.access"));
    written(encode::write_ext_meta(to, 8, 0));
    to.extend_from_slice(&dice.next().to_be_bytes());
    written(encode::write_map_len(to, 5));
    for (key, value) in [
        ("host", 9),
        ("level", 4),
        ("message", 250 + dice.below(150)),
        ("path", 20 + dice.below(60)),
    ] {
        written(encode::write_str(to, key));
        written(encode::write_str(to, &"x".repeat(value)));
    }
    written(encode::write_str(to, "request"));
    written(encode::write_map_len(to, 3));
    for key in ["status", "bytes", "micros"] {
        written(encode::write_str(to, key));
        written(encode::write_uint(to, dice.next() >> (32 + dice.below(32))));
    }
}

/// A notification with very many small objects, a good mebibyte of them.
fn batch(to: &mut Vec<u8>, dice: &mut Dice) {
    const OBJECTS: u32 = 300_000;
    written(encode::write_array_len(to, 3));
    written(encode::write_uint(to, 2));
    written(encode::write_str(to, "batch"));
    written(encode::write_array_len(to, OBJECTS));
    for _ in 0..OBJECTS {
        match dice.below(4) {
            0 => written(encode::write_str(to, ["a", "of", "longer"][dice.below(3)])),
            1 => written(encode::write_f64(to, dice.next() as f64)),
            _ => written(encode::write_uint(to, dice.next() >> (32 + dice.below(32)))),
        }
    }
}

/// A notification with a binary: [2, "blob", binary].
fn blob(to: &mut Vec<u8>, len: usize) {
    written(encode::write_array_len(to, 3));
    written(encode::write_uint(to, 2));
    written(encode::write_str(to, "blob"));
    written(encode::write_bin(to, &vec![0xc1; len]));
}

/// Writing to a vector does not fail.
fn written<T, E: std::fmt::Debug>(result: Result<T, E>) {
    assert!(result.is_ok(), "{:?}", result.err());
}

/// A fixed sequence of numbers that look random (xorshift64*), so that every run measures the same streams.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 32) as usize % end
    }
}
