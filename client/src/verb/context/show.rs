//! Contexts, as they are known here and to their agents.

use std::time::{Duration, SystemTime};

use conti_proto::v1::Caller;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    connect::connect,
    contexts::{Entry, certificate::Certificate, files::Store},
    error::{Error, Result},
    flags::agent::AgentFlags,
    output::{self, Format, text},
    verb::{Context, whoami},
};

/// How long an agent may take to say who this client is.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lists all contexts.
pub fn list(context: &Context, store: &Store) -> Result<()> {
    let contexts = store.load()?;
    let current = |name: &str| contexts.current.as_deref() == Some(name);
    let all =
        contexts.contexts.iter().map(|(name, entry)| (name, entry, certificate(store, entry)));
    match context.format {
        Format::Json => {
            let all = all.map(|(name, entry, certificate)| {
                object(store, name, current(name), entry, certificate.as_ref())
            });
            output::json(&all.collect::<Vec<Value>>().into())
        }
        Format::Table => {
            let rows = all.map(|(name, entry, certificate)| {
                let of = |part: fn(&Certificate) -> String| match &certificate {
                    None => "-".to_owned(),
                    Some(Ok(certificate)) => part(certificate),
                    Some(Err(_)) => "unreadable".to_owned(),
                };
                [
                    if current(name) { "*" } else { "" }.to_owned(),
                    name.clone(),
                    entry.host.to_string(),
                    of(|certificate| certificate.name.clone()),
                    of(|certificate| certificate.role.clone()),
                    of(|certificate| date(certificate.not_after)),
                ]
            });
            output::table(["", "NAME", "HOST", "IDENTITY", "ROLE", "EXPIRES"], rows.collect())
        }
    }
}

/// Shows one context. An agent that cannot be reached is no failure.
pub async fn one(context: &Context, store: &Store, name: &str) -> Result<()> {
    let contexts = store.load()?;
    let entry = contexts.get(name)?;
    let current = contexts.current.as_deref() == Some(name);
    let certificate = certificate(store, entry);
    let caller = caller(context, name).await;
    match context.format {
        Format::Json => {
            let mut value = object(store, name, current, entry, certificate.as_ref());
            value["caller"] = caller.as_ref().map_or(Value::Null, output::pki::caller);
            value["agent_error"] = json!(caller.as_ref().err().map(ToString::to_string));
            output::json(&value)?;
        }
        Format::Table => {
            output::facts(&facts(store, name, current, entry, certificate.as_ref(), &caller))?;
        }
    }
    match certificate {
        Some(Ok(certificate)) => {
            if let Some(complaint) = certificate.complaint(SystemTime::now(), name) {
                output::warn(&[complaint]);
            }
            Ok(())
        }
        Some(Err(error)) => Err(error),
        None => Ok(()),
    }
}

fn certificate(store: &Store, entry: &Entry) -> Option<Result<Certificate>> {
    entry.material(store).certificate.map(|path| Certificate::read(&path))
}

async fn caller(context: &Context, name: &str) -> Result<Caller> {
    let agent = AgentFlags { host: None, context: Some(name.to_owned()), ..context.agent.clone() };
    let destination = agent.destination()?;
    let ask = async { whoami::ask(&connect(&destination).await?).await };
    timeout(PATIENCE, ask)
        .await
        .unwrap_or_else(|_| Err(Error::Stream(format!("{} does not answer", destination.endpoint))))
}

fn date(time: SystemTime) -> String {
    text::date(Some(&time.into()))
}

fn facts(
    store: &Store,
    name: &str,
    current: bool,
    entry: &Entry,
    certificate: Option<&Result<Certificate>>,
    caller: &Result<Caller>,
) -> Vec<(&'static str, String)> {
    let material = entry.material(store);
    let mut facts = vec![
        ("Context", format!("{name}{}", if current { " (current)" } else { "" })),
        ("Host", entry.host.to_string()),
    ];
    let files = [
        ("Authority", material.authorities),
        ("Certificate", material.certificate),
        ("Key", material.key),
    ];
    for (what, path) in files {
        facts.extend(path.map(|path| (what, path.display().to_string())));
    }
    facts.extend(material.server_name.map(|name| ("Server name", name)));
    if let Some(Ok(certificate)) = certificate {
        facts.push(("Identity", certificate.name.clone()));
        facts.push(("Role", certificate.role.clone()));
        facts.push(("Serial", certificate.serial.clone()));
        facts.push(("Expires", date(certificate.not_after)));
    }
    let agent = match caller {
        Ok(caller) => {
            format!("knows you as {}, role {}", caller.identity, output::pki::role(caller.role()))
        }
        Err(error) => format!("not reached: {error}"),
    };
    facts.push(("Agent", agent));
    facts
}

fn object(
    store: &Store,
    name: &str,
    current: bool,
    entry: &Entry,
    certificate: Option<&Result<Certificate>>,
) -> Value {
    let material = entry.material(store);
    let time = |time: SystemTime| text::rfc3339(Some(&time.into()));
    let client = certificate.and_then(|read| read.as_ref().ok()).map(|certificate| {
        json!({
            "name": certificate.name,
            "role": certificate.role,
            "serial": certificate.serial,
            "not_before": time(certificate.not_before),
            "not_after": time(certificate.not_after),
        })
    });
    json!({
        "name": name,
        "current": current,
        "host": entry.host.to_string(),
        "tls_server_name": entry.tls_server_name,
        "ca": material.authorities,
        "certificate": material.certificate,
        "key": material.key,
        "client": client,
    })
}
