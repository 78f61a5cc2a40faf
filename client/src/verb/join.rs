//! `contictl join`

use std::io;

use clap::Args;
use conti_proto::v1::{Certificate, JoinRequest, JoinResponse};
use conti_shared::{
    endpoint::{Endpoint, Place},
    invitation::{CodeError, Fingerprint, Invitation},
    tls,
};
use serde_json::json;

use crate::{
    connect::{Destination, connect_to_join, tls::Material},
    contexts::{
        Entry, check_name,
        files::{Credentials, Store},
        name_for,
        request::Request,
    },
    error::{Error, Result},
    output::{self, Format, text},
    verb::{Context, missing},
};

/// Get access to an agent with an invitation, and keep it as a context
///
/// The key is made here and never leaves this machine. The context is called as the agent's host, or as
/// --context says; it becomes the current one where there is none.
#[derive(Debug, Args)]
pub struct Join {
    /// The invitation code, or - to read it from stdin, so that no history keeps it
    code: String,
    /// Make it the current context
    #[arg(long = "use")]
    make_current: bool,
    /// Where the agent is, HOST, HOST:PORT or vsock://CID:PORT, instead of what the code says
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<Place>,
}

impl Join {
    /// Joins, and keeps a context. After a failure nothing is kept.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let invitation = invitation(&self.code)?;
        let addresses = match self.address.as_slice() {
            [] => invitation.addresses.clone(),
            _ => self.address.clone(),
        };
        let called = || addresses.first().map(name_for).unwrap_or_default();
        let name = context.agent.context.clone().unwrap_or_else(called);
        check_name(&name)?;
        // All that can fail on this side is tried before the invitation is spent.
        let store = Store::of_user()?;
        store.load()?.check_free(&name)?;
        store.prepare(&name)?;
        let joined = self.join(context, &invitation, &addresses, &store, &name).await;
        if joined.is_err() && store.load().is_ok_and(|known| known.check_free(&name).is_ok()) {
            // The error that led here says more than one of cleaning up.
            let _ = store.forget(&name);
        }
        let (place, certificate, current) = joined?;
        let host = Endpoint::from(place).to_string();
        match context.format {
            Format::Json => output::json(&json!({
                "context": name,
                "current": current,
                "host": host,
                "certificate": output::pki::certificate(&certificate),
            }))?,
            Format::Table => {
                output::line(&name)?;
                output::note(&format!(
                    "{host} knows this client as {} with the role {} until {}; {}",
                    certificate.name,
                    output::pki::role(certificate.role()),
                    text::date(certificate.not_after.as_ref()),
                    match current {
                        true => format!("context {name} is the current one"),
                        false => format!("`contictl context use {name}` makes it the current one"),
                    }
                ));
            }
        }
        Ok(0)
    }

    /// Returns where the agent is, what it knows this client by, and whether its context is the current
    /// one.
    async fn join(
        &self,
        context: &Context,
        invitation: &Invitation,
        addresses: &[Place],
        store: &Store,
        name: &str,
    ) -> Result<(Place, Certificate, bool)> {
        let request = Request::new()?;
        let (place, response) = join(context, invitation, addresses, &request).await?;
        let certificate = response.certificate.ok_or_else(|| missing("the certificate"))?;
        check_authority(&response.authority_pem, invitation.authority)?;
        let credentials = request.answered(response.certificate_pem, response.authority_pem)?;
        let current = self.keep(context, store, name, &place, &credentials)?;
        Ok((place, certificate, current))
    }

    /// Returns whether the context is the current one.
    fn keep(
        &self,
        context: &Context,
        store: &Store,
        name: &str,
        place: &Place,
        credentials: &Credentials,
    ) -> Result<bool> {
        store.change(|contexts| {
            contexts.check_free(name)?;
            let mut entry = Entry::new(place.clone().into());
            entry.tls_server_name = context.agent.tls_server_name.clone();
            store.keep(name, credentials, &mut entry)?;
            contexts.contexts.insert(name.to_owned(), entry);
            if self.make_current || contexts.current.is_none() {
                contexts.current = Some(name.to_owned());
            }
            Ok(contexts.current.as_deref() == Some(name))
        })
    }
}

fn invitation(code: &str) -> Result<Invitation> {
    let mut line = String::new();
    let code = if code == "-" {
        let read = io::stdin().read_line(&mut line);
        read.map_err(|source| Error::Local { what: "cannot read the code", source })?;
        &line
    } else {
        code
    };
    code.parse().map_err(|error: CodeError| Error::Usage(error.to_string()))
}

/// Tries the addresses in turn, until one of them is the agent of the invitation.
async fn join(
    context: &Context,
    invitation: &Invitation,
    addresses: &[Place],
    request: &Request,
) -> Result<(Place, JoinResponse)> {
    let mut failures = Vec::new();
    for place in addresses {
        let destination = Destination {
            endpoint: place.clone().into(),
            tls: Material {
                server_name: context.agent.tls_server_name.clone(),
                ..Material::default()
            },
            headers: context.agent.headers()?,
        };
        let connection = match connect_to_join(&destination, invitation.authority).await {
            Ok(connection) => connection,
            Err(error) => {
                failures.push(error);
                continue;
            }
        };
        // From here on it is known who hears the secret, and no other address will know more.
        let request = JoinRequest {
            invitation_id: invitation.id_text(),
            secret: invitation.secret.to_vec().into(),
            certificate_request: request.der.clone().into(),
        };
        let response = connection.join().join(request).await?;
        return Ok((place.clone(), response.into_inner()));
    }
    match (failures.pop(), failures.as_slice()) {
        (Some(only), []) => Err(only),
        (last, others) => {
            let all = others.iter().chain(&last);
            let lines: Vec<String> = all.map(|error| format!("\n  {error}")).collect();
            Err(Error::Usage(format!(
                "no address of the invitation leads to its agent:{}",
                lines.concat()
            )))
        }
    }
}

/// What the client will trust from now on must hold what the invitation vouches for.
fn check_authority(pem: &str, wanted: Fingerprint) -> Result<()> {
    let all = tls::certificates_in(pem.as_bytes()).unwrap_or_default();
    if all.iter().any(|one| Fingerprint::of(one) == wanted) {
        return Ok(());
    }
    Err(Error::Stream(
        "the agent answered with another authority than that of the invitation; nothing is kept of it"
            .to_owned(),
    ))
}
