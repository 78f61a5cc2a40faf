//! What a method adds to the record of its call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ends;
use crate::{
    audit::{Open, Outcome, Subject},
    engine::{carry::Witness, container::Container, session::Session},
};

/// The record of a call that is under way. Clones are the same one, and with the last of them it has its end.
#[derive(Debug, Clone)]
pub struct Ticket(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// `None`: the end was written.
    open: Option<Open>,
    session: Option<Arc<Session>>,
    /// Whether the call has started that session.
    started: bool,
    /// Whether the call has begun work that has ended since, and what went wrong with it.
    carried_out: Option<Result<(), String>>,
}

impl Ticket {
    /// Of a call that was begun.
    pub(super) fn new(open: Open) -> Ticket {
        let open = Some(open);
        let state = State { open, session: None, started: false, carried_out: None };
        Ticket(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The container that was meant.
    pub fn container(&self, container: &Container) {
        if let Some(open) = &mut self.state().open {
            open.subject(|subject| name(subject, &container.id, &container.spec.name));
        }
    }

    /// The session that was meant.
    pub fn session(&self, session: &Arc<Session>) {
        self.of(session, false);
    }

    fn of(&self, session: &Arc<Session>, started: bool) {
        let mut state = self.state();
        if let Some(open) = &mut state.open {
            open.subject(|subject| {
                subject.session = Some(session.id.clone());
                if let Some(container) = &session.record.container {
                    name(subject, &container.id, &container.name);
                }
            });
            if started {
                ends::keep(open, session);
            }
        }
        state.session = Some(session.clone());
        state.started |= started;
    }

    /// The call is over.
    pub(super) fn end(&self, outcome: Outcome) {
        self.state().end(outcome);
    }

    /// The call was refused.
    pub(super) fn denied(&self, code: &str, why: &str) {
        let open = self.state().open.take();
        if let Some(open) = open {
            open.denied(code, why);
        }
    }
}

impl Witness for Ticket {
    fn made(&self, container: &Container) {
        self.container(container);
    }

    fn started(&self, session: &Arc<Session>) {
        self.of(session, true);
    }

    fn ended(&self, problem: Option<&dyn std::error::Error>) {
        self.state().carried_out = Some(problem.map_or(Ok(()), |problem| Err(problem.to_string())));
    }
}

impl State {
    /// Writes the end. The session that was started may not be over: then that has an end of its own.
    fn end(&mut self, outcome: Outcome) {
        let (open, session, started) = (self.open.take(), self.session.take(), self.started);
        let Some(open) = open else { return };
        let Some(session) = session else { return open.end(outcome) };
        match session.info().end {
            Some(end) if started => ends::now(open, outcome, session, &end),
            Some(end) => drop(open.end_with(outcome, &end)),
            None if started => {
                let later = open.again();
                open.end(outcome);
                ends::later(later, session);
            }
            None => open.end(outcome),
        }
    }
}

impl Drop for State {
    /// The caller had gone before it was answered.
    fn drop(&mut self) {
        let what = match self.carried_out.take() {
            None => String::new(),
            Some(Ok(())) => "the caller had gone; it was carried out all the same".to_owned(),
            Some(Err(problem)) => format!("the caller had gone, and it failed: {problem}"),
        };
        self.end(Outcome::of("CANCELLED", &what));
    }
}

fn name(subject: &mut Subject, id: &str, name: &str) {
    subject.target = Some(name.to_owned());
    subject.container = Some(id.to_owned());
}
