//! The files of a target.

use conti_runtime::inspect::question::{Answer, Entry, Held, Measure, Question};

use super::{Engine, error::Result, inspect::Inspection, spec::Target};

/// What is told of files, in parts.
#[derive(Debug)]
pub struct Files<T> {
    inspection: Inspection,
    pick: fn(Answer) -> Option<T>,
}

/// A part of a file.
#[derive(Debug)]
pub enum Content {
    /// How large it is, in bytes. The first of all.
    Size(u64),
    /// The next bytes.
    Data(Vec<u8>),
}

/// A part of a measurement.
#[derive(Debug)]
pub enum Measured {
    /// How many files were seen, and what they take in bytes.
    Progress(u64, u64),
    /// A result.
    Held(Held),
}

impl Engine {
    /// Lists a directory of a target.
    pub async fn list_directory(&self, target: &Target, path: Vec<u8>) -> Result<Files<Entry>> {
        let of = self.process_of(target, "look into")?;
        self.files(target, &Question::List { of, path }, |answer| match answer {
            Answer::Entry(entry) => Some(entry),
            _ => None,
        })
        .await
    }

    /// Reads a regular file of a target.
    pub async fn read_file(
        &self,
        target: &Target,
        path: Vec<u8>,
        offset: u64,
        limit: u64,
    ) -> Result<Files<Content>> {
        let of = self.process_of(target, "look into")?;
        self.files(target, &Question::Read { of, path, offset, limit }, |answer| match answer {
            Answer::File { size } => Some(Content::Size(size)),
            Answer::Data(data) => Some(Content::Data(data)),
            _ => None,
        })
        .await
    }

    /// Measures how much directories of a target hold.
    pub async fn measure_usage(
        &self,
        target: &Target,
        paths: Vec<Vec<u8>>,
        one_file_system: bool,
        max_depth: u32,
        top: u32,
    ) -> Result<Files<Measured>> {
        let of = self.process_of(target, "look into")?;
        let measure = Measure { of, paths, one_file_system, max_depth, top };
        self.files(target, &Question::Measure(measure), |answer| match answer {
            Answer::Progress { seen, allocated } => Some(Measured::Progress(seen, allocated)),
            Answer::Held(held) => Some(Measured::Held(held)),
            _ => None,
        })
        .await
    }

    async fn files<T>(
        &self,
        target: &Target,
        question: &Question,
        pick: fn(Answer) -> Option<T>,
    ) -> Result<Files<T>> {
        Ok(Files { inspection: self.look_into(target, question).await?, pick })
    }
}

impl<T> Files<T> {
    /// The next parts. `None`: that was all.
    pub async fn more(&mut self) -> Result<Option<Vec<T>>> {
        let answers = self.inspection.next().await?;
        Ok(answers.map(|answers| answers.into_iter().filter_map(self.pick).collect()))
    }
}
