//! The other end.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, sockopt_impl};
use socket2::{Domain, SockRef, Socket, Type};

use super::PATIENCE;

/// A connection that sends each write at once and gives up reading or writing only where a test hangs.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    prepare(&stream);
    stream
}

/// As [`connect`], from this address of ours.
pub(crate) fn connect_from(ip: IpAddr, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(ip, 0).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    prepare(&stream);
    stream
}

/// As [`connect`], with a receive buffer as small as the kernel allows: the peer feels early that nobody reads.
pub(crate) fn connect_narrow(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    // Before connecting, so that the window that is offered fits.
    socket.set_recv_buffer_size(1).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    prepare(&stream);
    stream
}

fn prepare(stream: &TcpStream) {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
}

pub(crate) fn connect_unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether all that was sent has arrived, or, over a unix socket, was taken by the peer.
pub(crate) fn has_taken_all(stream: &impl AsFd) -> bool {
    let [_, _, allocated, _, _, queued, ..] = getsockopt(stream, MemoryInfo).unwrap();
    allocated + queued == 0
}

sockopt_impl!(
    /// What a socket uses (SO_MEMINFO), as in sock_diag(7).
    MemoryInfo,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_MEMINFO,
    [u32; 9]
);

/// Closes with a reset instead of an orderly end.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// Reads exactly what is expected next.
pub(crate) fn expect(stream: &mut impl Read, expected: &[u8]) {
    let mut buffer = vec![0; expected.len().min(256 * 1024)];
    let mut done = 0;
    while done < expected.len() {
        let room = buffer.len().min(expected.len() - done);
        match read(stream, &mut buffer[..room]) {
            Ok(0) => panic!("the end came after {done} of {} bytes", expected.len()),
            Ok(count) => {
                let wrong = (0..count).find(|i| buffer[*i] != expected[done + i]);
                assert_eq!(wrong.map(|i| done + i), None, "position of a wrong byte");
                done += count;
            }
            Err(error) => panic!("after {done} of {} bytes: {error}", expected.len()),
        }
    }
}

/// Reads what there is, once there is something. A process that is stopped and goes on is interrupted.
pub(crate) fn read(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Reads an answer, whatever it is.
pub(crate) fn expect_some(stream: &mut TcpStream) {
    assert_ne!(
        read(stream, &mut [0; 256]).unwrap(),
        0,
        "the end came instead"
    );
}

/// Reads up to the end, in whatever way it comes.
pub(crate) fn drain(stream: &mut impl Read) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(1..) = read(stream, &mut buffer) {}
}

/// Reads until the end, which must be orderly.
pub(crate) fn rest(stream: &mut impl Read) -> Vec<u8> {
    let mut rest = Vec::new();
    if let Err(error) = stream.read_to_end(&mut rest) {
        panic!("no orderly end after {} bytes: {error}", rest.len());
    }
    rest
}

/// Expects the orderly end, and nothing before it.
pub(crate) fn expect_end(stream: &mut impl Read) {
    let rest = rest(stream);
    assert!(rest.is_empty(), "{} bytes too many", rest.len());
}

/// Sends all of `request` and expects all of `answer`, both at the same time, so that neither side has to hold it all.
pub(crate) fn exchange<S>(stream: &S, request: &[u8], answer: &[u8])
where
    S: Sync,
    for<'a> &'a S: Read + Write,
{
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = stream;
            writer.write_all(request).unwrap();
        });
        let mut reader = stream;
        expect(&mut reader, answer);
    });
}
