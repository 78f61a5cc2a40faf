//! Requests that may be repeated: told apart by what they ask for, and answered by the rights of the moment.
//!
//! What is compared is the message as it came, and not what the agent makes of it: that depends on its version and on
//! the policy of the moment. How long a caller waits, and how much it takes at a time, are no part of it.

use std::{fmt::Write as _, sync::Arc};

use prost::Message;
use ring::digest::{Context, SHA256};
use tonic::Status;

use super::call::Call;
use crate::engine::{Engine, requests::Request, session::Session};

/// The digest of what a method is asked for. Equal messages are written equally: their maps are ordered.
pub fn digest(method: &str, message: &impl Message) -> String {
    let mut context = Context::new(&SHA256);
    context.update(method.as_bytes());
    context.update(&[0]);
    context.update(&message.encode_to_vec());
    context.finish().as_ref().iter().fold(String::new(), |mut text, byte| {
        // A String takes all that is written.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Call {
    /// The request of this call, where its client gave it an id.
    pub fn request(&self, id: Option<String>, digest: String) -> Option<Request> {
        id.map(|id| Request { key: self.caller.request_key(&id), id, digest })
    }

    /// Checks the session that a request is answered by. One that an earlier request has started is given as to one
    /// who attaches to it: its caller may have lost the rights since, and it may have come to reach more.
    pub async fn answered(
        &self,
        engine: &Engine,
        session: &Arc<Session>,
        repeated: bool,
    ) -> Result<(), Status> {
        match repeated {
            true => self.drive(engine, &session.id).await.map(drop),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use conti_proto::v1::{ContainerSpec, RunContainer};

    use super::*;

    fn run(name: &str, labels: &[&str]) -> RunContainer {
        let labels = labels.iter().map(|name| ((*name).to_owned(), String::new())).collect();
        RunContainer {
            spec: Some(ContainerSpec { name: name.to_owned(), labels, ..Default::default() }),
        }
    }

    #[test]
    fn equal_requests_have_equal_digests_and_others_have_others() {
        let one = digest("run", &run("a", &["x", "y"]));
        assert_eq!(one.len(), 64);
        assert_eq!(one, digest("run", &run("a", &["y", "x"])));
        for other in [
            digest("start", &run("a", &["x", "y"])),
            digest("run", &run("b", &["x", "y"])),
            digest("run", &run("a", &["x"])),
            digest("run", &RunContainer { spec: None }),
        ] {
            assert_ne!(one, other);
        }
    }
}
