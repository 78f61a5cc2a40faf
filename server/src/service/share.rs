//! What one caller may have under way at a time, so that something is left for the others.
//!
//! Counted are calls, questions (each holds one of the engine's inspectors until its answer has been read), in
//! [`super::intake`] messages that have begun and are not there yet, and in [`super::outlet`] answers that are not
//! taken. Whoever is over its share is told so, or waits where that is short; nobody else notices.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    intake::Intake,
    outlet::Outlet,
    status,
    turns::{self, Turn, Turns},
};
use crate::{
    access::{Caller, Role},
    engine::{
        bounds,
        carry::{self, Held},
        session::Waiting,
    },
};

/// How many calls one identity has under way at most: each costs some 10 KiB. Those of administrators of this
/// machine are not counted.
const CALLS_EACH: usize = 1024;
/// How many calls there are at most.
const CALLS: usize = 4096;
/// How long a question waits for others of the same identity.
const TURN: Duration = Duration::from_secs(30);
/// How many bytes of large messages one identity may have under way.
const LARGE_EACH: usize = 64 << 20;

/// How many bytes of input may wait for the processes of one identity before a session with more than a little of
/// it is not listened to.
const INPUT_EACH: usize = 128 << 20;

/// Services whose calls are questions, and the methods of others whose answers may be large.
const QUESTIONS: [&str; 11] = [
    "/conti.v1.ContainerService/GetContainer",
    "/conti.v1.ContainerService/ListContainers",
    "/conti.v1.FileService/",
    "/conti.v1.MountService/",
    "/conti.v1.NamespaceService/",
    "/conti.v1.NetworkService/",
    "/conti.v1.ProcessService/",
    "/conti.v1.SessionService/GetSession",
    "/conti.v1.SessionService/ListRecordings",
    "/conti.v1.SessionService/ListSessions",
    "/conti.v1.SessionService/ReadRecording",
];

/// The shares of all callers. Clones are the same.
#[derive(Debug, Clone)]
pub struct Shares(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    calls: Arc<Semaphore>,
    turns: Turns,
    each: Mutex<HashMap<String, Weak<Share>>>,
    /// The threads of each. What hangs keeps its own beyond the call, and so beyond all else that the identity has.
    threads: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// What one identity has left.
#[derive(Debug)]
pub struct Share {
    calls: Arc<Semaphore>,
    questions: Arc<Semaphore>,
    threads: carry::Threads,
    /// Bytes of large messages.
    pub large: Arc<Semaphore>,
    backlog: Backlog,
}

/// What waits of all calls of one identity. Clones are the same.
#[derive(Debug, Clone)]
pub struct Backlog {
    /// Answers that their clients do not take.
    pub answers: Waiting,
    /// Input that processes do not read.
    pub input: Waiting,
}

impl Default for Backlog {
    fn default() -> Self {
        Backlog { answers: Waiting::default(), input: Waiting::new(INPUT_EACH) }
    }
}

/// Held for as long as a call is under way.
#[derive(Debug)]
struct Place {
    _share: Arc<Share>,
    _counted: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Shares {
    fn new() -> Shares {
        let calls = Arc::new(Semaphore::new(CALLS));
        let (each, threads) = Default::default();
        Shares(Arc::new(Inner { calls, turns: Turns::default(), each, threads }))
    }

    fn of(&self, name: &str) -> Arc<Share> {
        let mut each = self.0.each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = each.get(name).and_then(Weak::upgrade) {
            return share;
        }
        // Those of identities that have nothing under way.
        each.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Share {
            calls: Arc::new(Semaphore::new(CALLS_EACH)),
            questions: Arc::new(Semaphore::new(turns::EACH)),
            threads: self.threads(name),
            large: Arc::new(Semaphore::new(LARGE_EACH)),
            backlog: Backlog::default(),
        });
        each.insert(name.to_owned(), Arc::downgrade(&share));
        share
    }

    fn threads(&self, name: &str) -> carry::Threads {
        let mut threads = self.0.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = threads.get(name).and_then(Weak::upgrade) {
            return own;
        }
        threads.retain(|_, own| own.strong_count() > 0);
        let own = Arc::new(Semaphore::new(bounds::THREADS_EACH));
        threads.insert(name.to_owned(), Arc::downgrade(&own));
        own
    }

    /// A place for one more call.
    fn enter(&self, caller: &Caller) -> Result<(Arc<Share>, Place), Status> {
        let name = caller.name();
        let share = self.of(&name);
        let counted = match is_local_admin(caller) {
            true => None,
            false => {
                let refused =
                    |name, limit| move |_| status::too_much(name, "calls under way", limit);
                let each = share.calls.clone().try_acquire_owned();
                let each = each.map_err(refused(&name, CALLS_EACH))?;
                let all = self.0.calls.clone().try_acquire_owned();
                Some((each, all.map_err(refused("the agent", CALLS))?))
            }
        };
        let place = Place { _share: share.clone(), _counted: counted };
        Ok((share, place))
    }
}

impl Share {
    /// Waits for its turn to ask a question: among its own, and then among those of all.
    async fn turn(&self, turns: &Turns, name: &str, local_admin: bool) -> Result<Asking, Status> {
        let turn = async {
            let own = self.questions.clone().acquire_owned().await.ok();
            Asking { _own: own, _turn: turns.take(name, local_admin).await }
        };
        let late = |_| status::too_much(name, "answers that are not read", turns::EACH);
        timeout(TURN, turn).await.map_err(late)
    }
}

/// Held until a question is answered and its answer has been read.
#[derive(Debug)]
struct Asking {
    _own: Option<OwnedSemaphorePermit>,
    _turn: Turn,
}

fn is_question(path: &str) -> bool {
    QUESTIONS.iter().any(|service| path.starts_with(service))
}

fn is_local_admin(caller: &Caller) -> bool {
    caller.peer.identity.certificate().is_none() && caller.role == Role::Admin
}

/// Wraps all services of the agent, within [`super::access::AccessLayer`].
#[derive(Debug, Clone)]
pub struct ShareLayer(Shares);

impl ShareLayer {
    /// A layer that begins with nothing under way.
    pub fn new() -> ShareLayer {
        ShareLayer(Shares::new())
    }
}

impl<S> Layer<S> for ShareLayer {
    type Service = Sharing<S>;

    fn layer(&self, inner: S) -> Sharing<S> {
        Sharing { inner, shares: self.0.clone() }
    }
}

/// See [`ShareLayer`].
#[derive(Debug, Clone)]
pub struct Sharing<S> {
    inner: S,
    shares: Shares,
}

impl<S> Service<Request<Body>> for Sharing<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let caller = request.extensions().get::<Caller>().ok_or_else(status::unauthenticated);
        let entered = caller.and_then(|caller| {
            Ok((caller.name(), is_local_admin(caller), self.shares.enter(caller)?))
        });
        let (name, local_admin, (share, place)) = match entered {
            Ok(entered) => entered,
            Err(status) => return Box::pin(std::future::ready(Ok(status.into_http()))),
        };
        // The one that has said that it is ready.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let turns = self.shares.0.turns.clone();
        Box::pin(async move {
            let turn = match is_question(request.uri().path()) {
                true => match share.turn(&turns, &name, local_admin).await {
                    Ok(turn) => Some(turn),
                    Err(status) => return Ok(status.into_http()),
                },
                false => None,
            };
            let backlog = share.backlog.clone();
            let mut request =
                request.map(|body| Body::new(Intake::new(body, name, share.large.clone())));
            request.extensions_mut().insert(backlog.clone());
            // With all that goes on when the caller hangs up.
            let held: Held = Arc::new((place, turn));
            let response =
                carry::holding(held.clone(), share.threads.clone(), inner.call(request)).await?;
            Ok(response.map(|body| match body.is_end_stream() {
                true => body,
                false => Body::new(Outlet::new(body, backlog.answers, held)),
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Identity, Peer, Policy, policy::CurrentPolicy};

    fn caller(uid: u32) -> Caller {
        let policy =
            "[[caller]]\nuid = 1001\nrole = \"viewer\"\n[[caller]]\nuid = 1002\nrole = \"viewer\"";
        let policy = CurrentPolicy::new(Policy::parse(policy).unwrap());
        let identity = Identity::Local { uid, gid: uid, pid: None };
        policy.now().caller(&Arc::new(Peer { identity, address: "unix".into() })).unwrap()
    }

    #[test]
    fn threads_that_hang_are_counted_when_nothing_else_is_under_way() {
        let shares = Shares::new();
        let hangs = shares.of("a").threads.clone().try_acquire_owned().expect("one is free");
        assert_eq!(shares.of("a").threads.available_permits(), bounds::THREADS_EACH - 1);
        drop(hangs);
        assert_eq!(shares.of("a").threads.available_permits(), bounds::THREADS_EACH);
    }

    #[test]
    fn one_caller_does_not_take_all_calls_and_gets_its_own_back() {
        let shares = Shares::new();
        let held: Vec<_> = (0..CALLS_EACH).map(|_| shares.enter(&caller(1001)).unwrap()).collect();
        let refused = shares.enter(&caller(1001)).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(shares.enter(&caller(1002)).is_ok());
        drop(held);
        assert!(shares.enter(&caller(1001)).is_ok());
    }

    #[test]
    fn an_administrator_of_this_machine_gets_in_when_there_are_too_many_calls() {
        let shares = Shares::new();
        let _all = shares.0.calls.clone().try_acquire_many_owned(CALLS as u32).unwrap();
        assert!(shares.enter(&caller(1001)).is_err());
        assert!(shares.enter(&caller(0)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn questions_of_one_caller_wait_for_each_other_and_calls_do_not_wait_for_them() {
        let shares = Shares::new();
        let (share, turns) = (shares.of("a"), &shares.0.turns);
        assert!(is_question("/conti.v1.ProcessService/ListProcesses"));
        assert!(!is_question("/conti.v1.SessionService/Stream"));
        let mut held = Vec::new();
        while let Ok(turn) = share.turn(turns, "a", false).await {
            held.push(turn);
        }
        assert_eq!(held.len(), 15);
        assert!(shares.of("b").turn(turns, "b", false).await.is_ok());
        held.pop();
        assert!(share.turn(turns, "a", false).await.is_ok());
    }

    #[test]
    fn every_list_is_a_question_but_those_of_the_authority_which_has_turns_of_its_own() {
        let paths = conti_proto::METHODS.iter().map(|(path, _)| *path);
        let lists = paths.filter(|path| path.contains("/List") && !path.contains(".PkiService/"));
        let missing: Vec<&str> = lists.filter(|path| !is_question(path)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[tokio::test]
    async fn what_goes_on_when_its_caller_has_hung_up_counts_until_it_ends() {
        let layer = ShareLayer::new();
        let share = layer.0.of(&caller(1001).name());
        let end = Arc::new(Semaphore::new(0));
        let begun = Arc::new(Semaphore::new(0));
        let (end_seen, begins) = (end.clone(), begun.clone());
        let inner = tower::service_fn(move |_: Request<Body>| {
            let (end, begun) = (end_seen.clone(), begins.clone());
            async move {
                let work = carry::to_its_end(async move {
                    begun.add_permits(1);
                    let _ = end.acquire().await;
                });
                let _ = work.await;
                Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
            }
        });
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = "/conti.v1.MountService/CreateMount".parse().unwrap();
        request.extensions_mut().insert(caller(1001));
        let call = tokio::spawn(layer.layer(inner).call(request));
        let _begun = begun.acquire().await.unwrap();
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        let left = || (share.calls.available_permits(), share.questions.available_permits());
        assert_eq!(left(), (CALLS_EACH - 1, turns::EACH - 1), "it goes on");
        end.add_permits(1);
        let all = share.calls.acquire_many(CALLS_EACH as u32).await.unwrap();
        drop(all);
        let _all = share.questions.acquire_many(turns::EACH as u32).await.unwrap();
    }

    #[test]
    fn callers_that_have_nothing_under_way_are_forgotten() {
        let shares = Shares::new();
        for n in 0..100 {
            drop(shares.of(&n.to_string()));
        }
        assert_eq!(shares.0.each.lock().unwrap().len(), 1);
    }
}
