//! What the two halves of a stream tell one another.

use std::sync::{Mutex, MutexGuard, PoisonError};

use conti_proto::v1::InputAck;
use tokio::sync::Notify;
use tonic::Status;

/// Shared by the input half, which writes most of it, and the output half, which reads it.
#[derive(Debug, Default)]
pub struct Link {
    news: Mutex<News>,
    /// Wakes the output half.
    pub wake: Notify,
}

#[derive(Debug, Default)]
struct News {
    /// Up to where the client has handled output.
    acked: u64,
    /// Up to where output was sent.
    sent: u64,
    /// What the client is to hear of its input: only the latest counts.
    input: Option<InputAck>,
    /// Why the stream is to end.
    finish: Option<Finish>,
}

/// Why the input half ends a stream.
#[derive(Debug)]
pub enum Finish {
    /// The client gives up driving: the session is left running.
    Detach,
    /// The client did what it may not.
    Refuse(Status),
}

/// What the output half has to do.
#[derive(Debug)]
pub struct Todo {
    /// Up to where the client has handled output.
    pub acked: u64,
    /// Tell this to the client.
    pub input: Option<InputAck>,
    /// End the stream.
    pub finish: Option<Finish>,
}

impl Link {
    /// For a stream that begins at an offset of the journal.
    pub fn new(offset: u64) -> Link {
        let link = Link::default();
        link.lock().sent = offset;
        link
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes up to where output is sent.
    pub fn sent(&self, offset: u64) {
        self.lock().sent = offset;
    }

    /// Takes what is to be done.
    pub fn take(&self) -> Todo {
        let mut news = self.lock();
        Todo { acked: news.acked, input: news.input.take(), finish: news.finish.take() }
    }

    /// Whether the client has detached and the output half does not know yet.
    pub fn detached(&self) -> bool {
        matches!(self.lock().finish, Some(Finish::Detach))
    }

    /// The client has handled output up to `offset`. False where that was never sent.
    pub fn output_acked(&self, offset: u64) -> bool {
        let mut news = self.lock();
        if offset > news.sent {
            return false;
        }
        news.acked = news.acked.max(offset);
        drop(news);
        self.wake.notify_one();
        true
    }

    /// Input was taken up to `offset`; `closed`: no more will be.
    pub fn input_taken(&self, offset: u64, closed: bool) {
        self.lock().input = Some(InputAck { offset, closed });
        self.wake.notify_one();
    }

    /// The stream is to end. The first reason counts.
    pub fn finish(&self, finish: Finish) {
        self.lock().finish.get_or_insert(finish);
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_input_acks_the_latest_is_told() {
        let link = Link::new(0);
        link.input_taken(1, false);
        link.input_taken(2, false);
        assert_eq!(link.take().input, Some(InputAck { offset: 2, closed: false }));
        assert_eq!(link.take().input, None);
    }

    #[test]
    fn what_was_never_sent_cannot_be_acknowledged() {
        let link = Link::new(10);
        assert!(link.output_acked(10) && !link.output_acked(11));
        {
            link.sent(20);
            link.take()
        };
        assert!(link.output_acked(20) && link.output_acked(5));
        assert_eq!(
            {
                link.sent(20);
                link.take()
            }
            .acked,
            20
        );
    }
}
