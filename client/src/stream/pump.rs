//! The loop over one link: whatever is ready next, from either side.

use std::{collections::VecDeque, future::Future, time::Duration};

use conti_proto::v1::{
    Detach, OutputAck, SessionEnd, Signal, StreamOpened, stream_request::Message as Request,
    stream_response::Message as Response,
};
use conti_shared::signal;
use tokio::time::{sleep_until, timeout};
use tonic::Status;

use crate::{
    error::{Error, Result, is_broken},
    output,
    stream::{
        Options,
        delivery::Delivery,
        input::Input,
        link::{Link, request, why},
    },
    terminal::{self, Received, Signals},
};

/// How many requests may wait before stdin is not read on.
const OUTBOX: usize = 4;
/// How long a detach may take.
const DETACH_TIMEOUT: Duration = Duration::from_secs(2);
/// A command that goes on after this many SIGINTs from a terminal is left alone: as PID 1 of its
/// namespace it may not even get them.
const INTERRUPTS: u32 = 3;
const SIGINT: i32 = 2;
const SIGHUP: i32 = 1;

/// Why the loop was left.
#[derive(Debug)]
pub enum Left {
    /// The session has ended and all of its output is written.
    Ended(SessionEnd),
    /// The connection broke off, and why.
    Broken(String),
    /// The detach keys were pressed, and the agent has let this client go.
    Detached,
    /// They were pressed again while the agent could not be told.
    Undetached,
    /// A signal ends this client.
    Signalled(i32),
}

/// A session that is being streamed.
pub struct Pump {
    /// The output side.
    pub delivery: Delivery,
    input: Input,
    signals: Signals,
    interrupts: u32,
    raw: Option<terminal::Raw>,
    terminal: bool,
    /// The session was there before this client.
    attached: bool,
    driving: bool,
    /// The detach keys were pressed: the agent is to be told.
    detaching: bool,
    outbox: VecDeque<Request>,
    end: Option<SessionEnd>,
    progress: bool,
}

impl Pump {
    /// Prepares the local side for a session that was just opened.
    pub fn begin(
        options: &Options,
        signals: Signals,
        opened: &StreamOpened,
        attached: bool,
        view_only: bool,
    ) -> Result<Pump> {
        let terminal = opened.session.as_ref().is_some_and(|session| session.terminal);
        let stdin = options.stdin && !view_only;
        let raw = (stdin && terminal && terminal::stdin_is_terminal())
            .then(terminal::Raw::enter)
            .transpose()
            .map_err(|source| Error::Local { what: "cannot make the terminal raw", source })?;
        let input = if stdin {
            let keys = raw.is_some().then(|| options.detach_keys.clone());
            Input::from_stdin(opened.input_offset, keys)?
        } else {
            Input::none(opened.input_offset)
        };
        let mut pump = Pump {
            delivery: Delivery::new(opened.output_offset),
            input,
            signals,
            interrupts: 0,
            raw,
            terminal,
            attached,
            driving: !view_only,
            detaching: false,
            outbox: VecDeque::new(),
            end: None,
            progress: false,
        };
        if attached {
            pump.resize();
            if opened.output_offset > 0 {
                pump.delivery.note(&format!(
                    "output begins at byte {}; what came before is not shown",
                    opened.output_offset
                ))?;
            }
        }
        Ok(pump)
    }

    /// Whether this client drives the session, and does not only look.
    pub fn is_driving(&self) -> bool {
        self.driving
    }

    /// Whether the detach keys were pressed.
    pub fn is_detaching(&self) -> bool {
        self.detaching
    }

    /// Whether anything came since this was last asked.
    pub fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Puts the terminal back, so that what is said from now on looks as it should.
    pub fn restore_terminal(&self) {
        terminal::restore();
    }

    /// Goes on over another link.
    pub fn resume(&mut self, opened: &StreamOpened) -> Result<()> {
        self.delivery.resume(opened.output_offset)?;
        self.delivery.note(&format!("resumed at byte {} of the output", opened.output_offset))?;
        self.outbox.clear();
        self.resize();
        if self.driving {
            self.outbox.extend(self.input.resume(opened.input_offset)?);
        }
        Ok(())
    }

    /// What ends the wait for another link. Input is taken meanwhile, up to what can be kept.
    pub fn give_up(&mut self) -> impl Future<Output = Left> {
        let Pump { signals, input, detaching, .. } = self;
        async move {
            loop {
                tokio::select! {
                    number = signals.end() => return Left::Signalled(number),
                    event = input.next(), if input.has_room() => {
                        // What is to be sent is kept for the next link.
                        let taken = input.take(event);
                        if taken.hung_up {
                            return Left::Signalled(SIGHUP);
                        }
                        if taken.detached && std::mem::replace(detaching, true) {
                            return Left::Undetached;
                        }
                        if taken.detached {
                            output::note(
                                "detaching once the agent answers; the same keys again leave without",
                            );
                        }
                    }
                }
            }
        }
    }

    /// Streams until the session ends, the link breaks, or the user leaves.
    pub async fn run(&mut self, link: &mut Link) -> Result<Left> {
        if self.detaching {
            return self.detach(link).await;
        }
        let Some(requests) = link.requests.clone() else {
            return Ok(Left::Broken(why(None)));
        };
        let mut writable = true;
        loop {
            self.delivery.writer.failure()?;
            if self.delivery.writer.is_idle()
                && let Some(end) = self.end.take()
            {
                self.say_goodbye(link).await;
                return Ok(Left::Ended(end));
            }
            if let Some(offset) = self.delivery.acknowledge() {
                self.acknowledge(offset);
            }
            let reading = self.end.is_none() && self.delivery.writer.has_room();
            let taking = self.input.has_room() && self.outbox.len() < OUTBOX && self.end.is_none();
            let ack_due = self.delivery.due();
            tokio::select! {
                response = link.next(), if reading => match response {
                    Ok(Some(response)) => self.respond(response)?,
                    Ok(None) => return Ok(Left::Broken(why(None))),
                    Err(status) if is_broken(&status) => {
                        return Ok(Left::Broken(why(Some(&status))));
                    }
                    Err(status) => return Err(status.into()),
                },
                event = self.input.next(), if taking => {
                    let taken = self.input.take(event);
                    // Before the end of its input, as a command has it from a terminal of its own.
                    if taken.hung_up && let Some(number) = self.receive(Received::End(SIGHUP)) {
                        return Ok(Left::Signalled(number));
                    }
                    self.outbox.extend(taken.messages);
                    if taken.detached {
                        break;
                    }
                }
                permit = requests.reserve(), if writable && !self.outbox.is_empty() => {
                    match permit {
                        Ok(permit) => {
                            if let Some(message) = self.outbox.pop_front() {
                                permit.send(request(message));
                            }
                        }
                        // The responses say why.
                        Err(_) => writable = false,
                    }
                }
                () = self.delivery.writer.progress(), if !self.delivery.writer.is_idle() => {}
                received = self.signals.next() => {
                    if let Some(number) = self.receive(received) {
                        return Ok(Left::Signalled(number));
                    }
                }
                () = async {
                    match ack_due {
                        Some(due) => sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
        drop(requests);
        self.detaching = true;
        self.detach(link).await
    }

    /// Gives up the session: all that was typed goes before. The agent closes the stream once it has let this client go.
    async fn detach(&mut self, link: &mut Link) -> Result<Left> {
        let Some(requests) = link.requests.take() else { return Ok(Left::Broken(why(None))) };
        self.outbox.push_back(Request::Detach(Detach {}));
        let outbox = std::mem::take(&mut self.outbox);
        let sent = async move {
            for message in outbox {
                // The responses say why.
                if requests.send(request(message)).await.is_err() {
                    return;
                }
            }
        };
        // What comes in has to be taken, or the agent may not get to what goes out.
        let told = async {
            tokio::pin!(sent);
            tokio::select! {
                biased;
                () = &mut sent => drain(link).await,
                // Closed before it was told, without an end: it was not told.
                closed = drain(link) => closed.and_then(|rest| if has_ended(&rest) { Ok(rest) } else { Err(None) }),
            }
        };
        match timeout(DETACH_TIMEOUT, told).await {
            // Nothing is left to be detached from.
            Ok(Ok(rest)) if has_ended(&rest) => self.finish(rest).await,
            Ok(Ok(_)) => Ok(Left::Detached),
            Ok(Err(status)) => Ok(Left::Broken(why(status.as_ref()))),
            Err(_) => Ok(Left::Broken("the agent does not answer".to_owned())),
        }
    }

    /// Writes what came with the end of the session.
    async fn finish(&mut self, rest: Vec<Response>) -> Result<Left> {
        rest.into_iter().try_for_each(|response| self.respond(response))?;
        loop {
            self.delivery.writer.failure()?;
            if self.delivery.writer.is_idle()
                && let Some(end) = self.end.take()
            {
                return Ok(Left::Ended(end));
            }
            self.delivery.writer.progress().await;
        }
    }

    fn respond(&mut self, response: Response) -> Result<()> {
        self.progress = true;
        match response {
            Response::Output(output) => self.delivery.output(output),
            Response::Gap(gap) => self.delivery.gap(gap),
            Response::InputAck(ack) => self.input.acknowledge(ack.offset, ack.closed),
            Response::End(end) => {
                self.input.stop();
                self.end = Some(end);
                Ok(())
            }
            Response::DriverLost(_) => {
                self.driving = false;
                self.input.stop();
                self.raw = None;
                self.outbox.retain(|message| matches!(message, Request::OutputAck(_)));
                self.delivery.note("another client drives this session now; this one only looks")
            }
            Response::Opened(_) => {
                Err(Error::Stream("the agent opened the same stream twice".to_owned()))
            }
        }
    }

    /// Takes a signal. Returns its number where it ends this client.
    fn receive(&mut self, received: Received) -> Option<i32> {
        match received {
            Received::Resized => self.resize(),
            Received::Continued => {
                if let Some(raw) = &self.raw {
                    // A terminal that is gone ends the input by itself.
                    let _ = raw.again();
                }
                self.resize();
            }
            Received::End(number) => {
                // A raw terminal types its signals; what comes besides is meant for this process.
                if self.raw.is_some() || !self.driving || self.end.is_some() {
                    return Some(number);
                }
                // The terminal that is gone is this client's. A command that it has started had the same one.
                if number == SIGHUP && self.attached {
                    return Some(number);
                }
                if number == SIGINT && terminal::stderr_is_terminal() {
                    self.interrupts += 1;
                    if self.interrupts >= INTERRUPTS {
                        return Some(number);
                    }
                }
                self.outbox.push_back(Request::Signal(Signal { signal: signal::name(number) }));
            }
        }
        None
    }

    fn resize(&mut self) {
        if !self.terminal || !self.driving {
            return;
        }
        if let Some(size) = terminal::size() {
            self.outbox.retain(|message| !matches!(message, Request::Resize(_)));
            self.outbox.push_back(Request::Resize(size));
        }
    }

    fn acknowledge(&mut self, offset: u64) {
        let ack = Request::OutputAck(OutputAck { offset });
        match self.outbox.back_mut() {
            Some(last @ Request::OutputAck(_)) => *last = ack,
            _ => self.outbox.push_back(ack),
        }
    }

    /// Acknowledges the rest and ends this side of the stream, without waiting for anything.
    async fn say_goodbye(&mut self, link: &mut Link) {
        let Some(requests) = link.requests.take() else { return };
        if let Some(offset) = self.delivery.acknowledge_all() {
            let _ = requests.try_send(request(Request::OutputAck(OutputAck { offset })));
            drop(requests);
            // The connection's own task writes it.
            tokio::task::yield_now().await;
        }
    }
}

/// Reads a link until the agent closes it: no more comes than the window that it has left.
async fn drain(link: &mut Link) -> Result<Vec<Response>, Option<Status>> {
    let mut rest = Vec::new();
    while let Some(response) = link.next().await? {
        rest.push(response);
    }
    Ok(rest)
}

fn has_ended(rest: &[Response]) -> bool {
    rest.iter().any(|response| matches!(response, Response::End(_)))
}
