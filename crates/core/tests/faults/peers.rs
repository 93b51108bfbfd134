//! Who is at the other end.

use std::io::Write;
use std::net::Shutdown;

use ringhold_core::{Credentials, Flow, Frame, Peer, Refusal, Reply, Service};

use crate::bed::{Bed, Engine};
use crate::common::client;

/// Answers with who it was at first, and who it is now.
struct Who;

fn text(who: Option<Credentials>) -> String {
    match who {
        Some(Credentials { pid, uid, gid }) => format!("{pid:?} {uid} {gid}\n"),
        None => "nobody\n".to_owned(),
    }
}

impl Service for Who {
    type Session = String;

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<String, Refusal> {
        Ok(text(peer.credentials().unwrap()))
    }

    fn frame(&mut self, first: &mut String, _: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let now = text(reply.peer().credentials().unwrap());
        reply.write(|out| out.extend_from_slice(format!("{first}{now}").as_bytes()));
        Flow::Continue
    }
}

pub(crate) fn peers_on_unix_sockets_are_known(engine: Engine) {
    let config = "workers = 2
        [sockets.who]
        listen = [\"unix:@/who.sock\", \"127.0.0.1:0\"]";
    let bed = Bed::start(engine, config, |server| server.service("who", |_| Who));
    let ourselves = text(Some(Credentials {
        pid: Some(std::process::id()),
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    }));
    for _ in 0..4 {
        let mut unix = bed.connect_unix("who.sock");
        unix.write_all(&[1, 1]).unwrap();
        // They stay known when they say no more.
        unix.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client::rest(&mut unix), ourselves.repeat(4).as_bytes());
        let mut tcp = bed.connect("who");
        tcp.write_all(&[1]).unwrap();
        tcp.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client::rest(&mut tcp), b"nobody\nnobody\n");
    }
    bed.finish();
}
