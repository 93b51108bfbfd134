//! The blocking client.

use std::io;
use std::time::{Duration, Instant};

use ringhold_framer::Limits;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::envelope::{self, NIL};
use crate::error::Refused;
use crate::link::{Link, Step};
use crate::mail::Mail;
use crate::message::{Message, Notification, Reply};
use crate::params::{self, Checker};
use crate::stream::Stream;
use crate::{Address, CallError, Envelope};

/// How a [`Client`] behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long connecting may take, for each address that a host name has. 5 seconds; `None` leaves it to the system.
    pub connect_timeout: Option<Duration>,
    /// How long one operation may take: a call from its first byte to its reply, a wait for a
    /// message, the sending of a request. 30 seconds; `None` waits for ever.
    pub call_timeout: Option<Duration>,
    /// What a frame from the server may cost. 16 MiB and 128 levels; a larger one loses the connection. What is sent may be
    /// as deep, since a server usually takes no more.
    pub limits: Limits,
    /// How much memory received messages may hold that nobody has taken yet, in bytes. 64 MiB; a server that
    /// pushes more than that loses the connection.
    pub queue_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Some(Duration::from_secs(5)),
            call_timeout: Some(Duration::from_secs(30)),
            limits: Limits::default(),
            queue_bytes: 64 << 20,
        }
    }
}

/// One connection to a MessagePack-RPC server, for one thread.
///
/// Each operation waits until it is done or its [time](Options::call_timeout) is over. After an
/// error that [is fatal](CallError::is_fatal) the messages that came before it can still be received. Every other operation
/// answers with the reason from then on: [`CallError::Closed`] if the server had ended the connection in order, else
/// [`CallError::Cut`].
#[derive(Debug)]
pub struct Client {
    address: Address,
    options: Options,
    /// `Err` once the connection is gone.
    link: Result<Link, Gone>,
    /// What is wrong with what was received last. It ends the connection when somebody waits for more than came before it.
    refused: Option<Refused>,
    mail: Mail,
    checker: Checker,
}

/// How a connection came to its end, and why.
#[derive(Clone, Debug)]
enum Gone {
    /// In order.
    Closed(String),
    /// Otherwise.
    Cut(String),
}

impl Client {
    /// Connects to a server.
    ///
    /// # Errors
    /// [`CallError::Connect`] when no address of the server answers in time.
    pub fn connect(address: &Address, options: Options) -> Result<Self, CallError> {
        let link = Stream::connect(address, options.connect_timeout)
            .and_then(|stream| Link::new(stream, options.limits))
            .map_err(|source| CallError::Connect {
                address: address.clone(),
                source,
            })?;
        Ok(Self {
            address: address.clone(),
            checker: Checker::new(options.limits),
            mail: Mail::new(options.queue_bytes),
            options,
            link: Ok(link),
            refused: None,
        })
    }

    /// The server.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Sets how long each operation may take from now on, as [`Options::call_timeout`] does; `None` waits for ever.
    pub fn set_call_timeout(&mut self, timeout: Option<Duration>) {
        self.options.call_timeout = timeout;
    }

    /// How many requests are waiting for a reply that somebody wants.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.mail.outstanding()
    }

    /// Calls a method and waits for its result.
    ///
    /// The parameters are a tuple, an array or a slice; `()` and `None` send none. Structs inside are
    /// sent as maps, which is what servers in other languages expect. Binary data is `Bytes` or a `ByteBuf`
    /// of [serde_bytes](https://docs.rs/serde_bytes), and `(data,)` if it is the only parameter; a `Vec<u8>`
    /// is a list of numbers, and alone it is one parameter for each byte.
    ///
    /// What else arrives meanwhile is kept for [`receive`](Self::receive) and
    /// [`next_message`](Self::next_message).
    ///
    /// # Errors
    /// [`CallError::Remote`] with the error that the server answered with,
    /// [`CallError::Result`] when the result is not an `R`, and every other kind but
    /// [`CallError::Connect`] and [`CallError::NothingOutstanding`].
    pub fn call<P, R>(&mut self, method: &str, params: &P) -> Result<R, CallError>
    where
        P: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let params = params::encode(params)?;
        self.call_reply(method, &params)?.decode()
    }

    /// Calls a method with encoded parameters, one msgpack array, and waits for the encoded result.
    ///
    /// # Errors
    /// As for [`call`](Self::call).
    pub fn call_raw(&mut self, method: &str, params: &[u8]) -> Result<Vec<u8>, CallError> {
        Ok(self.call_reply(method, params)?.result?)
    }

    fn call_reply(&mut self, method: &str, params: &[u8]) -> Result<Reply, CallError> {
        let deadline = self.deadline();
        let id = self.post(method, params)?;
        self.flush(deadline, "room for the request")
            .and_then(|()| self.reply_to(id, deadline))
            .inspect_err(|_| self.mail.give_up(id))
    }

    /// Sends a notification, which the server does not answer.
    ///
    /// # Errors
    /// [`CallError::Params`], [`CallError::Timeout`] when the server takes nothing, and the fatal ones.
    pub fn notify<P: Serialize + ?Sized>(
        &mut self,
        method: &str,
        params: &P,
    ) -> Result<(), CallError> {
        self.notify_raw(method, &params::encode(params)?)
    }

    /// Sends a notification with encoded parameters, one msgpack array.
    ///
    /// # Errors
    /// As for [`notify`](Self::notify).
    pub fn notify_raw(&mut self, method: &str, params: &[u8]) -> Result<(), CallError> {
        self.checker.params(params).map_err(CallError::Params)?;
        let out = &mut self.sending()?.out;
        envelope::begin_notification(out, method.as_bytes());
        out.extend_from_slice(params);
        self.flush(self.deadline(), "room for the notification")
    }

    /// Sends a request and does not wait for the reply. Returns its id, which the [`Reply`] carries.
    ///
    /// # Errors
    /// [`CallError::Params`], [`CallError::Timeout`] when the server takes nothing, and the fatal ones.
    pub fn send<P: Serialize + ?Sized>(
        &mut self,
        method: &str,
        params: &P,
    ) -> Result<u32, CallError> {
        self.send_raw(method, &params::encode(params)?)
    }

    /// Sends a request with encoded parameters, one msgpack array, and does not wait for the reply.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn send_raw(&mut self, method: &str, params: &[u8]) -> Result<u32, CallError> {
        let id = self.post(method, params)?;
        self.flush(self.deadline(), "room for the request")
            .inspect_err(|_| self.mail.give_up(id))?;
        Ok(id)
    }

    /// Waits for the next reply to any request that was [sent](Self::send), in the order in which
    /// the server answers.
    ///
    /// # Errors
    /// [`CallError::NothingOutstanding`], [`CallError::Timeout`] and the fatal ones. An error of the
    /// server is in [`Reply::result`].
    pub fn receive(&mut self) -> Result<Reply, CallError> {
        let look = |mail: &mut Mail| match mail.take(|message| matches!(message, Message::Reply(_)))
        {
            Some(Message::Reply(reply)) => Ok(Some(reply)),
            _ if mail.outstanding() == 0 => Err(CallError::NothingOutstanding),
            _ => Ok(None),
        };
        self.wait_for(self.deadline(), look)?
            .ok_or_else(|| self.timeout("reply"))
    }

    /// Waits for the reply to one request that was [sent](Self::send).
    ///
    /// # Errors
    /// As for [`receive`](Self::receive). After a time-out the reply can still be waited for.
    pub fn receive_reply(&mut self, id: u32) -> Result<Reply, CallError> {
        self.reply_to(id, self.deadline())
    }

    /// Waits for the next message of any kind: a reply, a notification or a request of the server.
    ///
    /// # Errors
    /// [`CallError::Timeout`] and the fatal ones.
    pub fn next_message(&mut self) -> Result<Message, CallError> {
        let deadline = self.deadline();
        self.next_until(deadline)?
            .ok_or_else(|| self.timeout("message"))
    }

    /// The next message of any kind if there is one within the time given, which may be zero.
    ///
    /// # Errors
    /// The fatal ones.
    pub fn next_message_within(&mut self, wait: Duration) -> Result<Option<Message>, CallError> {
        self.next_until(Instant::now().checked_add(wait))
    }

    /// Takes a notification that has already arrived; does not wait and does not read.
    pub fn take_notification(&mut self) -> Option<Notification> {
        match self
            .mail
            .take(|message| matches!(message, Message::Notification(_)))
        {
            Some(Message::Notification(notification)) => Some(notification),
            _ => None,
        }
    }

    /// Answers a [request](Message::Request) of the server: with an encoded result, or with an
    /// encoded error, which must not be nil.
    ///
    /// # Errors
    /// [`CallError::Params`] when the value is not one msgpack object or the error is nil,
    /// [`CallError::Timeout`] when the server takes nothing, and the fatal ones.
    pub fn respond(&mut self, id: u32, answer: Result<&[u8], &[u8]>) -> Result<(), CallError> {
        let (Ok(value) | Err(value)) = answer;
        self.checker.object(value).map_err(CallError::Params)?;
        if answer == Err(&[NIL]) {
            return Err(CallError::Params(
                "an error that is nil says that there is none".to_owned(),
            ));
        }
        let out = &mut self.sending()?.out;
        envelope::begin_response(out, id);
        match answer {
            Ok(result) => {
                out.push(NIL);
                out.extend_from_slice(result);
            }
            Err(error) => {
                out.extend_from_slice(error);
                out.push(NIL);
            }
        }
        self.flush(self.deadline(), "room for the response")
    }

    /// Ends the sending side: the server reads its end of stream, and the replies to what was sent
    /// can still be received. Whatever would send something from then on answers
    /// [`CallError::SendingEnded`]; ending again does nothing.
    ///
    /// # Errors
    /// [`CallError::Timeout`] when the server does not take what is still to be sent, and the fatal ones.
    pub fn finish_sending(&mut self) -> Result<(), CallError> {
        let deadline = self.deadline();
        self.flush(deadline, "room for what was to be sent")?;
        let link = self.open()?;
        if !link.is_shut() {
            link.shut_write();
        }
        self.flush(deadline, "end of sending")
    }

    /// Ends the connection in order: ends the sending side and waits, all in all as long as one call
    /// may take, until the server has ended its own. What still comes is read and dropped.
    ///
    /// Just dropping a client can cut off what the server has not read yet. That it ends its side in
    /// order means that it has read to the end, or wants no more of it; not that it agreed.
    ///
    /// # Errors
    /// [`CallError::Cut`] when the connection ends otherwise, [`CallError::Timeout`], and the other
    /// fatal ones.
    pub fn finish(mut self) -> Result<(), CallError> {
        let deadline = self.deadline();
        self.finish_sending()?;
        loop {
            match self.next_until(deadline) {
                Ok(Some(_)) if !is_over(deadline) => {}
                Ok(_) => return Err(self.timeout("end of the connection")),
                Err(CallError::Closed { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.options
            .call_timeout
            .and_then(|limit| Instant::now().checked_add(limit))
    }

    fn timeout(&self, what: &'static str) -> CallError {
        let after = self.options.call_timeout.unwrap_or_default();
        CallError::Timeout {
            address: self.address.clone(),
            after,
            what,
        }
    }

    fn open(&mut self) -> Result<&mut Link, CallError> {
        match &mut self.link {
            Ok(link) => Ok(link),
            Err(gone) => Err(gone.clone().at(&self.address)),
        }
    }

    /// The connection, if anything can still be sent on it.
    fn sending(&mut self) -> Result<&mut Link, CallError> {
        if self.open()?.is_shut() {
            let address = self.address.clone();
            return Err(CallError::SendingEnded { address });
        }
        self.open()
    }

    /// Appends a request to what is to be sent and notes its id.
    fn post(&mut self, method: &str, params: &[u8]) -> Result<u32, CallError> {
        self.checker.params(params).map_err(CallError::Params)?;
        self.sending()?;
        let id = self.mail.post();
        let out = &mut self.sending()?.out;
        envelope::begin_request(out, id, method.as_bytes());
        out.extend_from_slice(params);
        Ok(id)
    }

    fn flush(&mut self, deadline: Option<Instant>, what: &'static str) -> Result<(), CallError> {
        self.open()?.write();
        let mut in_time = true;
        while !self.open()?.is_flushed() {
            if !in_time {
                return Err(self.timeout(what));
            }
            in_time = self.collect(deadline)?;
        }
        Ok(())
    }

    fn reply_to(&mut self, id: u32, deadline: Option<Instant>) -> Result<Reply, CallError> {
        let wanted = |message: &Message| matches!(message, Message::Reply(reply) if reply.id == id);
        let look = |mail: &mut Mail| match mail.take(wanted) {
            Some(Message::Reply(reply)) => Ok(Some(reply)),
            _ if !mail.is_outstanding(id) => Err(CallError::NothingOutstanding),
            _ => Ok(None),
        };
        self.wait_for(deadline, look)?
            .ok_or_else(|| self.timeout("reply"))
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Result<Option<Message>, CallError> {
        self.wait_for(deadline, |mail| Ok(mail.take(|_| true)))
    }

    /// Collects messages until `look` finds something among them. Nothing when the deadline is over.
    fn wait_for<T>(
        &mut self,
        deadline: Option<Instant>,
        mut look: impl FnMut(&mut Mail) -> Result<Option<T>, CallError>,
    ) -> Result<Option<T>, CallError> {
        let mut in_time = true;
        loop {
            match look(&mut self.mail) {
                Ok(None) => {}
                // If the connection is gone, that is the reason.
                Err(error) => return self.open().and(Err(error)),
                found => return found,
            }
            if !in_time {
                return Ok(None);
            }
            in_time = self.collect(deadline)?;
        }
    }

    /// Moves bytes in either direction, waiting for that once, and queues the messages that are
    /// whole. False when the deadline is over: it is looked at when nothing moves, and after every
    /// message, since a server that is always ahead gives no reason to wait.
    ///
    /// # Errors
    /// The fatal ones. A message that is refused is an error of the next call: those before it were queued by this one, and
    /// nobody has looked at them yet.
    fn collect(&mut self, deadline: Option<Instant>) -> Result<bool, CallError> {
        if let Some(refused) = self.refused.take() {
            return Err(self.refuse(refused));
        }
        let step = self.open()?.step(deadline);
        match step.map_err(|source| self.fail(source))? {
            Step::TimedOut => return Ok(false),
            Step::Ended => return Err(self.ended()),
            Step::Moved => {}
        }
        let mut any = false;
        while let Some(verdict) = self.next_frame()? {
            if let Err(refused) = verdict {
                self.refused = Some(refused);
                return Ok(true);
            }
            any = true;
        }
        Ok(!any || !is_over(deadline))
    }

    /// Queues the message of the next whole frame. The inner error is the server's.
    fn next_frame(&mut self) -> Result<Option<Result<(), Refused>>, CallError> {
        let limits = self.options.limits;
        let frame = match self.open()?.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(None),
            Err(error) => return Ok(Some(Err(Refused::frame(error, &limits)))),
        };
        let message = match Envelope::parse(frame) {
            Ok(envelope) => Message::from(envelope),
            Err(error) => return Ok(Some(Err(Refused::Violation(error.to_string())))),
        };
        Ok(Some(self.mail.accept(message)))
    }

    fn refuse(&mut self, refused: Refused) -> CallError {
        let address = self.address.clone();
        match refused {
            Refused::Violation(what) => {
                let reason = format!("the server did not follow the protocol: received {what}");
                self.link = Err(Gone::Cut(reason));
                CallError::Violation { address, what }
            }
            Refused::Limit(exceeded) => {
                self.link = Err(Gone::Cut(format!("the server sent {exceeded}")));
                CallError::Limit { address, exceeded }
            }
        }
    }

    fn fail(&mut self, source: io::Error) -> CallError {
        // The last is what ending one side says about a connection that was reset.
        if matches!(
            source.kind(),
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotConnected
        ) {
            let waiting = self.waiting();
            return self.gone(Gone::Cut(format!("the server cut it{waiting} ({source})")));
        }
        self.link = Err(Gone::Cut(source.to_string()));
        CallError::Io {
            address: self.address.clone(),
            source,
        }
    }

    fn ended(&mut self) -> CallError {
        let waiting = self.waiting();
        let gone = match self.link.as_ref().map_or(0, Link::partial) {
            0 => Gone::Closed(format!("the server closed it{waiting}")),
            bytes => Gone::Cut(format!(
                "the server closed it in the middle of a frame, {bytes} bytes into it{waiting}"
            )),
        };
        self.gone(gone)
    }

    fn waiting(&self) -> String {
        match self.outstanding() {
            0 => String::new(),
            1 => " with 1 reply outstanding".to_owned(),
            n => format!(" with {n} replies outstanding"),
        }
    }

    fn gone(&mut self, gone: Gone) -> CallError {
        self.link = Err(gone.clone());
        gone.at(&self.address)
    }
}

impl Gone {
    /// What an operation on the connection answers.
    fn at(self, address: &Address) -> CallError {
        let address = address.clone();
        match self {
            Self::Closed(reason) => CallError::Closed { address, reason },
            Self::Cut(reason) => CallError::Cut { address, reason },
        }
    }
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|at| at <= Instant::now())
}
