//! The agent itself: what it is and what its host offers.

use std::sync::Arc;

use conti_proto::v1::{
    Caller, GetAgentRequest, GetAgentResponse, GetCallerRequest, GetCallerResponse,
    agent_service_server::AgentService,
};
use tonic::{Request, Response, Status};

use super::{call::Call, convert::info};
use crate::engine::Engine;

/// Serves `conti.v1.AgentService`.
#[derive(Debug)]
pub struct Agent {
    engine: Arc<Engine>,
}

impl Agent {
    /// Serves an engine.
    pub fn new(engine: Arc<Engine>) -> Agent {
        Agent { engine }
    }
}

#[tonic::async_trait]
impl AgentService for Agent {
    async fn get_agent(
        &self,
        _request: Request<GetAgentRequest>,
    ) -> Result<Response<GetAgentResponse>, Status> {
        let agent = Some(info::agent(self.engine.facts()));
        Ok(Response::new(GetAgentResponse { agent }))
    }

    async fn get_caller(
        &self,
        request: Request<GetCallerRequest>,
    ) -> Result<Response<GetCallerResponse>, Status> {
        let caller = Call::of(&request)?.caller;
        let certificate = caller.peer.identity.certificate();
        let caller = Caller {
            identity: caller.name(),
            role: info::role(caller.role).into(),
            labels: caller.scope.0.clone(),
            address: caller.peer.address.clone(),
            certificate_expire_time: certificate.map(|one| info::timestamp(one.not_after)),
            certificate_serial: certificate.map(|one| one.serial.clone()).unwrap_or_default(),
        };
        Ok(Response::new(GetCallerResponse { caller: Some(caller) }))
    }
}
