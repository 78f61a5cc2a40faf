//! What there is: containers by id and name, and sessions by id.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use super::{
    container::Container,
    error::{Error, Result},
    id,
    kept::Kept,
    requests::{Made, What},
    scope::Scope,
    session::{Session, store},
};

/// How many ended sessions are kept besides the main sessions of containers, of all identities together.
const ENDED_KEPT: usize = 100;

/// Everything that the engine knows of.
#[derive(Debug, Default)]
pub struct Registry {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    containers: BTreeMap<String, Arc<Container>>,
    names: HashMap<String, String>,
    sessions: HashMap<String, Arc<Session>>,
    /// Sessions whose command is about to run: nobody finds them yet.
    opening: HashMap<String, Arc<Session>>,
    /// Ended sessions that no container keeps, by who started them.
    ended: Kept,
}

impl Default for Inner {
    fn default() -> Self {
        Inner {
            containers: BTreeMap::new(),
            names: HashMap::new(),
            sessions: HashMap::new(),
            opening: HashMap::new(),
            ended: Kept::new(ENDED_KEPT),
        }
    }
}

impl Inner {
    /// Whether a container is named like the beginning of an id.
    fn is_named(&self, id: &str) -> bool {
        (id::PREFIX_MIN..=id.len()).any(|length| self.names.contains_key(&id[..length]))
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing below panics half way through a change.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds a container; its name becomes taken.
    pub fn add_container(&self, container: Arc<Container>) -> Result<()> {
        let mut inner = self.lock();
        let name = &container.spec.name;
        if let Some(id) = inner.names.get(name) {
            return Err(Error::NameTaken { name: name.clone(), id: Some(id.clone()) });
        }
        inner.names.insert(name.clone(), container.id.clone());
        inner.containers.insert(container.id.clone(), container);
        Ok(())
    }

    /// Removes a container. Its name is free again.
    pub fn remove_container(&self, container: &Container) {
        let mut inner = self.lock();
        inner.containers.remove(&container.id);
        if inner.names.get(&container.spec.name) == Some(&container.id) {
            inner.names.remove(&container.spec.name);
        }
    }

    /// Whether a name is free.
    pub fn name_is_free(&self, name: &str) -> bool {
        !self.lock().names.contains_key(name)
    }

    /// An id for a container, whose beginning is the name of no other one.
    pub fn new_id(&self) -> String {
        let inner = self.lock();
        loop {
            let id = id::new();
            if !inner.is_named(&id) {
                return id;
            }
        }
    }

    /// Finds a container by its whole id, and by nothing else: what is stored is found so. A name is chosen by a
    /// client, who would choose with it what stands in the place of a container that is gone.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        let found = self.lock().containers.get(id).cloned();
        found.ok_or_else(|| Error::NoSuchContainer(id.to_owned()))
    }

    /// Finds the container that a client names, by id, name, or a prefix of its id of at least four characters, as
    /// if there were only those that a scope sees. What is the name of one and the beginning of the id of another is
    /// neither, so that none hides the other: to refuse such a name would tell which ids there are. What has the form
    /// of an id is no name, also where an older agent let a container have it.
    pub fn named(&self, scope: &Scope, key: &str) -> Result<Arc<Container>> {
        let inner = self.lock();
        let seen = |container: &&Arc<Container>| scope.sees(&container.spec.labels);
        let missing = || Error::NoSuchContainer(key.to_owned());
        if id::is_one(key) {
            return inner.containers.get(key).filter(seen).cloned().ok_or_else(missing);
        }
        let by_name = inner.names.get(key).and_then(|id| inner.containers.get(id)).filter(seen);
        let by_prefix = inner
            .containers
            .range(key.to_owned()..)
            .take_while(|(id, _)| key.len() >= id::PREFIX_MIN && id.starts_with(key))
            .map(|(_, container)| container)
            .filter(seen)
            .filter(|container| by_name.is_none_or(|named| named.id != container.id));
        let mut fits = by_name.into_iter().chain(by_prefix);
        match (fits.next(), fits.next()) {
            (Some(container), None) => Ok(container.clone()),
            (Some(_), Some(_)) => Err(Error::AmbiguousContainer(key.to_owned())),
            (None, _) => Err(missing()),
        }
    }

    /// All containers, in no order.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.lock().containers.values().cloned().collect()
    }

    /// All containers, the oldest first.
    pub fn containers_by_age(&self) -> Vec<Arc<Container>> {
        let mut all = self.containers();
        all.sort_by(|a, b| (a.create_time, &a.id).cmp(&(b.create_time, &b.id)));
        all
    }

    /// Notes a session that is being opened, so that it is told of what changes around it.
    pub fn open_session(&self, session: Arc<Session>) {
        self.lock().opening.insert(session.id.clone(), session);
    }

    /// Forgets a session that did not come to be.
    pub fn close_session(&self, id: &str) {
        self.lock().opening.remove(id);
    }

    /// Adds a session.
    pub fn add_session(&self, session: Arc<Session>) {
        let mut inner = self.lock();
        inner.opening.remove(&session.id);
        inner.sessions.insert(session.id.clone(), session);
    }

    /// All sessions in a container, with those that are being opened.
    pub fn sessions_and_opening(&self, container: &str) -> Vec<Arc<Session>> {
        let inner = self.lock();
        let all = inner.sessions.values().chain(inner.opening.values());
        let fits = |session: &&Arc<Session>| {
            session.record.container.as_ref().is_some_and(|of| of.id == container)
        };
        all.filter(fits).cloned().collect()
    }

    /// Finds a session.
    pub fn session(&self, id: &str) -> Result<Arc<Session>> {
        self.lock().sessions.get(id).cloned().ok_or_else(|| Error::NoSuchSession(id.to_owned()))
    }

    /// All sessions, or those in a container, in no order.
    pub fn sessions(&self, container: Option<&str>) -> Vec<Arc<Session>> {
        let inner = self.lock();
        let fits = |session: &&Arc<Session>| match container {
            None => true,
            Some(id) => session.record.container.as_ref().is_some_and(|c| c.id == id),
        };
        inner.sessions.values().filter(fits).cloned().collect()
    }

    /// How many sessions there are that have not ended, and how many of them are of one identity.
    pub fn count_sessions(&self, maker: Option<&str>) -> (usize, usize) {
        let inner = self.lock();
        let all = inner.sessions.values().chain(inner.opening.values());
        all.filter(|session| !session.ended()).fold((0, 0), |(all, own), session| {
            (all + 1, own + usize::from(session.record.maker.as_deref() == maker))
        })
    }

    /// What a request has made that is there still.
    pub fn made_by(&self, request: &str) -> Option<Made> {
        let inner = self.lock();
        let is = |id: &Option<String>| id.as_deref() == Some(request);
        let container = inner.containers.values().find(|one| is(&one.request_id)).cloned();
        let session = inner.sessions.values().find(|one| is(&one.record.request_id)).cloned();
        drop(inner);
        // What is left of one that could not be removed is none that was made.
        let container = container.filter(|container| !container.now().deleted);
        let container = container.map(|container| Made {
            what: What::Container,
            id: container.id.clone(),
            digest: container.request_digest.clone(),
        });
        container.or_else(|| {
            session.map(|session| Made {
                what: What::Session,
                id: session.id.clone(),
                digest: session.record.request_digest.clone(),
            })
        })
    }

    /// Keeps an ended session for a while. Whoever has most of those that are kept so loses its oldest.
    pub fn keep_ended(&self, session: &Session) {
        let forgotten = {
            let mut inner = self.lock();
            let owner = session.record.maker.as_deref().unwrap_or_default();
            let oldest = inner.ended.push(owner, session.id.clone());
            oldest.and_then(|oldest| inner.sessions.remove(&oldest))
        };
        if let Some(session) = forgotten {
            store::remove(&session.dir);
        }
    }

    /// Forgets a session.
    pub fn remove_session(&self, id: &str) {
        let mut inner = self.lock();
        if let Some(session) = inner.sessions.remove(id) {
            inner.ended.remove(session.record.maker.as_deref().unwrap_or_default(), id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_does_not_begin_with_the_name_of_another_container() {
        let mut inner = Inner::default();
        let id = id::new();
        assert!(!inner.is_named(&id));
        // Too short to stand for an id.
        inner.names.insert(id[..3].to_owned(), id::new());
        assert!(!inner.is_named(&id));
        for length in [4, 12, 32] {
            inner.names.insert(id[..length].to_owned(), id::new());
            assert!(inner.is_named(&id));
            inner.names.remove(&id[..length]);
        }
    }
}
