//! What an earlier agent left of containers: unfinished creations and removals, and records that cannot be read.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::future::join_all;
use tracing::{info, warn};

use super::{
    Engine, bounds,
    container::{Container, PidNamespace},
    spec::ContainerSpec,
};

impl Engine {
    /// Resumes removals that an earlier agent began, and removes what it had not finished creating. Long removals
    /// continue in the background.
    pub(super) async fn finish_removals(self: &Arc<Self>, left: Vec<PathBuf>) {
        let removals = left.into_iter().filter_map(|dir| {
            info!(dir = %dir.display(), "what is left of a container is removed");
            let container = match Container::read_removed(&dir) {
                Ok(record) => Container::from_record(record, &self.containers_dir),
                Err(_) => {
                    self.unknown(&dir, "nothing is known of it; it can only be deleted".into())
                }
            };
            let id = container.id.clone();
            container.now().left = Some("it is being removed".to_owned());
            if let Err(error) = self.registry.add_container(Arc::new(container)) {
                warn!(dir = %dir.display(), %error, "a container cannot be taken over");
                return None;
            }
            let engine = self.clone();
            Some(tokio::spawn(async move { engine.delete(&id, true).await }))
        });
        let removals = join_all(removals.collect::<Vec<_>>());
        if tokio::time::timeout(bounds::STARTING_REMOVALS, removals).await.is_err() {
            info!("some removals take longer and continue in the background");
        }
    }

    /// A container without a record that can be read.
    pub(super) fn unknown(&self, dir: &Path, problem: String) -> Container {
        let id = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let spec = ContainerSpec { name: id.clone(), ..ContainerSpec::unknown() };
        let mut container = Container::new(id, spec, &self.containers_dir, None);
        container.unknown = true;
        {
            let mut now = container.now();
            now.quarantined = Some(problem);
            now.pid_namespace = PidNamespace::Unknown;
        }
        container
    }
}
