//! The mounts that a target sees.
//!
//! - [`live`]: those that are made in it and taken away again; [`made`]: their records; [`look`]: whether they are
//!   there; `prepare`: what is mounted;
//! - [`lock`]: one change of a mount namespace at a time.

pub mod live;
pub mod lock;
mod look;
pub mod made;
mod prepare;

use std::sync::Arc;

use conti_runtime::inspect::question::{Answer, Mount, Question};

use self::made::{Made, MadeMounts};
use super::{Engine, error::Result, inspect::Inspection, spec::Target};

/// Which mounts are wanted. Each list that is not empty must hold what the mount has.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Types of filesystems.
    pub fs_types: Vec<String>,
    /// Sources.
    pub sources: Vec<Vec<u8>>,
    /// Where they lie.
    pub points: Vec<Vec<u8>>,
}

impl Filter {
    fn wants(&self, mount: &Mount) -> bool {
        let is_one_of = |list: &[Vec<u8>], value| list.is_empty() || list.contains(value);
        let types = &self.fs_types;
        let of_type = || types.iter().any(|name| name.as_bytes() == mount.fs_type);
        (types.is_empty() || of_type())
            && is_one_of(&self.sources, &mount.source)
            && is_one_of(&self.points, &mount.point)
    }
}

/// Mounts as they are found.
#[derive(Debug)]
pub struct Mounts {
    inspection: Inspection,
    filter: Filter,
    made: Arc<MadeMounts>,
}

impl Engine {
    /// Finds the mounts that a target sees; `usage`: and how full they are.
    pub async fn mounts(&self, target: &Target, filter: Filter, usage: bool) -> Result<Mounts> {
        let of = self.process_of(target, "look into")?;
        let inspection = self.look_into(target, &Question::Mounts { of, usage }).await?;
        Ok(Mounts { inspection, filter, made: self.made_mounts.clone() })
    }
}

impl Mounts {
    /// The next ones, and how they were made where that was here. `None`: that was all.
    pub async fn more(&mut self) -> Result<Option<Vec<(Mount, Option<Arc<Made>>)>>> {
        while let Some(answers) = self.inspection.next().await? {
            let mounts = answers.into_iter().filter_map(|answer| match answer {
                Answer::Mount(mount) if self.filter.wants(&mount) => {
                    let made = self.made.named(mount.id);
                    Some((mount, made))
                }
                _ => None,
            });
            let mounts: Vec<_> = mounts.collect();
            if !mounts.is_empty() {
                return Ok(Some(mounts));
            }
        }
        Ok(None)
    }
}
