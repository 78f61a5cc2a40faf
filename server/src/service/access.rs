//! The door: whether a caller may use a method at all.
//!
//! A method is known by its exact path and has a least role in the contract; whatever is not in the table is
//! refused, and so is whoever is not known. What of a request is allowed is decided in [`super::call`].

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
};

use conti_proto::{METHODS, v1};
use http::{
    Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, ORIGIN},
};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::status;
use crate::{
    access::{Caller, Peer, Role, policy::CurrentPolicy},
    audit::{Log, Subject, Who},
    listen::PeerInfo,
};

/// Methods of other contracts that the agent serves. Their descriptors say nothing of roles.
const FOREIGN: [(&str, Role); 4] = [
    ("/grpc.health.v1.Health/Check", Role::Viewer),
    ("/grpc.health.v1.Health/Watch", Role::Viewer),
    ("/grpc.health.v1.Health/List", Role::Viewer),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Role::Viewer),
];

/// The least role for each method, by its path.
static LEAST: LazyLock<HashMap<&str, Role>> = LazyLock::new(|| {
    let own = METHODS.iter().filter_map(|(path, role)| Some((*path, role_of(*role)?)));
    own.chain(FOREIGN).collect()
});

/// `None`: no role is enough; guests have an edge of their own.
fn role_of(role: v1::Role) -> Option<Role> {
    match role {
        v1::Role::Viewer => Some(Role::Viewer),
        v1::Role::Operator => Some(Role::Operator),
        v1::Role::Admin => Some(Role::Admin),
        v1::Role::Unspecified | v1::Role::Guest => None,
    }
}

/// Wraps all services of the agent.
#[derive(Debug, Clone)]
pub struct AccessLayer {
    policy: CurrentPolicy,
    log: Log,
}

impl AccessLayer {
    /// Decides by a policy, as it is at the moment of each call, and records whom it refuses.
    pub fn new(policy: CurrentPolicy, log: Log) -> AccessLayer {
        AccessLayer { policy, log }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Access { inner, policy: self.policy.clone(), log: self.log.clone() }
    }
}

/// See [`AccessLayer`].
#[derive(Debug, Clone)]
pub struct Access<S> {
    inner: S,
    policy: CurrentPolicy,
    log: Log,
}

impl<S> Access<S> {
    fn admit(&self, path: &str, peer: Option<&Arc<Peer>>) -> Result<Caller, Status> {
        let peer = peer.ok_or_else(status::unauthenticated)?;
        let caller = self.policy.now().caller(peer).ok_or_else(|| status::no_role(peer))?;
        let least = LEAST.get(path).ok_or_else(|| status::unknown_method(path))?;
        if caller.role < *least {
            return Err(status::denied(&caller, *least, "method", &in_words(path)));
        }
        Ok(caller)
    }

    fn refused(&self, path: &str, peer: Option<&Arc<Peer>>, status: &Status) {
        let caller = peer.and_then(|peer| self.policy.now().caller(peer));
        let who = match (&caller, peer) {
            (Some(caller), _) => Who::of(caller),
            (None, Some(peer)) => Who::nobody(peer),
            (None, None) => Who::default(),
        };
        let code = status::code_name(status.code());
        self.log.denied(who, path, Subject::default(), code, status.message());
    }
}

/// A method in words, and as it is: `stop container (conti.v1.ContainerService/StopContainer)`.
fn in_words(path: &str) -> String {
    let path = path.trim_start_matches('/');
    let method = path.rsplit('/').next().unwrap_or(path);
    let mut words = String::new();
    for letter in method.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    format!("{words} ({path})")
}

/// Whether a request is a call of gRPC. A page in a browser can have others sent, with the certificate of who looks at
/// it: without asking the agent first it may send neither this type of content, nor leave out where it comes from.
fn is_call<B>(request: &Request<B>) -> Result<(), (StatusCode, Status)> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let content = header(CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
    let rest = content.strip_prefix("application/grpc");
    let grpc = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']));
    let problem = |code, what: &str| Err((code, status::no_call(what)));
    if request.method() != Method::POST {
        return problem(StatusCode::METHOD_NOT_ALLOWED, "its method is not POST");
    }
    if !grpc {
        let what = "its content-type is not application/grpc";
        return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, what);
    }
    if request.uri().query().is_some() {
        return problem(StatusCode::NOT_FOUND, "its path has a query");
    }
    match request.headers().contains_key(ORIGIN) {
        true => problem(StatusCode::FORBIDDEN, "it comes from a page in a browser"),
        false => Ok(()),
    }
}

/// The least role for a method; `None`: there is no such method, or it is for guests.
pub fn least(path: &str) -> Option<Role> {
    LEAST.get(path).copied()
}

impl<S> Service<Request<Body>> for Access<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<PeerInfo>().map(|info| info.0.clone());
        if let Err((code, status)) = is_call(&request) {
            self.refused(request.uri().path(), peer.as_ref(), &status);
            let mut response = status.into_http();
            *response.status_mut() = code;
            return Box::pin(std::future::ready(Ok(response)));
        }
        match self.admit(request.uri().path(), peer.as_ref()) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Box::pin(self.inner.call(request))
            }
            Err(status) => {
                self.refused(request.uri().path(), peer.as_ref(), &status);
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Identity, Policy};

    fn admit(uid: u32, path: &str) -> Result<Role, tonic::Code> {
        let policy = "[[caller]]\nuid = 1001\nrole = \"viewer\"\n[[caller]]\nuid = 1002\nrole = \"operator\"";
        let policy = CurrentPolicy::new(Policy::parse(policy).unwrap());
        let identity = Identity::Local { uid, gid: uid, pid: None };
        let peer = Arc::new(Peer { identity, address: "unix".into() });
        let access = AccessLayer::new(policy, Log::none()).layer(());
        access.admit(path, Some(&peer)).map(|caller| caller.role).map_err(|status| status.code())
    }

    #[test]
    fn every_method_but_joining_has_a_rule() {
        for (path, role) in METHODS {
            assert_eq!(LEAST.contains_key(path), *role != v1::Role::Guest, "{path}");
        }
    }

    #[test]
    fn a_method_is_for_its_role_and_those_above() {
        for (uid, role) in [(1001, Role::Viewer), (1002, Role::Operator), (0, Role::Admin)] {
            for (path, least) in LEAST.iter() {
                let expected =
                    if role >= *least { Ok(role) } else { Err(tonic::Code::PermissionDenied) };
                assert_eq!(admit(uid, path), expected, "{path} as {role:?}");
            }
        }
        assert_eq!(
            admit(1003, "/conti.v1.AgentService/GetAgent"),
            Err(tonic::Code::PermissionDenied)
        );
    }

    #[test]
    fn a_path_that_is_not_exactly_a_method_is_none() {
        for path in [
            "",
            "/",
            "conti.v1.AgentService/GetAgent",
            "//conti.v1.AgentService/GetAgent",
            "/conti.v1.AgentService//GetAgent",
            "/conti.v1.AgentService/GetAgent/",
            "/conti.v1.AgentService%2fGetAgent",
            "/conti.v1.agentservice/getagent",
            "/conti.v1.AgentService/GetAgent?x",
            "/conti.v1.AgentService/getAgent",
            "/conti.v1.AgentService/../AgentService/GetAgent",
            "/conti.v1.JoinService/Join",
        ] {
            assert_eq!(admit(0, path), Err(tonic::Code::Unimplemented), "{path:?}");
        }
    }

    #[test]
    fn what_a_page_in_a_browser_can_send_is_no_call() {
        let request = |method: &str, uri: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder().method(method).uri(uri);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            is_call(&request.body(()).unwrap()).map_err(|(code, _)| code.as_u16())
        };
        let uri = "https://agent/conti.v1.AgentService/GetAgent";
        let grpc = ("content-type", "application/grpc");
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc;charset=x"] {
            assert_eq!(request("POST", uri, &[("content-type", kind)]), Ok(()));
        }
        for method in ["GET", "PUT", "HEAD", "OPTIONS", "CONNECT"] {
            assert_eq!(request(method, uri, &[grpc]), Err(405), "{method}");
        }
        for kind in ["text/plain;charset=UTF-8", "application/json", "application/grpc-web", ""] {
            assert_eq!(request("POST", uri, &[("content-type", kind)]), Err(415), "{kind}");
        }
        assert_eq!(request("POST", uri, &[]), Err(415));
        assert_eq!(request("POST", &format!("{uri}?x=1"), &[grpc]), Err(404));
        assert_eq!(request("POST", &format!("{uri}?"), &[grpc]), Err(404));
        assert_eq!(request("POST", uri, &[grpc, ("origin", "https://evil.example")]), Err(403));
    }

    #[test]
    fn nobody_known_is_let_in() {
        let access = AccessLayer::new(CurrentPolicy::new(Policy::default()), Log::none()).layer(());
        let refused = access.admit("/conti.v1.AgentService/GetAgent", None).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
        let guest = Peer { identity: Identity::Guest, address: "10.0.0.1:1".into() };
        let refused = access.admit("/conti.v1.JoinService/Join", Some(&Arc::new(guest)));
        assert_eq!(refused.unwrap_err().code(), tonic::Code::PermissionDenied);
    }
}
