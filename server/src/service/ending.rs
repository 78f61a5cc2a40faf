//! Ending: whoever made a container or started a session may end it, also when it may not enter or read it any
//! more, because a grant was taken away, the container that it joined is gone, or an admin has changed it.
//!
//! Ending gives nothing away: no output, no file, no namespace. Whose it is is stored with it, by the name of the
//! identity ([`Identity::name`](crate::access::Identity::name)), which no two kinds of identities share.

use std::sync::Arc;

use tonic::Status;

use super::call::Call;
use crate::{
    access::Role,
    engine::{Engine, container::Container, session::Session},
};

impl Call {
    /// Finds a container to end it: stop, kill or delete.
    pub async fn end(&self, engine: &Engine, key: &str) -> Result<Arc<Container>, Status> {
        let container = self.see(engine, key)?;
        if !self.made(container.spec.maker.as_deref()) {
            self.check_inside(engine, &container).await?;
        }
        Ok(container)
    }

    /// Finds a session to end it: a signal, or the end of its input. What another has started in one's own
    /// container is not one's own: it ends with the container.
    pub async fn end_session(&self, engine: &Engine, id: &str) -> Result<Arc<Session>, Status> {
        let session = self.session(engine, id)?;
        self.at_least(Role::Operator, "session", "it ends a session")?;
        if !self.made(session.record.maker.as_deref()) {
            self.check_driver(engine, &session).await?;
        }
        Ok(session)
    }

    /// Whether it is the caller who made something. Where nothing is known of its maker, nobody did.
    fn made(&self, maker: Option<&str>) -> bool {
        maker == Some(self.caller.name().as_str())
    }
}
