//! The predecessor's side: from listeners and parcels to the descriptors that the successor wakes up with.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::net::sockopt::socket_cookie;
use serde_bytes::ByteBuf;

use super::carton::Carton;
use super::parcel::Parcel;
use super::vault::{self, ConnectionRecord, Estate, ListenerRecord};
use crate::listeners::{Listener, Origin};

/// The names of the handover's own descriptors.
pub(crate) const STATE: &str = "ringhold.state";
pub(crate) const OUTLET: &str = "ringhold.outlet";
pub(crate) const INLET: &str = "ringhold.inlet";

/// What carries the descriptors and the state.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) vault: OwnedFd,
    pub(crate) carton: Carton,
    /// Connections in it.
    pub(crate) connections: usize,
}

impl Package {
    /// The descriptors with their names, in the order in which they are passed.
    pub(crate) fn descriptors(&self) -> [(&'static str, BorrowedFd<'_>); 3] {
        [
            (STATE, self.vault.as_fd()),
            (OUTLET, self.carton.outlet.as_fd()),
            (INLET, self.carton.inlet.as_fd()),
        ]
    }
}

/// Packs the connections, and the listeners that we bound ourselves; inherited ones are the service manager's, or are
/// passed on under their own names. `stored` says whether the service manager will keep the package.
///
/// # Errors
///
/// That the kernel takes no more descriptors in flight or no more memory. The connections are lost then.
pub(crate) fn pack(
    listeners: &[Arc<Listener>],
    parcels: Vec<Parcel>,
    stored: bool,
) -> io::Result<Package> {
    let carton = Carton::new()?;
    let mut estate = Estate {
        stored,
        ..Estate::default()
    };
    let bound: Vec<&Arc<Listener>> = listeners
        .iter()
        .filter(|listener| matches!(listener.origin, Origin::Bound { .. }))
        .collect();
    for listener in listeners {
        estate.listeners.push(listener_record(listener)?);
    }
    let connections = parcels.len();
    let sockets: Vec<OwnedFd> = parcels
        .into_iter()
        .map(|parcel| {
            let cookie = socket_cookie(&parcel.socket)?;
            estate.connections.push(ConnectionRecord {
                cookie,
                name: parcel.name,
                input: parcel.input.into(),
                ended: parcel.ended,
                output: parcel.output.into(),
                session: parcel
                    .session
                    .map(|session| ByteBuf::from(Vec::from(session))),
            });
            Ok(parcel.socket)
        })
        .collect::<io::Result<_>>()?;
    let descriptors: Vec<BorrowedFd<'_>> = bound
        .iter()
        .map(|listener| listener.socket.as_fd())
        .chain(sockets.iter().map(AsFd::as_fd))
        .collect();
    carton.put(&descriptors)?;
    Ok(Package {
        vault: vault::write(&estate)?,
        carton,
        connections,
    })
}

fn listener_record(listener: &Listener) -> io::Result<ListenerRecord> {
    Ok(ListenerRecord {
        cookie: socket_cookie(&listener.socket)?,
        name: listener.name.to_string(),
        bound: match &listener.origin {
            Origin::Bound { listen } => Some(listen.to_string()),
            Origin::Inherited { .. } => None,
        },
        path: listener.path.as_ref().map(|path| path.to_record()),
    })
}
