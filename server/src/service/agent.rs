//! The agent itself: what it is and what its host offers.

use std::sync::Arc;

use conti_proto::v1::{
    Caller, GetAgentRequest, GetAgentResponse, GetCallerRequest, GetCallerResponse, Role,
    agent_service_server::AgentService,
};
use tonic::{Request, Response, Status, transport::server::UdsConnectInfo};

use super::convert::info;
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
        let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
        let caller = Caller {
            identity: peer.map(|peer| format!("uid:{}", peer.uid())).unwrap_or_default(),
            // Nobody else may connect.
            role: Role::Admin.into(),
            address: "unix".to_owned(),
            ..Default::default()
        };
        Ok(Response::new(GetCallerResponse { caller: Some(caller) }))
    }
}
