//! From stdin to the agent: detach keys, offsets, and what may have to be sent again.

use std::time::Duration;

use bytes::Bytes;
use conti_proto::v1::{Input as InputMessage, InputEof, stream_request::Message};
use tokio::time::{Instant, sleep_until};

use crate::{
    error::{Error, Result},
    output,
    stream::{
        detach::{Keys, Matcher},
        stdin::{self, Read},
        unacked::Unacked,
    },
};

/// How long the first detach keys are held back when the next one does not come.
const KEY_DELAY: Duration = Duration::from_secs(1);

/// The input of a session.
pub struct Input {
    reads: Option<stdin::Reads>,
    /// Only with a raw terminal: elsewhere the same bytes are just bytes.
    keys: Option<Matcher>,
    held_since: Option<Instant>,
    unacked: Unacked,
    /// The detach keys were pressed: what is typed after them is for nobody.
    detached: bool,
    /// The terminal has hung up: nothing more comes, which is no end of the input.
    hung_up: bool,
    ended: bool,
    closed: bool,
}

/// What came from stdin.
pub enum Event {
    /// What was read, or that nothing more comes.
    Read(Option<Read>),
    /// No further key came.
    KeysTimedOut,
}

/// What follows from it.
#[derive(Debug, Default)]
pub struct Taken {
    /// What is to be sent.
    pub messages: Vec<Message>,
    /// Whether the detach keys were pressed.
    pub detached: bool,
    /// Whether the terminal has hung up.
    pub hung_up: bool,
}

impl Input {
    /// No input: stdin is not passed on.
    pub fn none(offset: u64) -> Input {
        Input {
            reads: None,
            keys: None,
            held_since: None,
            unacked: Unacked::new(offset),
            detached: false,
            hung_up: false,
            ended: false,
            closed: false,
        }
    }

    /// Input from stdin, from an offset on. Keys are looked for where they are given.
    pub fn from_stdin(offset: u64, keys: Option<Keys>) -> Result<Input> {
        Ok(Input {
            reads: Some(stdin::read()?),
            keys: keys.map(Matcher::new),
            ..Input::none(offset)
        })
    }

    /// Whether more may be taken.
    pub fn has_room(&self) -> bool {
        self.unacked.has_room()
    }

    /// What comes next from stdin. Waits for ever where nothing can come.
    pub async fn next(&mut self) -> Event {
        let timed_out = async {
            match self.held_since {
                Some(since) => sleep_until(since + KEY_DELAY).await,
                None => std::future::pending().await,
            }
        };
        let read = async {
            match &mut self.reads {
                Some(reads) => reads.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = read => Event::Read(read),
            () = timed_out => Event::KeysTimedOut,
        }
    }

    /// Takes what came.
    pub fn take(&mut self, event: Event) -> Taken {
        let mut taken = Taken::default();
        match event {
            Event::Read(Some(Read::Data(data))) => match &mut self.keys {
                None => self.send(data, &mut taken),
                Some(keys) => {
                    let (passed, detached) = keys.feed(&data);
                    self.held_since = keys.is_holding().then(Instant::now);
                    self.send(passed.into(), &mut taken);
                    self.detached |= detached;
                    taken.detached = detached;
                }
            },
            // A raw terminal types its ctrl-d: it ends only by hanging up.
            Event::Read(end) if self.keys.is_some() || matches!(end, Some(Read::HungUp)) => {
                self.stop();
                self.hung_up = true;
                taken.hung_up = true;
                if self.keys.is_none() {
                    // Nobody else ends what reads on beyond a SIGHUP.
                    self.ended = true;
                    taken.messages.extend(self.eof());
                }
            }
            Event::Read(end) => {
                if let Some(Read::Failed(error)) = end {
                    output::note(&format!("cannot read stdin: {error}; it is taken for its end"));
                }
                self.reads = None;
                self.ended = true;
                taken.messages.extend(self.eof());
            }
            Event::KeysTimedOut => self.release_keys(&mut taken),
        }
        taken
    }

    /// Takes an acknowledgement.
    pub fn acknowledge(&mut self, offset: u64, closed: bool) -> Result<()> {
        if closed {
            self.closed = true;
            self.unacked.clear();
            // A terminal is read on for its detach keys.
            if self.keys.is_none() {
                self.stop();
            }
            return Ok(());
        }
        self.unacked.acknowledge(offset).map_err(|e| Error::Stream(e.to_string()))
    }

    /// What has to be sent once more after a break, where the agent goes on at an offset.
    pub fn resume(&mut self, offset: u64) -> Result<Vec<Message>> {
        let fed = self.reads.is_some() || self.ended || self.hung_up;
        if self.closed || !fed {
            return Ok(Vec::new());
        }
        let again = self.unacked.resend_from(offset).map_err(|e| Error::Stream(e.to_string()))?;
        let messages =
            again.into_iter().map(|(offset, data)| Message::Input(InputMessage { offset, data }));
        Ok(messages.chain(self.eof()).collect())
    }

    /// Takes no more from stdin. The thread that reads it stays behind.
    pub fn stop(&mut self) {
        self.reads = None;
        self.held_since = None;
    }

    fn eof(&self) -> Option<Message> {
        let offset = self.unacked.end();
        (self.ended && !self.closed).then_some(Message::InputEof(InputEof { offset }))
    }

    fn release_keys(&mut self, taken: &mut Taken) {
        self.held_since = None;
        if let Some(held) = self.keys.as_mut().map(Matcher::release) {
            self.send(held.into(), taken);
        }
    }

    fn send(&mut self, data: Bytes, taken: &mut Taken) {
        if self.closed || self.detached || data.is_empty() {
            return;
        }
        let offset = self.unacked.push(data.clone());
        taken.messages.push(Message::Input(InputMessage { offset, data }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(data: &'static [u8]) -> Event {
        Event::Read(Some(Read::Data(Bytes::from_static(data))))
    }

    #[test]
    fn after_a_break_input_goes_on_where_the_agent_says() {
        let mut input = Input::none(0);
        input.take(chunk(b"abc"));
        input.take(chunk(b"def"));
        input.take(Event::Read(None));
        let again = input.resume(4).unwrap();
        let [Message::Input(rest), Message::InputEof(eof)] = &again[..] else {
            panic!("{again:?}");
        };
        assert_eq!((rest.offset, &rest.data[..], eof.offset), (4, &b"ef"[..], 6));
        assert!(input.resume(3).is_err());
        assert!(input.resume(7).is_err());
    }

    #[test]
    fn a_closed_input_is_not_sent_to() {
        let mut input = Input::none(0);
        input.take(chunk(b"abc"));
        input.acknowledge(1, true).unwrap();
        assert!(input.take(chunk(b"def")).messages.is_empty());
        assert!(input.take(Event::Read(None)).messages.is_empty());
        assert!(input.resume(0).unwrap().is_empty());
    }

    #[test]
    fn a_terminal_that_hung_up_ends_the_input_where_it_is_not_raw() {
        let (mut raw, mut cooked) = (Input::none(0), Input::none(0));
        raw.keys = Some(Matcher::new(Keys::default()));
        for end in [None, Some(Read::HungUp), Some(Read::Failed(std::io::ErrorKind::Other.into()))]
        {
            let taken = raw.take(Event::Read(end));
            assert!(taken.hung_up && taken.messages.is_empty());
        }
        assert!(cooked.take(chunk(b"abc")).messages.len() == 1);
        let taken = cooked.take(Event::Read(Some(Read::HungUp)));
        assert!(taken.hung_up && matches!(taken.messages[..], [Message::InputEof(_)]));
        let mut cooked = Input::none(0);
        let taken = cooked.take(Event::Read(None));
        assert!(!taken.hung_up && taken.messages.len() == 1, "ctrl-d");
    }

    #[test]
    fn what_is_typed_after_the_detach_keys_is_not_sent() {
        let mut input = Input::none(0);
        input.keys = Some(Matcher::new(Keys::default()));
        let taken = input.take(chunk(b"a\x10\x11b"));
        assert!(taken.detached && taken.messages.len() == 1);
        let taken = input.take(chunk(b"c"));
        assert!(!taken.detached && taken.messages.is_empty());
        assert!(input.take(chunk(b"\x10\x11")).detached, "and once more");
    }
}
