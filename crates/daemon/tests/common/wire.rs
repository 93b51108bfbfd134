//! Clients of which a test sees every byte.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use ringhold_client::{Address, Client, Options};
use rmpv::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use super::PATIENCE;

/// A connection, TCP or unix.
pub(crate) struct Wire {
    pub(crate) socket: Socket,
    received: Vec<u8>,
}

impl Wire {
    pub(crate) fn connect(address: &Address) -> Self {
        Self::connect_with(address, |_| {})
    }

    pub(crate) fn connect_with(address: &Address, prepare: impl FnOnce(&Socket)) -> Self {
        let (domain, address) = match address {
            Address::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
            Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path).unwrap()),
            other => panic!("{other} is neither TCP nor a path"),
        };
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        prepare(&socket);
        socket.connect(&address).unwrap();
        if domain != Domain::UNIX {
            socket.set_tcp_nodelay(true).unwrap();
        }
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Wire {
            socket,
            received: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    pub(crate) fn finish_sending(&mut self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    /// The next whole object.
    pub(crate) fn value(&mut self) -> Value {
        loop {
            let mut rest = &self.received[..];
            if !rest.is_empty()
                && let Ok(value) = rmpv::decode::read_value(&mut rest)
            {
                let used = self.received.len() - rest.len();
                self.received.drain(..used);
                return value;
            }
            self.receive();
        }
    }

    /// Waits for more.
    fn receive(&mut self) {
        let mut buffer = [0; 64 * 1024];
        let length = loop {
            match self.socket.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                length => break length.unwrap(),
            }
        };
        assert!(length > 0, "the connection ended after {:?}", self.received);
        self.received.extend_from_slice(&buffer[..length]);
    }

    /// The next reply: its id, and its result or its error.
    pub(crate) fn reply(&mut self) -> (u64, Result<Value, Value>) {
        let reply = self.value();
        match reply.as_array().map(Vec::as_slice) {
            Some([kind, id, error, result]) if kind.as_u64() == Some(1) => {
                let answer = if error.is_nil() {
                    Ok(result.clone())
                } else {
                    Err(error.clone())
                };
                (id.as_u64().unwrap(), answer)
            }
            _ => panic!("{reply} is no reply"),
        }
    }

    /// The next so many bytes.
    pub(crate) fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            self.receive();
        }
        self.received.drain(..count).collect()
    }

    /// Everything up to the end of the stream, which must come without an error.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.received);
        self.socket.read_to_end(&mut rest).unwrap();
        rest
    }

    /// Whether the connection has ended, in whatever way.
    pub(crate) fn is_over(&mut self) -> bool {
        !matches!(self.socket.read(&mut [0]), Ok(1..))
    }

    /// Calls `ping`, and whether an answer comes instead of the connection's end.
    pub(crate) fn is_served(&mut self) -> bool {
        if self.socket.write_all(&request(0, "ping", &[])).is_err() {
            return false;
        }
        let mut received = [0; 9];
        match self.socket.read_exact(&mut received) {
            Ok(()) => {
                assert_eq!(&received, b"\x94\x01\x00\xc0\xa4pong");
                true
            }
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::WouldBlock, "neither");
                false
            }
        }
    }

    /// Asks for the server's counters on this connection: unlike one that only asks, it is not still there or gone already.
    pub(crate) fn status(&mut self) -> Value {
        self.send(&request(u32::MAX, "status", &[]));
        let (id, status) = self.reply();
        assert_eq!(id, u64::from(u32::MAX));
        status.unwrap()
    }

    /// One counter of one socket name, over all workers, asked for on this connection.
    pub(crate) fn counter(&mut self, socket: &str, counter: &str) -> u64 {
        counter_in(&self.status(), socket, counter)
    }

    /// Calls `echo` and checks the answer.
    pub(crate) fn echo(&mut self, id: u32, number: u64) {
        self.send(&request(id, "echo", &[number.into()]));
        assert_eq!(self.reply(), (u64::from(id), Ok(number.into())));
    }
}

pub(crate) fn request(id: u32, method: &str, params: &[Value]) -> Vec<u8> {
    let message = vec![
        0.into(),
        id.into(),
        method.into(),
        Value::Array(params.to_vec()),
    ];
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &Value::Array(message)).unwrap();
    bytes
}

/// A client that does not wait for ever.
pub(crate) fn connect(address: &Address) -> Client {
    let options = Options {
        connect_timeout: Some(PATIENCE),
        call_timeout: Some(PATIENCE),
        ..Options::default()
    };
    Client::connect(address, options).unwrap()
}

/// One counter of one socket name, over all workers, asked for on a connection of its own.
pub(crate) fn counter(address: &Address, socket: &str, counter: &str) -> u64 {
    let encoded = connect(address).call_raw("status", &[0x90]).unwrap();
    let status = rmpv::decode::read_value(&mut &encoded[..]).unwrap();
    counter_in(&status, socket, counter)
}

fn counter_in(status: &Value, socket: &str, counter: &str) -> u64 {
    let names = field(status, "names");
    field(field(names, socket), counter).as_u64().unwrap()
}

pub(crate) fn field<'a>(map: &'a Value, name: &str) -> &'a Value {
    let entries = map.as_map().unwrap_or_else(|| panic!("{map} is no map"));
    let found = entries.iter().find(|(key, _)| key.as_str() == Some(name));
    &found.unwrap_or_else(|| panic!("no {name} in {map}")).1
}
