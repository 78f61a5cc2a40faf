//! Containers: create, start, stop, kill, delete, get, list, wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use conti_proto::v1;
use conti_proto::v1::{
    CreateContainerRequest, CreateContainerResponse, DeleteContainerRequest,
    DeleteContainerResponse, GetContainerRequest, GetContainerResponse, KillContainerRequest,
    KillContainerResponse, ListContainersRequest, ListContainersResponse, StartContainerRequest,
    StartContainerResponse, StopContainerRequest, StopContainerResponse, WaitContainerRequest,
    WaitContainerResponse, container_service_server::ContainerService,
};
use conti_shared::{name, signal};
use tonic::{Request, Response, Status};

use super::{
    call::Call,
    convert::{Field, Violations, container, info, text},
    page::{Page, Place},
    repeats,
    status::{self, valid},
    stopping::Stopping,
};
use crate::engine::{Engine, container::Container, error::Error, requests::Answer};

/// How long a container has to end by itself, where nothing was said.
const GRACE: Duration = Duration::from_secs(10);

/// Serves `conti.v1.ContainerService`.
#[derive(Debug)]
pub struct Containers {
    engine: Arc<Engine>,
    stopping: Stopping,
}

impl Containers {
    /// Serves an engine until the agent stops.
    pub fn new(engine: Arc<Engine>, stopping: Stopping) -> Containers {
        Containers { engine, stopping }
    }
}

#[tonic::async_trait]
impl ContainerService for Containers {
    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Result<Response<CreateContainerResponse>, Status> {
        let call = Call::of(&request)?;
        let mut message = request.into_inner();
        let request_id = std::mem::take(&mut message.request_id);
        let digest = repeats::digest("CreateContainer", &message);
        let CreateContainerRequest { spec, start, .. } = message;
        let (spec, request_id) = valid(|v| {
            let spec = container::container(v, Field::root("spec"), spec);
            (spec, text::request_id(v, Field::root("request_id"), request_id))
        })?;
        let spec = call.container(&self.engine, "spec", spec).await?;
        let record = call.recorded(&spec.io);
        let request = call.request(request_id, digest);
        let made = self.engine.create(spec, request, start, record).await;
        let Answer { made, repeated } =
            made.map_err(|error| status::of(call.hide(&self.engine, error)))?;
        // What an earlier request made, when its caller may have had more. What this one made is not looked up again:
        // it may have removed itself by now.
        if repeated {
            call.enter(&self.engine, &made.id).await?;
        }
        let container = Some(info::container(made.info()));
        Ok(Response::new(CreateContainerResponse { container }))
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Result<Response<StartContainerResponse>, Status> {
        let call = Call::of(&request)?;
        let StartContainerRequest { mut container, request_id } = request.into_inner();
        let request_id = valid(|v| {
            text::container_key(v, Field::root("container"), &container);
            text::request_id(v, Field::root("request_id"), request_id)
        })?;
        let found = call.restart(&self.engine, &container).await?;
        // Another one may have the name when it is repeated.
        container.clone_from(&found.id);
        let message = StartContainerRequest { container, request_id: String::new() };
        let request = call.request(request_id, repeats::digest("StartContainer", &message));
        let record = call.recorded(&found.spec.io);
        let started = self.engine.start_container(&found.id, request, record).await;
        let started = started.map_err(status::of)?;
        let container = Some(info::container(started));
        Ok(Response::new(StartContainerResponse { container }))
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Result<Response<StopContainerResponse>, Status> {
        let call = Call::of(&request)?;
        let StopContainerRequest { container, signal, grace } = request.into_inner();
        let (signal, grace) = valid(|v| {
            text::container_key(v, Field::root("container"), &container);
            let signal = text::signal(v, Field::root("signal"), &signal, Some(signal::SIGTERM));
            let grace = grace.map(|grace| text::duration(v, Field::root("grace"), grace));
            (signal, grace.unwrap_or(GRACE))
        })?;
        let id = call.end(&self.engine, &container).await?.id.clone();
        let stopped = self.stopping.or(self.engine.stop(&id, signal, grace)).await?;
        let container = Some(info::container(stopped.map_err(status::of)?));
        Ok(Response::new(StopContainerResponse { container }))
    }

    async fn kill_container(
        &self,
        request: Request<KillContainerRequest>,
    ) -> Result<Response<KillContainerResponse>, Status> {
        let call = Call::of(&request)?;
        let KillContainerRequest { container, signal } = request.into_inner();
        let signal = valid(|v| {
            text::container_key(v, Field::root("container"), &container);
            text::signal(v, Field::root("signal"), &signal, Some(signal::SIGKILL))
        })?;
        let id = call.end(&self.engine, &container).await?.id.clone();
        self.engine.kill(&id, signal).await.map_err(status::of)?;
        Ok(Response::new(KillContainerResponse {}))
    }

    async fn delete_container(
        &self,
        request: Request<DeleteContainerRequest>,
    ) -> Result<Response<DeleteContainerResponse>, Status> {
        let call = Call::of(&request)?;
        let DeleteContainerRequest { container, force, allow_missing } = request.into_inner();
        valid(|v| text::container_key(v, Field::root("container"), &container))?;
        let deleted = match self.engine.find(&call.caller.scope, &container) {
            Ok(found) => {
                call.end(&self.engine, &found.id).await?;
                self.engine.delete(&found.id, force).await
            }
            Err(error) => Err(error),
        };
        match deleted {
            Err(Error::NoSuchContainer(_)) if allow_missing => {}
            result => result.map_err(status::of)?,
        }
        Ok(Response::new(DeleteContainerResponse {}))
    }

    async fn get_container(
        &self,
        request: Request<GetContainerRequest>,
    ) -> Result<Response<GetContainerResponse>, Status> {
        let call = Call::of(&request)?;
        let GetContainerRequest { container } = request.into_inner();
        valid(|v| text::container_key(v, Field::root("container"), &container))?;
        let found = call.see(&self.engine, &container)?;
        let container = Some(info::container(found.info()));
        Ok(Response::new(GetContainerResponse { container }))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let call = Call::of(&request)?;
        let message = request.into_inner();
        let (filter, page) = valid(|v| {
            let filter = Filter::parse(v, message.states, message.labels);
            (filter, Page::parse(v, message.page_size, &message.page_token))
        })?;
        let all = self
            .engine
            .containers(&call.caller.scope)
            .into_iter()
            .filter(|container| filter.takes(container));
        let place = |of: &Arc<Container>| Place::new(of.create_time, &of.id);
        // Told of those on the page alone: a specification may be large.
        let message = |of: Arc<Container>| info::container(of.info());
        let (containers, next_page_token) = page.cut(all, place, message);
        Ok(Response::new(ListContainersResponse { containers, next_page_token }))
    }

    async fn wait_container(
        &self,
        request: Request<WaitContainerRequest>,
    ) -> Result<Response<WaitContainerResponse>, Status> {
        let call = Call::of(&request)?;
        let WaitContainerRequest { container } = request.into_inner();
        valid(|v| text::container_key(v, Field::root("container"), &container))?;
        let id = call.see(&self.engine, &container)?.id.clone();
        let end = self.stopping.or(self.engine.wait(&id)).await?.map_err(status::of)?;
        Ok(Response::new(WaitContainerResponse { end: Some(info::session_end(end)) }))
    }
}

/// Which containers are listed.
#[derive(Debug)]
struct Filter {
    states: BTreeSet<i32>,
    labels: BTreeMap<String, String>,
}

impl Filter {
    fn parse(v: &mut Violations, states: Vec<i32>, labels: BTreeMap<String, String>) -> Filter {
        let at = Field::root("states");
        for (index, &state) in states.iter().enumerate() {
            match v1::ContainerState::try_from(state) {
                Ok(known) if known != v1::ContainerState::Unspecified => {}
                _ => v.add(at.index(index), format_args!("is {state}, which is no state")),
            }
        }
        let at = Field::root("labels");
        for label in labels.keys() {
            if let Err(problem) = name::check_label_name(label) {
                v.add(at.key(label), format_args!("has a name that {problem}"));
            }
        }
        Filter { states: states.into_iter().collect(), labels }
    }

    fn takes(&self, container: &Container) -> bool {
        let state: i32 = info::container_state(container.state()).into();
        let label = |(name, wanted): (&String, &String)| {
            container.spec.labels.get(name).is_some_and(|v| wanted.is_empty() || v == wanted)
        };
        (self.states.is_empty() || self.states.contains(&state)) && self.labels.iter().all(label)
    }
}
