//! What goes to the client of a stream.

use std::{pin::Pin, sync::Arc};

use conti_proto::v1::{
    DriverLost, Gap, Output, OutputStream, StreamOpened, StreamRequest, StreamResponse,
    stream_response::Message,
};
use futures::{FutureExt as _, Stream, stream};
use tokio::task::JoinHandle;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, Streaming};

use super::{
    flow::Flow,
    input::Inbound,
    link::{Finish, Link},
    permit::Permit,
};
use crate::{
    engine::error::Error,
    engine::session::{Driver, Event, Hold, Session, Viewer},
    service::{convert::info, status, stopping::Stopping},
};

/// How much output is read ahead of a window that is full.
const ROOM_MIN: usize = 4 << 10;

/// Where output comes from.
#[derive(Debug)]
pub enum Reader {
    /// The session waits for this client.
    Driver(Driver),
    /// Another client drives now. This one looks on: as long as it is there, the session has not lost its clients.
    Former(Driver),
    /// The session does not care.
    Viewer(Viewer),
}

impl Reader {
    /// Where the next event begins.
    pub fn offset(&self) -> u64 {
        match self {
            Reader::Driver(driver) | Reader::Former(driver) => driver.offset(),
            Reader::Viewer(viewer) => viewer.offset(),
        }
    }

    async fn next(&mut self, room: usize) -> Option<Event> {
        match self {
            Reader::Driver(driver) | Reader::Former(driver) => driver.next(room).await,
            Reader::Viewer(viewer) => viewer.next(room).await,
        }
    }

    fn try_next(&mut self, room: usize) -> Option<Event> {
        match self {
            Reader::Driver(driver) | Reader::Former(driver) => driver.try_next(room),
            Reader::Viewer(viewer) => viewer.try_next(room),
        }
    }

    /// The hold of the session, where there is one.
    pub fn hold(&self) -> Option<Hold> {
        match self {
            Reader::Driver(driver) => Some(driver.hold()),
            Reader::Former(_) | Reader::Viewer(_) => None,
        }
    }
}

/// The output half of a stream. It owns all of the stream: when it is dropped, all is over.
pub struct Outbound {
    /// `None`: the stream has ended.
    reader: Option<Reader>,
    lost: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// What keeps the session from ending at its deadline.
    overdue: Pin<Box<dyn Future<Output = Error> + Send>>,
    flow: Flow,
    /// An event that waits for room.
    pending: Option<Event>,
    opened: Option<StreamOpened>,
    link: Arc<Link>,
    permit: Permit,
    stopping: Stopping,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    inbound: JoinHandle<()>,
}

impl Outbound {
    /// Starts both halves of a stream and returns what is sent.
    pub fn start(
        opened: StreamOpened,
        reader: Reader,
        session: Arc<Session>,
        requests: Streaming<StreamRequest>,
        window: u64,
        service: &super::Context<'_>,
    ) -> impl Stream<Item = Result<StreamResponse, Status>> + Send + use<> {
        let begin = reader.offset();
        let link = Arc::new(Link::new(begin));
        let permit = Permit::new(service.engine, &service.call, &session);
        let overdue = {
            let session = session.clone();
            async move { session.overdue().await }
        };
        let inbound = Inbound::new(
            (session, link.clone(), permit.clone()),
            reader.hold(),
            (service.engine, &service.call),
        );
        let outbound = Outbound {
            lost: reader.hold().map(|hold| hold.lost().boxed()),
            overdue: overdue.boxed(),
            flow: Flow::new(begin, window),
            pending: None,
            opened: Some(opened),
            link,
            permit,
            stopped: Box::pin(service.stopping.wait()),
            stopping: service.stopping.clone(),
            inbound: tokio::spawn(inbound.follow(requests)),
            reader: Some(reader),
        };
        // In a box: the state is moved at each message.
        stream::unfold(Box::new(outbound), |mut outbound| async move {
            let message = outbound.next().await?;
            Some((message, outbound))
        })
    }

    async fn next(&mut self) -> Option<Result<StreamResponse, Status>> {
        if let Some(opened) = self.opened.take() {
            return message(Message::Opened(opened));
        }
        loop {
            let reader = self.reader.as_mut()?;
            let todo = self.link.take();
            if self.flow.acked(todo.acked)
                && let Reader::Driver(driver) = reader
            {
                driver.ack(todo.acked);
            }
            match todo.finish {
                // What has ended is no longer left running: its client is told the end.
                Some(Finish::Detach) if self.permit.session().is_over() => {}
                Some(Finish::Detach) => {
                    self.leave();
                    return None;
                }
                Some(Finish::Refuse(status)) => {
                    drop(self.reader.take());
                    return Some(Err(status));
                }
                None => {}
            }
            if self.stopping.begun() {
                // The agent goes, the session stays.
                if let Some(Reader::Driver(driver) | Reader::Former(driver)) = self.reader.take() {
                    driver.park();
                }
                return Some(Err(status::stopping()));
            }
            if matches!(reader, Reader::Driver(driver) if !driver.is_current()) {
                return self.look_on();
            }
            if let Some(ack) = todo.input {
                return message(Message::InputAck(ack));
            }
            // An event that is no output needs no room, and shows only when it is asked for.
            let room = usize::try_from(self.flow.room()).unwrap_or(usize::MAX).max(ROOM_MIN);
            if self.pending.is_none() {
                self.pending = reader.try_next(room);
            }
            match self.stopping.or(self.permit.check()).await {
                Ok(Ok(())) => {}
                // Its client is gone for the session.
                Ok(Err(status)) => {
                    self.inbound.abort();
                    drop(self.reader.take());
                    return Some(Err(status));
                }
                Err(_stopping) => continue,
            }
            if let Some(message) = self.send() {
                return Some(Ok(StreamResponse { message: Some(message) }));
            }
            let reader = self.reader.as_mut()?;
            tokio::select! {
                biased;
                () = self.link.wake.notified() => {}
                () = &mut self.stopped => {}
                () = resolved(&mut self.lost) => {}
                error = &mut self.overdue => {
                    // It is killed already, and is there as long as its process.
                    self.leave();
                    return Some(Err(status::of(error)));
                }
                () = self.permit.is_due() => {}
                event = reader.next(room), if self.pending.is_none() => match event {
                    Some(event) => self.pending = Some(event),
                    None => drop(self.reader.take()),
                },
            }
        }
    }

    /// The message of the event that waits, where there is room for it.
    fn send(&mut self) -> Option<Message> {
        match self.pending.take()? {
            Event::Output { offset, stderr, mut data } => {
                let room = usize::try_from(self.flow.room()).unwrap_or(usize::MAX);
                if room == 0 {
                    self.pending = Some(Event::Output { offset, stderr, data });
                    return None;
                }
                if data.len() > room {
                    let rest = data.split_off(room);
                    let offset = offset + room as u64;
                    self.pending = Some(Event::Output { offset, stderr, data: rest });
                }
                self.flow.sent(offset + data.len() as u64);
                // Before it is on its way: its acknowledgement may be back before this is polled again.
                self.link.sent(self.flow.position());
                Some(Message::Output(output(offset, stderr, data)))
            }
            Event::Gap { offset, length } => {
                self.flow.sent_gap(offset, offset.saturating_add(length));
                self.link.sent(self.flow.position());
                Some(Message::Gap(Gap { offset, length }))
            }
            Event::End(end) => {
                drop(self.reader.take());
                Some(Message::End(info::session_end(end)))
            }
        }
    }

    /// Another client drives from now on.
    fn look_on(&mut self) -> Option<Result<StreamResponse, Status>> {
        self.lost = None;
        self.reader = match self.reader.take() {
            Some(Reader::Driver(driver)) => Some(Reader::Former(driver)),
            other => other,
        };
        message(Message::DriverLost(DriverLost {}))
    }

    /// Ends the stream and leaves the session running, whatever its policy.
    fn leave(&mut self) {
        let reader = self.reader.take();
        if let Some(Reader::Driver(driver) | Reader::Former(driver)) = reader {
            driver.detach();
        }
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.inbound.abort();
        // A client that detaches need not wait for the stream to end.
        if self.link.detached() {
            self.leave();
        }
        drop(self.reader.take());
    }
}

/// Resolves with what is there; never, where there is nothing.
pub async fn resolved(future: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

fn message(message: Message) -> Option<Result<StreamResponse, Status>> {
    Some(Ok(StreamResponse { message: Some(message) }))
}

/// Output as a message.
pub fn output(offset: u64, stderr: bool, data: bytes::Bytes) -> Output {
    let stream = if stderr { OutputStream::Stderr } else { OutputStream::Stdout };
    Output { offset, stream: stream.into(), data }
}
