//! A client that writes messages by hand and reads them with another decoder.

use std::cell::RefCell;
use std::rc::Rc;

use ringhold_core::limits::Limits;
use ringhold_core::testing::{Client, Exchange};
use ringhold_core::{
    Abandoned, Ended, Flow, Frame, Peer, Refusal, Reply, RestoreError, Saved, Service, Ticket,
    TopLevel, Worker,
};
use ringhold_rpc::{Router, Rpc, Session, Strings};
use rmpv::Value;

/// A connection to a service.
pub(crate) struct Wire {
    pub(crate) exchange: Exchange,
    pub(crate) client: Client,
    ends: Ends,
}

type Ends = Rc<RefCell<Vec<String>>>;

/// The service, which also remembers why sessions ended, or were not restored.
struct Observed {
    rpc: Rpc,
    ends: Ends,
}

impl Observed {
    fn make(router: Router, strings: Strings, ends: &Ends) -> impl FnOnce(&Worker) -> Self {
        let ends = ends.clone();
        move |worker| Observed {
            rpc: Rpc::new(worker, router).strings(strings),
            ends,
        }
    }
}

impl Service for Observed {
    type Session = Session;

    const TOP_LEVEL: TopLevel = Rpc::TOP_LEVEL;

    fn connected(&mut self, peer: &Peer<'_>, reply: &mut Reply<'_>) -> Result<Session, Refusal> {
        self.rpc.connected(peer, reply)
    }

    fn frame(&mut self, session: &mut Session, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        self.rpc.frame(session, frame, reply)
    }

    fn abandoned(
        &mut self,
        session: &mut Session,
        ticket: Ticket,
        why: Abandoned,
        reply: &mut Reply<'_>,
    ) -> Flow {
        self.rpc.abandoned(session, ticket, why, reply)
    }

    fn disconnected(&mut self, session: Session, ended: &Ended<'_>) {
        self.ends.borrow_mut().push(ended.why().to_string());
        self.rpc.disconnected(session, ended);
    }

    fn save(&self, session: &Session) -> Saved {
        self.rpc.save(session)
    }

    fn restore(&mut self, peer: &Peer<'_>, saved: &[u8]) -> Result<Session, RestoreError> {
        let restored = self.rpc.restore(peer, saved);
        restored.inspect_err(|error| self.ends.borrow_mut().push(error.to_string()))
    }
}

impl Wire {
    pub(crate) fn new(router: Router) -> Self {
        Self::with(router, Strings::Current)
    }

    pub(crate) fn with(router: Router, strings: Strings) -> Self {
        let ends = Ends::default();
        let service = Observed::make(router, strings, &ends);
        let mut exchange = Exchange::with_worker(service, Limits::default());
        let client = exchange.connect();
        Wire {
            exchange,
            client,
            ends,
        }
    }

    /// The same client, whose connection went to a successor with these methods.
    pub(crate) fn hand_over(self, router: Router) -> Self {
        let service = Observed::make(router, Strings::Current, &self.ends);
        Wire {
            exchange: self.exchange.hand_over(service),
            ..self
        }
    }

    /// Sends bytes and gives the bytes that came back.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Vec<u8> {
        assert!(self.exchange.receive(self.client, bytes));
        self.exchange.take_sent(self.client)
    }

    /// What has come meanwhile.
    pub(crate) fn arrived(&mut self) -> Vec<Value> {
        self.exchange.deliver();
        read_all(&self.exchange.take_sent(self.client))
    }

    /// Sends a message and gives the messages that came back.
    pub(crate) fn send(&mut self, message: Value) -> Vec<Value> {
        read_all(&self.raw(&write(&message)))
    }

    /// Calls a method and gives its result or its error.
    pub(crate) fn call(&mut self, method: &str, params: Vec<Value>) -> Result<Value, Value> {
        let replies = self.send(request(77, method, params));
        let [Value::Array(reply)] = &replies[..] else {
            panic!("one reply is due, not {replies:?}");
        };
        assert_eq!(reply.len(), 4);
        assert_eq!(reply[0], Value::from(1));
        assert_eq!(reply[1], Value::from(77));
        match &reply[2] {
            Value::Nil => Ok(reply[3].clone()),
            error => {
                assert_eq!(reply[3], Value::Nil, "a failed call has no result");
                Err(error.clone())
            }
        }
    }

    /// The message of the error of a call.
    pub(crate) fn error(&mut self, method: &str, params: Vec<Value>) -> String {
        let error = self.call(method, params).unwrap_err();
        error.as_str().expect("the error is a message").to_owned()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.exchange.is_open(self.client)
    }

    /// Why the connections that have ended did so.
    pub(crate) fn ends(&self) -> Vec<String> {
        self.ends.borrow().clone()
    }
}

pub(crate) fn request(id: u32, method: &str, params: Vec<Value>) -> Value {
    Value::Array(vec![
        0.into(),
        id.into(),
        method.into(),
        Value::Array(params),
    ])
}

pub(crate) fn notification(method: &str, params: Vec<Value>) -> Value {
    Value::Array(vec![2.into(), method.into(), Value::Array(params)])
}

pub(crate) fn reply(id: u32, result: impl Into<Value>) -> Value {
    Value::Array(vec![1.into(), id.into(), Value::Nil, result.into()])
}

pub(crate) fn failure(id: u32, error: impl Into<Value>) -> Value {
    Value::Array(vec![1.into(), id.into(), error.into(), Value::Nil])
}

/// A map with these keys.
pub(crate) fn map(entries: &[(&str, Value)]) -> Value {
    Value::Map(
        entries
            .iter()
            .map(|(key, value)| ((*key).into(), value.clone()))
            .collect(),
    )
}

pub(crate) fn write(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).unwrap();
    bytes
}

/// Reads whole messages and nothing else.
pub(crate) fn read_all(mut bytes: &[u8]) -> Vec<Value> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        values.push(rmpv::decode::read_value(&mut bytes).expect("replies are whole messages"));
    }
    values
}
