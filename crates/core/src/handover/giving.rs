//! The predecessor's side: from listeners and parcels to the descriptors that the successor wakes up with.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::net::sockopt::socket_cookie;
use serde_bytes::ByteBuf;

use super::carton::{BATCH, Carton};
use super::parcel::Parcel;
use super::vault::{self, ConnectionRecord, ListenerRecord};
use crate::heap;
use crate::listeners::{Listener, Origin};

/// The names of the handover's own descriptors.
pub(crate) const STATE: &str = "ringhold.state";
pub(crate) const OUTLET: &str = "ringhold.outlet";
pub(crate) const INLET: &str = "ringhold.inlet";

/// Each time that so much has gone into the file, the memory that it took before is given back to the system.
const GIVE_BACK_BYTES: u64 = 64 * 1024 * 1024;

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
    let records: Vec<ListenerRecord> = listeners
        .iter()
        .map(|listener| listener_record(listener))
        .collect::<io::Result<_>>()?;
    let mut vault = vault::Writer::new(stored, &records)?;
    let bound: Vec<BorrowedFd<'_>> = listeners
        .iter()
        .filter(|listener| matches!(listener.origin, Origin::Bound { .. }))
        .map(|listener| listener.socket.as_fd())
        .collect();
    carton.put(&bound)?;
    let connections = parcels.len();
    let mut given_back = 0;
    let mut parcels = parcels.into_iter();
    while parcels.len() > 0 {
        let (sockets, records) = take_apart(parcels.by_ref().take(BATCH))?;
        let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        carton.put(&descriptors)?;
        vault.add(records)?;
        if vault.bytes() - given_back > GIVE_BACK_BYTES {
            heap::give_back();
            given_back = vault.bytes();
        }
    }
    Ok(Package {
        vault: vault.finish()?,
        carton,
        connections,
    })
}

/// The sockets of some parcels, and what is to be known of them.
fn take_apart(
    parcels: impl Iterator<Item = Parcel>,
) -> io::Result<(Vec<OwnedFd>, Vec<ConnectionRecord>)> {
    let (mut sockets, mut records) = (Vec::new(), Vec::new());
    for parcel in parcels {
        records.push(ConnectionRecord {
            cookie: socket_cookie(&parcel.socket)?,
            name: parcel.name,
            input: parcel.input.into(),
            ended: parcel.ended,
            output: parcel.output.into(),
            session: parcel
                .session
                .map(|session| ByteBuf::from(Vec::from(session))),
        });
        sockets.push(parcel.socket);
    }
    Ok((sockets, records))
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
