//! Users and groups by name.

use std::io;

use nix::unistd::{Group, User};

use super::StartProblem;
use crate::config::{Id, SocketConfig};
use crate::rlimit;

/// Who is to own a unix socket; none leaves it as it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Owners {
    pub(super) user: Option<u32>,
    pub(super) group: Option<u32>,
}

/// Looks up the owners that section `socket` names (getpwnam(3), getgrnam(3)).
pub(super) fn owners(socket: &str, config: &SocketConfig) -> Result<Owners, StartProblem> {
    let user = config.user.as_ref().map(|id| {
        number(socket, "user", id, |name| {
            Ok(User::from_name(name)?.map(|user| user.uid.as_raw()))
        })
    });
    let group = config.group.as_ref().map(|id| {
        number(socket, "group", id, |name| {
            Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
        })
    });
    Ok(Owners {
        user: user.transpose()?,
        group: group.transpose()?,
    })
}

fn number(
    socket: &str,
    key: &str,
    id: &Id,
    look_up: impl FnOnce(&str) -> nix::Result<Option<u32>>,
) -> Result<u32, StartProblem> {
    let name = match id {
        Id::Number(number) => return Ok(*number),
        Id::Name(name) => name,
    };
    let reason = match look_up(name) {
        Ok(Some(number)) => return Ok(number),
        Ok(None) => format!("there is no such {key} on this machine"),
        Err(error) => {
            let error = io::Error::from(error);
            format!("it cannot be looked up ({error}){}", rlimit::advice(&error))
        }
    };
    Err(StartProblem::Owner {
        socket: socket.to_owned(),
        what: format!("{key} {name:?}"),
        reason,
    })
}
