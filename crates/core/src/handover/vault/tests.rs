use super::*;
use crate::proxy::Client;

fn estate() -> Estate {
    Estate {
        stored: true,
        listeners: vec![ListenerRecord {
            cookie: 7,
            name: "rpc".into(),
            bound: Some("127.0.0.1:0".into()),
            path: None,
        }],
        connections: (0..100u64)
            .map(|i| State {
                cookie: i,
                name: "rpc".into(),
                input: vec![i as u8; i as usize * 50],
                ended: i % 2 == 0,
                output: vec![0xc1; i as usize],
                session: (i % 3 == 0).then(|| serde_bytes::ByteBuf::from(vec![1, 2, 3])),
                service: "service".into(),
                client: match i % 5 {
                    1 => Some(Client::Awaited),
                    2 => Some(Client::Tcp(([192, 0, 2, 1], i as u16).into())),
                    3 => Some(Client::Tcp(([i as u16; 8], 4660).into())),
                    4 => Some(Client::Unix),
                    _ => None,
                },
            })
            .collect(),
        bequests: Vec::new(),
    }
}

fn write(estate: Estate) -> OwnedFd {
    let mut writer = Writer::new(&estate.listeners).unwrap();
    let mut records = estate.connections.into_iter();
    while records.len() > 0 {
        writer.add(records.by_ref().take(7).collect()).unwrap();
    }
    writer.leave(estate.bequests).unwrap();
    writer.finish(estate.stored).unwrap()
}

/// As a program writes it that has the whole estate in memory.
fn write_in_one_piece(estate: &Estate) -> OwnedFd {
    let body = (estate.stored, &estate.listeners, &estate.connections);
    let body = rmp_serde::to_vec(&body).unwrap();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(memfd_create("one-piece", flags).unwrap());
    file.write_all_at(&body, HEADER_BYTES as u64).unwrap();
    seal(file).unwrap()
}

fn bequest(service: &str, bytes: impl Into<Vec<u8>>) -> Bequest {
    Bequest {
        service: service.into(),
        bytes: bytes.into(),
    }
}

/// With and without connections, from nothing to more than is read at once. Attempts are counted as ever.
#[test]
fn what_services_leave_is_read_in_its_order() {
    for connections in [0, 100] {
        let full = || {
            let mut estate = estate();
            estate.connections.truncate(connections);
            let large: Vec<u8> = (0..3 * PIECE_BYTES).map(|i| (i % 251) as u8).collect();
            estate.bequests = vec![
                bequest("rpc", large),
                bequest("bus", []),
                bequest("rpc", [0xc1; 3]),
            ];
            estate
        };
        let vault = write(full());
        for _ in 0..ATTEMPTS_MAX {
            assert!(read(&vault).unwrap() == full());
        }
        assert!(matches!(read(&vault), Err(VaultError::TriedTooOften(_))));
    }
}

#[test]
fn what_services_leave_and_does_not_fit_costs_nothing_else() {
    let mut writer = Writer::new(&estate().listeners).unwrap();
    writer.add(estate().connections).unwrap();
    writer.file.set_len(writer.end + 20_000).unwrap();
    writer.forbid_growth();
    let left = vec![bequest("rpc", [1; 10]), bequest("rpc", [1; 20_000])];
    assert!(writer.leave(left).is_err());
    let vault = writer.finish(true).unwrap();
    assert_eq!(read(&vault).unwrap(), estate());
}

/// Who wrote it may not have said so.
#[test]
fn the_time_from_which_on_nobody_is_served_is_beside_the_state() {
    for hours in [1, 40 * 24] {
        let vault = write(estate());
        assert_eq!(paused(&vault), None);
        let ago = Duration::from_secs(hours * 3600);
        let since = Instant::now().checked_sub(ago).unwrap();
        note_pause(&vault, since).unwrap();
        assert_eq!(read(&vault).unwrap(), estate());
        let read = paused(&vault).unwrap();
        let apart = read.max(since).duration_since(read.min(since));
        assert!(apart < Duration::from_secs(60), "{apart:?}");
    }
}

#[test]
fn what_another_version_wrote_is_not_read() {
    for version in [0, VERSION + 1, u32::MAX] {
        let vault = write(estate());
        let file = File::from(vault.try_clone().unwrap());
        file.write_all_at(&version.to_be_bytes(), 8).unwrap();
        assert!(matches!(read(&vault), Err(VaultError::Version(found)) if found == version));
    }
}

#[test]
fn many_records_are_the_same_in_pieces_and_in_one() {
    for count in [0, 1, 15, 16, 70_000] {
        let mut estate = estate();
        estate.connections = (0..count)
            .map(|cookie| State {
                cookie,
                name: "rpc".into(),
                input: vec![0x93; cookie as usize % 5],
                ended: false,
                output: Vec::new(),
                session: None,
                service: "service".into(),
                client: None,
            })
            .collect();
        let in_one_piece = read(&write_in_one_piece(&estate)).unwrap();
        assert!(in_one_piece == estate, "{count} in one piece");
        let in_pieces = read(&write(estate)).unwrap();
        assert!(in_pieces == in_one_piece, "{count} in pieces");
    }
}

/// A frame that is larger than what is read at once, and sessions of any size.
#[test]
fn large_records_are_read_whole() {
    let estate = || {
        let mut estate = estate();
        for (index, record) in estate.connections.iter_mut().enumerate() {
            let bytes = |more: usize| vec![index as u8; (index % 10) * PIECE_BYTES / 3 + more];
            record.input = bytes(0);
            record.output = bytes(1);
            record.session = Some(bytes(2).into());
        }
        estate
    };
    assert!(read(&write(estate())).unwrap() == estate());
}

#[test]
fn connections_that_cannot_be_written_are_none() {
    let mut writer = Writer::new(&estate().listeners).unwrap();
    let mut records = estate().connections;
    let more = records.split_off(50);
    writer.add(records).unwrap();
    // There is room for some of them, but not for all.
    writer.file.set_len(writer.end + 20_000).unwrap();
    writer.forbid_growth();
    let error = writer.add(more).unwrap_err();
    // That of the file: what helps depends on it.
    assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
    let mut left = estate();
    left.connections.truncate(50);
    let bytes = writer.bytes();
    let vault = writer.finish(true).unwrap();
    assert_eq!(read(&vault).unwrap(), left);
    assert_eq!(File::from(vault).metadata().unwrap().len(), bytes);
}

#[test]
fn what_is_written_is_read_three_times_and_then_given_up() {
    let vault = write(estate());
    for _ in 0..ATTEMPTS_MAX {
        assert_eq!(read(&vault).unwrap(), estate());
    }
    assert!(matches!(
        read(&vault),
        Err(VaultError::TriedTooOften(ATTEMPTS_MAX))
    ));
}

#[test]
fn an_attempt_that_was_none_does_not_count() {
    let vault = write(estate());
    for _ in 0..3 * ATTEMPTS_MAX {
        assert_eq!(read(&vault).unwrap(), estate());
        uncount(&vault).unwrap();
    }
}

#[test]
fn what_was_taken_over_is_read_by_nobody_with_any_descriptor() {
    let vault = write(estate());
    let other = vault.try_clone().unwrap();
    assert_eq!(read(&vault).unwrap(), estate());
    spend(&vault).unwrap();
    assert!(matches!(read(&other), Err(VaultError::Spent)));
}

#[test]
fn every_changed_byte_is_noticed() {
    let mut estate = estate();
    estate.connections.truncate(3);
    estate.bequests = vec![bequest("rpc", [1, 2, 3])];
    let vault = write(estate);
    let file = File::from(vault.try_clone().unwrap());
    let size = file.metadata().unwrap().len();
    for at in (0..ATTEMPTS_AT).chain(HEADER_BYTES as u64..size) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
        file.write_all_at(&[0; 4], ATTEMPTS_AT).unwrap();
        assert!(read(&vault).is_err(), "byte {at} was changed");
        file.write_all_at(&byte, at).unwrap();
    }
    file.write_all_at(&[0; 4], ATTEMPTS_AT).unwrap();
    assert!(read(&vault).is_ok());
}

/// It may fail in the middle, although all of it was read before.
#[test]
fn what_the_kernel_says_while_it_is_decoded_is_no_damage() {
    for (errno, passes) in [(libc::ENOMEM, true), (libc::EIO, false)] {
        struct Failing(i32);
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(self.0))
            }
        }
        // Before a value, and within one.
        for begin in [&[][..], &[0x93, 0xc2, 0x91, 0x94, 0xcf, 0], &[0x93]] {
            let error = rmp_serde::from_read::<_, Estate>(begin.chain(Failing(errno)));
            let error = undecodable(error.unwrap_err());
            assert!(matches!(error, VaultError::Io(_)), "{error}");
            assert_eq!(error.may_pass(), passes);
        }
    }
    let error = undecodable(rmp_serde::from_slice::<Estate>(&[0x93, 0xc2]).unwrap_err());
    assert!(matches!(error, VaultError::Damaged(_)), "{error}");
}

#[test]
fn the_size_is_sealed_and_other_files_are_refused() {
    let vault = write(estate());
    let file = File::from(vault);
    assert!(file.set_len(10).is_err());
    assert!(file.set_len(1 << 20).is_err());
    let other = memfd_create("other", MemfdFlags::CLOEXEC).unwrap();
    assert!(matches!(read(&other), Err(VaultError::NotOurs)));
    File::from(other.try_clone().unwrap())
        .write_all(&[0; 64])
        .unwrap();
    assert!(matches!(read(&other), Err(VaultError::NotOurs)));
}
