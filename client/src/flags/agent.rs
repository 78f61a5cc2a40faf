//! Which agent is talked to, and what goes with every call.

use std::{env, path::PathBuf};

use clap::Args;
use conti_shared::endpoint::Endpoint;
use http::HeaderMap;

use crate::{
    connect::{Destination, metadata, tls::Material},
    contexts,
    error::{Error, Result},
};

/// Another agent than the default.
const HOST: &str = "CONTI_HOST";
/// Another context than the current one.
const CONTEXT: &str = "CONTI_CONTEXT";
/// The trace that this process is part of, W3C Trace Context.
const TRACE: &str = "TRACEPARENT";

/// Which agent, and how.
#[derive(Debug, Clone, Default, Args)]
pub struct AgentFlags {
    /// The agent to talk to: unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST; else $CONTI_HOST
    #[arg(long, global = true, value_name = "URL")]
    pub host: Option<Endpoint>,
    /// The context to use, see `contictl context`; else $CONTI_CONTEXT, or the current one
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Why it is done, for the agent's audit log; else $CONTI_REASON
    #[arg(long, global = true, env = "CONTI_REASON", hide_env = true, value_name = "TEXT")]
    pub reason: Option<String>,
    /// The authorities that the agent's certificate may come from, PEM
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// This client's certificate, PEM
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// The name that the agent's certificate must have, where it is not the host's
    #[arg(long, global = true, value_name = "NAME")]
    pub tls_server_name: Option<String>,
}

impl AgentFlags {
    /// Where to connect: by what is said most directly. A flag goes before the environment, and a host
    /// before a context.
    pub fn destination(&self) -> Result<Destination> {
        let (endpoint, tls) = self.place()?;
        Ok(Destination {
            endpoint,
            tls: Material {
                authorities: self.tls_ca.clone().or(tls.authorities),
                certificate: self.tls_cert.clone().or(tls.certificate),
                key: self.tls_key.clone().or(tls.key),
                server_name: self.tls_server_name.clone().or(tls.server_name),
            },
            headers: self.headers()?,
        })
    }

    /// What goes with every call.
    pub fn headers(&self) -> Result<HeaderMap> {
        metadata::headers(self.reason.as_deref(), variable(TRACE).as_deref())
    }

    /// With both flags the host is another address of the context's agent.
    fn place(&self) -> Result<(Endpoint, Material)> {
        if let (Some(host), None) = (&self.host, &self.context) {
            return Ok((host.clone(), Material::default()));
        }
        if let Some(name) = &self.context {
            let (endpoint, tls) = contexts::find(Some(name))?.unwrap_or_default();
            return Ok((self.host.clone().unwrap_or(endpoint), tls));
        }
        if let Some(host) = host_variable()? {
            return Ok((host, Material::default()));
        }
        Ok(contexts::find(variable(CONTEXT).as_deref())?.unwrap_or_default())
    }

    /// The context that is named, if one is.
    pub fn context_name(&self) -> Option<String> {
        self.context.clone().or_else(|| variable(CONTEXT))
    }

    /// The agent's socket on this machine, whatever contexts there are.
    #[cfg(unix)]
    pub fn local(&self) -> Result<Endpoint> {
        match &self.host {
            Some(host) => Ok(host.clone()),
            None => Ok(host_variable()?.unwrap_or_default()),
        }
    }
}

fn host_variable() -> Result<Option<Endpoint>> {
    let parse = |text: String| {
        text.parse().map_err(|error| Error::Usage(format!("the address in ${HOST}: {error}")))
    };
    variable(HOST).map(parse).transpose()
}

/// A variable of the environment. An empty one is not set.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
