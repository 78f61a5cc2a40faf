//! What comes from the client of a stream after `open`.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use conti_proto::v1::{self, StreamRequest, stream_request::Message};
use futures::FutureExt as _;
use tokio::time::sleep;
use tonic::{Status, Streaming};

use super::{
    MESSAGE_BYTES_MAX, TOO_MUCH,
    link::{Finish, Link},
    output::resolved,
    permit::Permit,
};
use crate::{
    engine::{
        Engine,
        error::Error,
        session::{Held, Hold, Session},
    },
    service::{
        call::Call,
        convert::{Field, process, text},
        share::Backlog,
        status::{self, valid},
    },
};

/// How much input waits for the process here before the client is made to wait. More than the
/// 16 MiB that a careful client sends unacknowledged, so that its signals and acknowledgements are not
/// held up behind its input: a process that echoes would never read on.
const QUEUE_MAX: usize = 18 * 1024 * 1024;
/// What a message in the queue costs besides its bytes.
const MESSAGE_COST: usize = 128;

/// How much of it a session may always have, and a message carry, where much waits for all sessions of its caller.
const LITTLE: usize = 257 << 10;
/// How long a session with more than that is not listened to then, before it is refused: its process may wait for
/// something that stands behind its input.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(250);

type Writing = Pin<Box<dyn Future<Output = Result<u64, Error>> + Send>>;

/// The input half of a stream.
pub struct Inbound {
    engine: Arc<Engine>,
    session: Arc<Session>,
    link: Arc<Link>,
    permit: Permit,
    role: Role,
    lost: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// What it writes with; `None`: its client only looks.
    hold: Option<Hold>,
    terminal: bool,
    queue: VecDeque<Item>,
    queued: usize,
    caller: String,
    backlog: Backlog,
    writing: Option<Writing>,
    /// The client said that there is no more input.
    eof: bool,
    /// The process takes no more input.
    closed: bool,
}

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Drives,
    Looks,
    /// Drove until another took over. What it sends crosses with the message that tells it.
    Lost,
}

#[derive(Debug)]
enum Item {
    Data(u64, Bytes, Held),
    Eof(u64),
}

impl Inbound {
    /// The input half of a stream of a call. Without a hold of the session its client only looks.
    pub fn new(
        (session, link, permit): (Arc<Session>, Arc<Link>, Permit),
        hold: Option<Hold>,
        (engine, call): (&Arc<Engine>, &Call),
    ) -> Inbound {
        let terminal = session.info().terminal;
        Inbound {
            engine: engine.clone(),
            session,
            link,
            permit,
            role: if hold.is_some() { Role::Drives } else { Role::Looks },
            lost: hold.as_ref().map(|hold| hold.lost().boxed()),
            hold,
            terminal,
            queue: VecDeque::new(),
            queued: 0,
            caller: call.caller.name(),
            backlog: call.backlog.clone(),
            writing: None,
            eof: false,
            closed: false,
        }
    }

    /// Handles messages until the client sends no more and all of its input was taken.
    pub async fn follow(mut self, mut requests: Streaming<StreamRequest>) {
        let (mut listening, mut held_back) = (true, Duration::ZERO);
        while listening || self.writing.is_some() {
            tokio::select! {
                () = resolved(&mut self.lost) => {
                    self.lost = None;
                    self.role = Role::Lost;
                    self.stop_writing();
                }
                () = self.permit.is_due(), if self.role == Role::Drives => {
                    if let Err(status) = self.permit.check().await {
                        return self.link.finish(Finish::Refuse(status));
                    }
                }
                result = written(&mut self.writing) => {
                    self.writing = None;
                    self.wrote(result);
                    self.write_on();
                }
                () = sleep(LOOK), if listening && self.is_held_back() => {
                    held_back += LOOK;
                    if held_back >= PATIENCE {
                        let status = status::too_much_input(&self.caller);
                        return self.link.finish(Finish::Refuse(status));
                    }
                }
                message = requests.message(),
                    if listening && self.queued < QUEUE_MAX && !self.is_held_back() =>
                {
                    held_back = Duration::ZERO;
                    let handled = match message {
                        Ok(Some(StreamRequest { message: Some(message) })) => {
                            self.handle(message).await
                        }
                        Ok(Some(StreamRequest { message: None })) => {
                            Err(status::sequence("is empty, or of a kind that is not known"))
                        }
                        Ok(None) => {
                            listening = false;
                            Ok(())
                        }
                        // Not a bad message, but a broken connection: nobody is there to be told.
                        Err(broken) => Err(status::unreadable(&broken).unwrap_or(broken)),
                    };
                    if let Err(status) = handled {
                        return self.link.finish(Finish::Refuse(status));
                    }
                }
            }
        }
    }

    async fn handle(&mut self, message: Message) -> Result<(), Status> {
        match message {
            Message::Open(_) => return Err(status::sequence("is a second `open`")),
            Message::OutputAck(v1::OutputAck { offset }) => {
                return match self.link.output_acked(offset) {
                    true => Ok(()),
                    false => valid(|v| {
                        let at = Field::root("output_ack");
                        v.add(at.name("offset"), format_args!("is {offset}, which was never sent"));
                    }),
                };
            }
            Message::Detach(v1::Detach {}) => {
                self.link.finish(Finish::Detach);
                return Ok(());
            }
            _ => {}
        }
        match self.role {
            Role::Drives => {
                self.permit.check().await?;
                self.drive(message).await
            }
            Role::Looks => Err(status::sequence("is not taken from a client that only looks")),
            Role::Lost => Ok(()),
        }
    }

    async fn drive(&mut self, message: Message) -> Result<(), Status> {
        match message {
            Message::Input(v1::Input { offset, data }) => {
                if data.len() > MESSAGE_BYTES_MAX {
                    let at = Field::root("input");
                    return valid(|v| v.add(at.name("data"), TOO_MUCH));
                }
                if self.eof {
                    return Err(status::sequence("is `input` after `input_eof`"));
                }
                if !self.closed {
                    let size = data.len() + MESSAGE_COST;
                    let held = hold_input(&self.backlog, &self.caller, size)?;
                    // What waits must not keep the whole buffer that it came in.
                    let waits = self.writing.is_some();
                    let data = if waits { Bytes::copy_from_slice(&data) } else { data };
                    self.queued += size;
                    self.queue.push_back(Item::Data(offset, data, held));
                    self.write_on();
                }
            }
            Message::InputEof(v1::InputEof { offset }) => {
                self.eof = true;
                if !self.closed {
                    self.queued += MESSAGE_COST;
                    self.queue.push_back(Item::Eof(offset));
                    self.write_on();
                }
            }
            Message::Resize(size) => {
                let size = valid(|v| process::terminal_size(v, Field::root("resize"), size))?;
                let result = self.session.resize(size);
                return self.unless_over(result, !self.terminal);
            }
            Message::Signal(v1::Signal { signal }) => {
                let at = Field::root("signal");
                let signal = valid(|v| text::signal(v, at.name("signal"), &signal, None))?;
                // What is frozen hears it when it is thawed, as all that is typed; to be killed it is thawed.
                let result = match signal {
                    libc::SIGKILL => self.engine.signal(&self.session, signal).await,
                    _ => self.session.signal(signal),
                };
                return match result {
                    Err(Error::Frozen { .. }) => Ok(()),
                    result => self.unless_over(result, false),
                };
            }
            Message::Open(_) | Message::OutputAck(_) | Message::Detach(_) => {}
        }
        Ok(())
    }

    /// A session that is over is no fault of its client: its end is on the way.
    fn unless_over(&self, result: Result<(), Error>, fault: bool) -> Result<(), Status> {
        match result {
            Err(Error::WrongSessionState { .. }) if !fault => Ok(()),
            other => other.map_err(status::of),
        }
    }

    /// Whether much input of its caller waits, and some of it here.
    fn is_held_back(&self) -> bool {
        self.queued > LITTLE && self.backlog.input.is_much()
    }

    /// Begins with the next item, where nothing is being written.
    fn write_on(&mut self) {
        while self.writing.is_none() {
            match self.queue.pop_front() {
                None => return,
                Some(Item::Data(offset, data, held)) => {
                    self.queued -= data.len() + MESSAGE_COST;
                    let Some(hold) = self.hold.clone() else { continue };
                    let write = async move {
                        let result = hold.write(offset, data).await;
                        drop(held);
                        result
                    };
                    self.writing = Some(Box::pin(write));
                }
                Some(Item::Eof(offset)) => {
                    self.queued -= MESSAGE_COST;
                    self.end_input(offset);
                }
            }
        }
    }

    fn end_input(&mut self, offset: u64) {
        let (taken, closed) = self.session.input();
        if !closed && offset > taken {
            let error = Error::InputOffset { offset, taken };
            return self.link.finish(Finish::Refuse(status::of(error)));
        }
        if !closed && offset < taken {
            let problem = format!("is {offset}, but {taken} bytes of input were taken");
            let violations = crate::service::convert::Violations::one("input_eof.offset", problem);
            return self.link.finish(Finish::Refuse(status::invalid(&violations)));
        }
        if let Err(error) = self.session.close_input() {
            return self.link.finish(Finish::Refuse(status::of(error)));
        }
        self.closed = true;
        self.link.input_taken(taken, true);
    }

    fn wrote(&mut self, result: Result<u64, Error>) {
        match result {
            Ok(taken) => self.link.input_taken(taken, false),
            // The process has closed its input, or has ended. That is its right, and no error.
            Err(Error::WrongSessionState { .. }) => {
                self.stop_writing();
                self.link.input_taken(self.session.input().0, true);
            }
            Err(error) => {
                self.stop_writing();
                self.link.finish(Finish::Refuse(status::of(error)));
            }
        }
    }

    fn stop_writing(&mut self) {
        self.closed = true;
        self.writing = None;
        self.queue.clear();
        self.queued = 0;
    }
}

/// Counts input that comes for a session. Where much waits for all sessions of its caller together, it is to come in
/// small messages.
pub fn hold_input(backlog: &Backlog, caller: &str, size: usize) -> Result<Held, Status> {
    if size > LITTLE && backlog.input.is_much() {
        return Err(status::too_much_input(caller));
    }
    Ok(backlog.input.hold(size))
}

/// The result of a write that goes on; never, where there is none.
async fn written(writing: &mut Option<Writing>) -> Result<u64, Error> {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}
