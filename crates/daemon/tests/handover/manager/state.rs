//! What the service manager is told, and what it keeps because of it.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Condvar, Mutex, PoisonError};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

#[derive(Default)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
}

/// What the manager knows.
#[derive(Default)]
pub(crate) struct State {
    /// Every notification of the main process, in order.
    pub(crate) messages: Vec<String>,
    /// Those of other processes, which are not believed (`NotifyAccess=main`).
    pub(crate) foreign: Vec<String>,
    /// Newest first, as they are passed on.
    pub(crate) store: Vec<Stored>,
    /// `FileDescriptorStoreMax=`.
    pub(crate) store_max: usize,
    /// Names that found no place in the store.
    pub(crate) refused: Vec<String>,
    /// Reads no further from a notification with this line on, until it is `None` again.
    pub(super) stands_still_at: Option<&'static str>,
    /// It has come to one.
    pub(crate) stands_still: bool,
    /// Puts aside what it reads from a notification with this line on, until it is `None` again.
    pub(super) puts_aside_from: Option<&'static str>,
    /// What it has put aside, in order.
    aside: Vec<Notification>,
    pub(super) main_pid: Option<i32>,
    pub(super) log: String,
    pub(super) over: bool,
}

/// What was received.
struct Notification {
    text: String,
    descriptors: Vec<OwnedFd>,
    /// The process that sent it.
    sender: Option<i32>,
}

impl Notification {
    fn has(&self, line: &str) -> bool {
        self.text.lines().any(|other| other == line)
    }
}

/// One descriptor in the store.
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) fd: OwnedFd,
}

/// Reads notifications until the manager is dropped.
pub(super) fn receive_all(socket: &UnixDatagram, shared: &Shared) {
    loop {
        let mut buffer = [0; 4096];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253), ScmCredentials(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut buffer)];
        let received = recvmsg(socket, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        let mut sender = None;
        for message in ancillary.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(more) => descriptors.extend(more),
                RecvAncillaryMessage::ScmCredentials(credentials) => {
                    sender = Some(credentials.pid.as_raw_nonzero().get());
                }
                _ => {}
            }
        }
        let text = String::from_utf8_lossy(&buffer[..received.bytes]).into_owned();
        let notification = Notification {
            text,
            descriptors,
            sender,
        };
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.over
            && let Some(line) = state.stands_still_at
            && notification.has(line)
        {
            state.stands_still = true;
            let changed = shared.changed.wait(state);
            state = changed.unwrap_or_else(PoisonError::into_inner);
        }
        state.stands_still = false;
        if state.over {
            return;
        }
        state.take(notification);
        drop(state);
        shared.changed.notify_all();
    }
}

impl State {
    fn take(&mut self, notification: Notification) {
        let line = self.puts_aside_from;
        if line.is_some_and(|line| !self.aside.is_empty() || notification.has(line)) {
            self.aside.push(notification);
            return;
        }
        if notification.sender == self.main_pid {
            self.handle(&notification.text, notification.descriptors);
            self.messages.push(notification.text);
        } else {
            self.foreign.push(notification.text);
        }
    }

    /// Takes what was put aside.
    pub(super) fn take_all(&mut self) {
        self.puts_aside_from = None;
        let aside = std::mem::take(&mut self.aside);
        aside.into_iter().for_each(|one| self.take(one));
    }

    /// Whether it has put aside a notification with this line.
    pub(crate) fn has_aside(&self, line: &str) -> bool {
        self.aside.iter().any(|one| one.has(line))
    }

    fn handle(&mut self, text: &str, descriptors: Vec<OwnedFd>) {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        if value("BARRIER=") == Some("1") {
            // Alone, with one descriptor; closing that is the answer.
            assert_eq!(
                (text.lines().count(), descriptors.len()),
                (1, 1),
                "{text:?}"
            );
            return;
        }
        if value("FDSTOREREMOVE=") == Some("1") {
            let name = value("FDNAME=").expect("a name is required to remove");
            self.store.retain(|stored| stored.name != name);
        } else if value("FDSTORE=") == Some("1") {
            // Otherwise what hangs up would be dropped, which this manager does not do.
            assert_eq!(value("FDPOLL="), Some("0"), "{text:?}");
            let name = value("FDNAME=").unwrap_or("stored");
            for fd in descriptors {
                if self.store.iter().any(|stored| is_same(&stored.fd, &fd)) {
                    continue;
                }
                if self.store.len() == self.store_max {
                    self.refused.push(name.to_owned());
                    continue;
                }
                let name = name.to_owned();
                self.store.insert(0, Stored { name, fd });
            }
        }
    }

    /// The names in the store, sorted.
    pub(crate) fn stored(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .store
            .iter()
            .map(|stored| stored.name.as_str())
            .collect();
        names.sort_unstable();
        names
    }

    /// The descriptor that is stored under this name.
    pub(crate) fn find(&self, name: &str) -> &OwnedFd {
        &self
            .store
            .iter()
            .find(|stored| stored.name == name)
            .unwrap()
            .fd
    }
}

/// Whether two descriptors mean the same open file, as far as their inodes tell, which is enough for sockets, pipes and
/// files in memory.
fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    let [one, other] = [one, other].map(|fd| rustix::fs::fstat(fd).unwrap());
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}
