//! Another certificate for a context, with a new key.

use conti_proto::v1::RenewCertificateRequest;
use conti_shared::endpoint::Endpoint;

use crate::{
    connect::connect,
    contexts::{files::Store, request::Request},
    error::{Error, Result},
    flags::agent::AgentFlags,
    output::{self, Format, text},
    verb::{Context, missing},
};

/// Renews. The old certificate is replaced once the new one is there, and stays valid until it expires.
pub async fn run(context: &Context, store: &Store, name: &str) -> Result<()> {
    let host = store.load()?.get(name)?.host.clone();
    if !matches!(host, Endpoint::Tcp(_)) {
        return Err(Error::Usage(format!(
            "context {name} has no certificate: {host} is reached without one"
        )));
    }
    store.prepare(name)?;
    let agent = AgentFlags { host: None, context: Some(name.to_owned()), ..context.agent.clone() };
    let connection = connect(&agent.destination()?).await?;
    let request = Request::new()?;
    let ask = RenewCertificateRequest { certificate_request: request.der.clone().into() };
    let response = connection.pki().renew_certificate(ask).await?.into_inner();
    let credentials = request.answered(response.certificate_pem, response.authority_pem)?;
    store.change(|contexts| {
        let mut entry = contexts.get(name)?.clone();
        store.keep(name, &credentials, &mut entry)?;
        contexts.contexts.insert(name.to_owned(), entry);
        Ok(())
    })?;
    let certificate = response.certificate.ok_or_else(|| missing("the certificate"))?;
    match context.format {
        Format::Json => output::json(&output::pki::certificate(&certificate)),
        Format::Table => {
            let until = text::date(certificate.not_after.as_ref());
            output::note(&format!("context {name} has a new certificate until {until}"));
            output::line(&text::plain(&certificate.serial))
        }
    }
}
