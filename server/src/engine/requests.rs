//! Requests that a client repeats because it has not heard the answer: what the first of them made is the answer to
//! all.
//!
//! A request id stands for one request. What that asked for is kept as a digest in the record of what it made, so that
//! an id that comes with another request is refused, also by the next agent. Whether a caller may still have what its
//! request made once is not decided here: rights are those of the moment.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OnceCell;

use super::error::{Error, Result};

/// How many request ids are remembered.
const KEPT: usize = 4096;

/// A request that its client may repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The id that the client chose.
    pub id: String,
    /// The same among those of all clients.
    pub key: String,
    /// Equal for requests that ask for the same, and for those alone.
    pub digest: String,
}

/// What requests make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A container.
    Container,
    /// A session.
    Session,
    /// A start of a container that was there.
    Start,
}

/// What a request made.
#[derive(Debug)]
pub struct Made {
    /// What it is.
    pub what: What,
    /// The id of the container or the session.
    pub id: String,
    /// The digest of the request. `None`: it is not known, as in a record of an older agent.
    pub digest: Option<String>,
}

/// The answer to a request.
#[derive(Debug)]
pub struct Answer<T> {
    /// What was made.
    pub made: T,
    /// Whether an earlier request made it: who asks now may not have it any more.
    pub repeated: bool,
}

/// Holds what a request made, once it has.
type Place = Arc<OnceCell<Made>>;

/// The requests that are remembered.
#[derive(Debug, Default)]
pub struct Requests(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    places: HashMap<String, Place>,
    /// The oldest first.
    order: VecDeque<String>,
}

impl Requests {
    /// Carries a request out, or finds what one with the same id has made. One that comes while another is carried
    /// out waits for that; where it made nothing, this one is carried out.
    pub async fn once(
        &self,
        request: Option<&Request>,
        what: What,
        make: impl Future<Output = Result<String>>,
    ) -> Result<Answer<String>> {
        let Some(request) = request else {
            return Ok(Answer { made: make.await?, repeated: false });
        };
        let place = self.place(&request.key);
        let mut repeated = true;
        let carried_out = &mut repeated;
        let make = || async move {
            *carried_out = false;
            Result::Ok(Made { what, id: make.await?, digest: Some(request.digest.clone()) })
        };
        let made = place.get_or_try_init(make).await?;
        let same = made.digest.as_ref().is_none_or(|digest| *digest == request.digest);
        match made.what == what && same {
            true => Ok(Answer { made: made.id.clone(), repeated }),
            false => Err(Error::RequestIdTaken(request.id.clone())),
        }
    }

    /// Remembers what a request made before the agent was started.
    pub fn remember(&self, key: &str, made: Made) {
        let _ = self.place(key).set(made);
    }

    /// The place for what a request makes: the same for the same key.
    fn place(&self, key: &str) -> Place {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = inner.places.get(key) {
            return place.clone();
        }
        if inner.order.len() >= KEPT
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.places.remove(&oldest);
        }
        let place = Place::default();
        inner.places.insert(key.to_owned(), place.clone());
        inner.order.push_back(key.to_owned());
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(digest: &str) -> Request {
        Request { id: "id".into(), key: "olga\0id".into(), digest: digest.to_owned() }
    }

    async fn made(
        requests: &Requests,
        digest: &str,
        what: What,
        id: &str,
    ) -> Result<(String, bool)> {
        let (request, id) = (request(digest), Ok(id.to_owned()));
        let answer = requests.once(Some(&request), what, async { id }).await?;
        Ok((answer.made, answer.repeated))
    }

    #[tokio::test]
    async fn an_id_stands_for_one_request() {
        let requests = Requests::default();
        let first = made(&requests, "a", What::Session, "1").await;
        assert_eq!(first.expect("it is made"), ("1".to_owned(), false));
        let again = made(&requests, "a", What::Session, "2").await;
        assert_eq!(again.expect("it was made"), ("1".to_owned(), true));
        for (digest, what) in [("b", What::Session), ("a", What::Container), ("a", What::Start)] {
            match made(&requests, digest, what, "2").await {
                Err(Error::RequestIdTaken(id)) => assert_eq!(id, "id"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_was_not_made_leaves_the_id_free() {
        let requests = Requests::default();
        let failing = async { Err(Error::Stopping) };
        let failed = requests.once(Some(&request("a")), What::Session, failing).await;
        assert!(failed.is_err());
        let next = made(&requests, "b", What::Container, "1").await;
        assert_eq!(next.expect("it is made"), ("1".to_owned(), false));
    }

    #[tokio::test]
    async fn what_an_older_agent_has_made_is_known_by_its_kind_alone() {
        let requests = Requests::default();
        let before = Made { what: What::Session, id: "1".into(), digest: None };
        requests.remember("olga\0id", before);
        let again = made(&requests, "a", What::Session, "2").await;
        assert_eq!(again.expect("it was made"), ("1".to_owned(), true));
        assert!(made(&requests, "a", What::Container, "2").await.is_err());
    }

    #[tokio::test]
    async fn the_oldest_ids_are_forgotten() {
        let requests = Requests::default();
        made(&requests, "a", What::Session, "1").await.expect("it is made");
        for n in 0..KEPT {
            requests.place(&n.to_string());
        }
        let next = made(&requests, "b", What::Session, "2").await;
        assert_eq!(next.expect("it is made"), ("2".to_owned(), false));
    }
}
