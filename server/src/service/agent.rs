//! The agent itself: what it is and what its host offers.

use std::sync::Arc;

use conti_proto::v1::{GetAgentRequest, GetAgentResponse, agent_service_server::AgentService};
use tonic::{Request, Response, Status};

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
}
