//! What is wrong with a request: the fault's field and the fault.

use std::fmt;

/// How many faults are named. A hostile request has as many as it likes, and the answer must fit
/// into the headers that a client accepts.
const MAX_NAMED: usize = 24;
/// How much of a field's path is told, in bytes: map keys are the client's.
const MAX_PATH: usize = 200;
/// How much of a problem is told, in bytes.
const MAX_PROBLEM: usize = 240;

/// Where in a request something stands: `open.run.spec.mounts[2].target`.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    parent: Option<&'a Field<'a>>,
    step: Step<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Field<'a> {
    /// A field of the request itself.
    pub fn root(name: &'a str) -> Field<'a> {
        Field { parent: None, step: Step::Name(name) }
    }

    /// A field of the message in this field.
    pub fn name(&'a self, name: &'a str) -> Field<'a> {
        Field { parent: Some(self), step: Step::Name(name) }
    }

    /// An element of this repeated field.
    pub fn index(&'a self, index: usize) -> Field<'a> {
        Field { parent: Some(self), step: Step::Index(index) }
    }

    /// A value of this map.
    pub fn key(&'a self, key: &'a str) -> Field<'a> {
        Field { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match (self.step, self.parent) {
            (Step::Name(name), None) => f.write_str(name),
            (Step::Name(name), Some(_)) => write!(f, ".{name}"),
            (Step::Index(index), _) => write!(f, "[{index}]"),
            (Step::Key(key), _) => write!(f, "[{key:?}]"),
        }
    }
}

/// The faults of one request.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Violations {
    named: Vec<(String, String)>,
    total: usize,
}

impl Violations {
    /// Notes that the field at `at` has a problem: the end of a sentence that begins with it.
    pub fn add(&mut self, at: Field<'_>, problem: impl fmt::Display) {
        self.total += 1;
        if self.named.len() < MAX_NAMED {
            let path = cut(at.to_string(), MAX_PATH);
            let problem = cut(problem.to_string(), MAX_PROBLEM);
            self.named.push((path, problem));
        }
    }

    /// Notes the problem of a check that failed.
    pub fn check<E: fmt::Display>(&mut self, at: Field<'_>, result: Result<(), E>) {
        if let Err(problem) = result {
            self.add(at, problem);
        }
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Each fault: its field's path and what is wrong with it.
    pub fn named(&self) -> &[(String, String)] {
        &self.named
    }

    /// How many faults there are, those that are not named among them.
    pub fn total(&self) -> usize {
        self.total
    }

    /// A single fault.
    pub fn one(field: impl Into<String>, problem: impl Into<String>) -> Violations {
        let named = vec![(cut(field.into(), MAX_PATH), cut(problem.into(), MAX_PROBLEM))];
        Violations { named, total: 1 }
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const TOLD: usize = 3;
        for (n, (field, problem)) in self.named.iter().take(TOLD).enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{field} {problem}")?;
        }
        match self.total.saturating_sub(TOLD) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// Runs a conversion, and gives out what it made only when it found no fault.
pub fn checked<T>(convert: impl FnOnce(&mut Violations) -> T) -> Result<T, Violations> {
    let mut violations = Violations::default();
    let value = convert(&mut violations);
    if violations.is_empty() { Ok(value) } else { Err(violations) }
}

/// Quotes what a client sent, so that it can be told and is not long.
pub fn quote(text: &str) -> String {
    let mut shown: String = text.chars().take(64).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// Cuts a text down to at most `max` bytes and a sign that it was cut.
pub fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_written_as_a_path() {
        let spec = Field::root("spec");
        let mounts = spec.name("mounts");
        let mount = mounts.index(2);
        assert_eq!(mount.name("target").to_string(), "spec.mounts[2].target");
        let labels = spec.name("labels");
        assert_eq!(labels.key("a\0b").to_string(), r#"spec.labels["a\0b"]"#);
    }

    #[test]
    fn many_and_long_faults_stay_small() {
        let mut violations = Violations::default();
        let long = "ä".repeat(100_000);
        let env = Field::root("env");
        for _ in 0..100_000 {
            violations.add(env.key(&long), &long);
        }
        assert_eq!(violations.total(), 100_000);
        let size: usize = violations.named().iter().map(|(f, p)| f.len() + p.len()).sum();
        assert!(size < 12_000, "{size}");
        assert!(violations.to_string().ends_with("and 99997 more"));
    }

    #[test]
    fn what_has_faults_is_not_given_out() {
        assert_eq!(checked(|_| 1), Ok(1));
        let result = checked(|v| v.add(Field::root("a"), "is empty"));
        assert_eq!(result, Err(Violations::one("a", "is empty")));
    }
}
