//! Requests that a client repeats because it has not heard the answer: what the first of them made is the answer to
//! all.
//!
//! A request id stands for one request. What that asked for is kept as a digest in the record of what it made, so that
//! an id that comes with another request is refused, also by the next agent. Whether a caller may still have what its
//! request made once is not decided here: rights are those of the moment.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;

use super::{
    error::{Error, Result},
    kept::Kept,
};

/// How many ids of requests are remembered at least, of those that have made something which may be gone.
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
#[derive(Debug)]
pub struct Requests(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    places: HashMap<String, Place>,
    /// Those that have made something. Others are being carried out, and are no more than there are calls.
    made: Kept,
}

impl Default for Requests {
    fn default() -> Self {
        Requests(Mutex::new(Inner { places: HashMap::new(), made: Kept::new(KEPT) }))
    }
}

impl Requests {
    /// Carries a request out, or finds what one with the same id has made. One that comes while another is carried
    /// out waits for that; where it made nothing, this one is carried out, and where none did the id is free again.
    /// `there`: what a request has made that is there still. Its id lies in its own record, and is not forgotten.
    pub async fn once(
        &self,
        request: Option<&Request>,
        what: What,
        there: impl FnOnce(&str) -> Option<Made>,
        make: impl Future<Output = Result<String>>,
    ) -> Result<Answer<String>> {
        let Some(request) = request else {
            return Ok(Answer { made: make.await?, repeated: false });
        };
        let under_way = self.begin(&request.key, there);
        let mut repeated = true;
        let carried_out = &mut repeated;
        let make = || async move {
            *carried_out = false;
            Result::Ok(Made { what, id: make.await?, digest: Some(request.digest.clone()) })
        };
        let made = under_way.place.get_or_try_init(make).await?;
        if !repeated {
            self.keep(&request.key);
        }
        let same = made.digest.as_ref().is_none_or(|digest| *digest == request.digest);
        match made.what == what && same {
            true => Ok(Answer { made: made.id.clone(), repeated }),
            false => Err(Error::RequestIdTaken(request.id.clone())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place for what a request makes: the same for the same key.
    fn begin<'a>(&'a self, key: &'a str, there: impl FnOnce(&str) -> Option<Made>) -> UnderWay<'a> {
        let mut inner = self.lock();
        let place = match inner.places.get(key) {
            Some(place) => place.clone(),
            None => match there(key) {
                Some(made) => Arc::new(OnceCell::new_with(Some(made))),
                None => inner.places.entry(key.to_owned()).or_default().clone(),
            },
        };
        UnderWay { of: self, key, place }
    }

    /// Remembers a request that has made something, as long as there is room.
    fn keep(&self, key: &str) {
        let mut inner = self.lock();
        if let Some(oldest) = inner.made.push(owner(key), key.to_owned()) {
            inner.places.remove(&oldest);
        }
    }
}

/// A request that is carried out, or waits for one with the same id.
struct UnderWay<'a> {
    of: &'a Requests,
    key: &'a str,
    place: Place,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut inner = self.of.lock();
        drop(std::mem::take(&mut self.place));
        // Of those who let go of it the last one sees that: they do so one after the other.
        let unused = |place: &Place| place.get().is_none() && Arc::strong_count(place) == 1;
        if inner.places.get(self.key).is_some_and(unused) {
            inner.places.remove(self.key);
        }
    }
}

/// Whose request it is, by its key among those of all. Those of administrators of this machine are nobody's else.
fn owner(key: &str) -> &str {
    key.split_once('\0').map_or("", |(owner, _)| owner)
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
        let answer = requests.once(Some(&request), what, |_| None, async { id }).await?;
        Ok((answer.made, answer.repeated))
    }

    /// What an identity asks for with an id.
    async fn asks(
        requests: &Requests,
        owner: &str,
        id: &str,
        make: Result<String>,
    ) -> Result<bool> {
        let key = format!("{owner}\0{id}");
        let request = Request { id: id.to_owned(), key, digest: String::new() };
        let make = async { make };
        let answer = requests.once(Some(&request), What::Session, |_| None, make).await?;
        Ok(answer.repeated)
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
        let failed = requests.once(Some(&request("a")), What::Session, |_| None, failing).await;
        assert!(failed.is_err());
        assert!(requests.lock().places.is_empty());
        let next = made(&requests, "b", What::Container, "1").await;
        assert_eq!(next.expect("it is made"), ("1".to_owned(), false));
    }

    #[tokio::test]
    async fn whoever_waits_for_a_request_that_makes_nothing_carries_it_out() {
        let requests = Requests::default();
        let (fail, failing) = tokio::sync::oneshot::channel::<()>();
        let (request, none) = (request("a"), |_: &str| None);
        let first = requests.once(Some(&request), What::Session, none, async {
            let _ = failing.await;
            Err(Error::Stopping)
        });
        let next = async {
            let next =
                requests.once(Some(&request), What::Session, none, async { Ok("1".to_owned()) });
            tokio::pin!(next);
            // It waits for the first one.
            assert!(futures::poll!(&mut next).is_pending());
            let _ = fail.send(());
            next.await
        };
        let (first, next) = tokio::join!(first, next);
        assert!(first.is_err());
        assert!(!next.expect("it is made").repeated);
        let again = made(&requests, "a", What::Session, "2").await;
        assert_eq!(again.expect("it was made"), ("1".to_owned(), true));
    }

    #[tokio::test]
    async fn what_is_there_is_known_by_its_record() {
        let requests = Requests::default();
        let there = |key: &str| {
            assert_eq!(key, "olga\0id");
            // Of an older agent: without what was asked for.
            Some(Made { what: What::Session, id: "1".into(), digest: None })
        };
        let never = || async { panic!("it was made") };
        let ask = |what| {
            let (requests, request) = (&requests, request("a"));
            async move { requests.once(Some(&request), what, there, never()).await }
        };
        let again = ask(What::Session).await.expect("it was made");
        assert_eq!((again.made.as_str(), again.repeated), ("1", true));
        assert!(ask(What::Container).await.is_err());
        assert!(requests.lock().places.is_empty(), "the record has it");
    }

    #[tokio::test]
    async fn nobody_has_the_ids_of_others_forgotten() {
        let requests = Requests::default();
        let make = |n: usize| Ok(n.to_string());
        assert!(!asks(&requests, "olga", "1", make(0)).await.expect("it is made"));
        for n in 0..2 * KEPT {
            asks(&requests, "carl", &n.to_string(), make(n)).await.expect("it is made");
            let refused = asks(&requests, "carl", "x", Err(Error::Stopping)).await;
            assert!(refused.is_err());
        }
        assert!(asks(&requests, "olga", "1", make(0)).await.expect("it was made"));
        let newest = (2 * KEPT - 1).to_string();
        assert!(asks(&requests, "carl", &newest, make(0)).await.expect("it was made"));
        assert!(!asks(&requests, "carl", "0", make(0)).await.expect("it is made"));
        assert_eq!(requests.lock().places.len(), KEPT);
    }
}
