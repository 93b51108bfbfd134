//! Listeners with a path: made, replaced, refused, removed.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use ringhold_core::inherit::Inherited;
use ringhold_core::listeners::Address;

use super::*;

fn section(path: &Path, more: &str) -> String {
    format!(
        "[sockets.rpc]\nlisten = \"unix:{}\"\n{more}",
        path.display()
    )
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path)
        .unwrap()
        .permissions()
        .mode()
        & 0o7777
}

#[test]
fn a_path_is_made_with_its_mode_and_removed_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rpc.sock");
    for (more, expected) in [
        ("", 0o660),
        ("mode = \"0600\"", 0o600),
        ("mode = \"0666\"", 0o666),
        ("mode = \"0\"", 0),
    ] {
        let listeners = opened(&section(&path, more), Inherited::none());
        assert_eq!(listeners[0].address, Address::UnixPath(path.clone()));
        assert!(close_on_exec(&listeners[0]));
        assert_eq!(mode(&path), expected, "{more}");
        assert_eq!(listeners[0].path.as_ref().unwrap().path(), path);
        if expected != 0 {
            UnixStream::connect(&path).unwrap();
        }
        assert!(listeners[0].unlink().unwrap());
        assert!(!path.exists());
        assert!(
            !listeners[0].unlink().unwrap(),
            "there is nothing left to remove"
        );
    }
}

#[test]
fn the_owner_is_set() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rpc.sock");
    let own = std::fs::metadata(directory.path()).unwrap();
    // Root may give it to anybody, others to themselves.
    let (user, group) = if own.uid() == 0 {
        (12_345, 23_456)
    } else {
        (own.uid(), own.gid())
    };
    let listeners = opened(
        &section(&path, &format!("user = {user}\ngroup = \"{group}\"")),
        Inherited::none(),
    );
    let made = std::fs::symlink_metadata(&path).unwrap();
    assert_eq!((made.uid(), made.gid(), mode(&path)), (user, group, 0o660));
    assert!(listeners[0].unlink().unwrap());
}

#[test]
fn what_a_dead_process_left_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rpc.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(
        std::fs::symlink_metadata(&path)
            .unwrap()
            .file_type()
            .is_socket()
    );
    let listeners = opened(&section(&path, ""), Inherited::none());
    UnixStream::connect(&path).unwrap();
    assert!(listeners[0].unlink().unwrap());
}

#[test]
fn what_somebody_uses_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rpc.sock");
    let refusal = |path: &Path| {
        let error = refused(&section(path, ""));
        let start = format!(
            "socket \"rpc\" cannot listen on unix:{}: another process listens there",
            path.display()
        );
        assert!(error.starts_with(&start), "{error}");
    };
    let other = UnixListener::bind(&path).unwrap();
    refusal(&path);
    other.set_nonblocking(true).unwrap();
    let seen = other.incoming().take_while(Result::is_ok).count();
    assert_eq!(seen, 1, "it is not asked over and over");
    // A connection that nobody accepts fills a backlog of zero, and the next one would wait.
    let full = directory.path().join("full.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&socket2::SockAddr::unix(&full).unwrap())
        .unwrap();
    socket.listen(0).unwrap();
    let _waiting = UnixStream::connect(&full).unwrap();
    refusal(&full);
    let datagrams = directory.path().join("datagrams.sock");
    let _other_type = UnixDatagram::bind(&datagrams).unwrap();
    refusal(&datagrams);
    // The ones of before still work.
    let client = UnixStream::connect(&path).unwrap();
    assert!(other.accept().is_ok());
    drop(client);
}

/// A server that turns everybody away looks like one that ends, and is asked again.
#[test]
fn who_turns_everybody_away_sees_few_connections() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rpc.sock");
    let other = UnixListener::bind(&path).unwrap();
    let is_over = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let is_seen = |client: &io::Result<UnixStream>| {
            assert!(client.is_ok());
            !is_over.load(Ordering::SeqCst)
        };
        let seen = scope.spawn(move || other.incoming().take_while(is_seen).count());
        let error = refused(&section(&path, ""));
        assert!(error.contains("another process listens there"), "{error}");
        is_over.store(true, Ordering::SeqCst);
        UnixStream::connect(&path).unwrap();
        seen.join().unwrap()
    });
    assert!((2..=12).contains(&seen), "{seen}");
}

#[test]
fn a_path_is_taken_as_soon_as_its_owner_leaves_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rpc.sock");
    for is_removed in [false, true] {
        // Where the machine is so busy that the owner is too late, once more.
        let is_taken = (0..10).any(|_| {
            let _ = std::fs::remove_file(&path);
            let owner = UnixListener::bind(&path).unwrap();
            let plan = planned(&section(&path, ""), Inherited::none()).unwrap();
            std::thread::scope(|scope| {
                let opened = scope.spawn(move || plan.open());
                let (client, _) = owner.accept().unwrap();
                match is_removed {
                    // It goes on with who is there, as in a stop.
                    true => std::fs::remove_file(&path).unwrap(),
                    false => drop((owner, client)),
                }
                opened.join().unwrap().is_ok()
            })
        });
        assert!(is_taken, "{is_removed}");
    }
}

#[test]
fn what_is_not_a_socket_is_never_removed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let folder = directory.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    // Not even a link to a socket that nobody uses.
    let stale = directory.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let link = directory.path().join("link");
    symlink(&stale, &link).unwrap();
    for path in [&file, &folder, &link] {
        let error = refused(&section(path, ""));
        assert!(
            error.contains("something that is not a socket is in the way; it is not removed"),
            "{error}"
        );
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert!(
        folder.is_dir() && std::fs::symlink_metadata(&link).unwrap().is_symlink() && stale.exists()
    );
}

#[test]
fn a_missing_directory_is_an_error_that_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let error = refused(&section(&missing.join("rpc.sock"), ""));
    assert!(
        error.contains(&format!(
            "the directory {} does not exist; create it",
            missing.display()
        )),
        "{error}"
    );
}

#[test]
fn a_path_that_is_not_ours_any_more_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rpc.sock");
    let listeners = opened(&section(&path, ""), Inherited::none());
    std::fs::remove_file(&path).unwrap();
    let successor = UnixListener::bind(&path).unwrap();
    assert!(!listeners[0].unlink().unwrap());
    assert!(path.exists());
    drop(successor);
}

#[test]
fn a_failure_removes_the_paths_that_were_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rpc.sock");
    let text = section(
        &path,
        "[sockets.x]\nservice = \"rpc\"\nlisten = \"unix:/nonexistent/x.sock\"",
    );
    let error = refused(&text);
    assert!(
        error.starts_with("socket \"x\" cannot listen on unix:/nonexistent/x.sock: "),
        "{error}"
    );
    assert!(!path.exists());
}

#[test]
fn the_longest_path_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let length = 107 - directory.path().as_os_str().len() - 1;
    let path = directory.path().join("x".repeat(length));
    let listeners = opened(&section(&path, ""), Inherited::none());
    assert_eq!(listeners[0].address, Address::UnixPath(path.clone()));
    UnixStream::connect(&path).unwrap();
    assert!(listeners[0].unlink().unwrap());
}

#[test]
fn a_plan_touches_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rpc.sock");
    drop(UnixListener::bind(&path).unwrap());
    let before = std::fs::symlink_metadata(&path).unwrap();
    let plan = planned(&section(&path, ""), Inherited::none()).unwrap();
    assert!(plan.table().to_string().contains("would bind"));
    drop(plan);
    let after = std::fs::symlink_metadata(&path).unwrap();
    assert_eq!(
        (before.ino(), before.ctime_nsec()),
        (after.ino(), after.ctime_nsec())
    );
}
