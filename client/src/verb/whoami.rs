//! `contictl whoami`

use clap::Args;
use conti_proto::v1::{Caller, GetCallerRequest, Role};

use crate::{
    connect::Connection,
    error::Result,
    output::{self, Format, text},
    verb::{Context, missing},
};

/// Show who this client is to the agent, and what it may do
#[derive(Debug, Args)]
pub struct Whoami {}

impl Whoami {
    /// Asks, and shows it.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let caller = ask(&context.connect().await?).await?;
        match context.format {
            Format::Json => output::json(&output::pki::caller(&caller))?,
            Format::Table => output::facts(&facts(&caller))?,
        }
        Ok(0)
    }
}

/// Asks the agent who calls.
pub async fn ask(connection: &Connection) -> Result<Caller> {
    let response = connection.agent().get_caller(GetCallerRequest {}).await?.into_inner();
    response.caller.ok_or_else(|| missing("who this client is"))
}

/// What somebody sees whom no labels confine.
fn all(role: Role) -> &'static str {
    match role {
        Role::Admin => "everything",
        _ => "all containers",
    }
}

fn facts(caller: &Caller) -> Vec<(&'static str, String)> {
    let labels: Vec<String> =
        caller.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut facts = vec![
        ("Identity", caller.identity.clone()),
        ("Role", output::pki::role(caller.role())),
        ("Sees", if labels.is_empty() { all(caller.role()).to_owned() } else { labels.join(" ") }),
        ("Calls from", caller.address.clone()),
    ];
    if !caller.certificate_serial.is_empty() {
        facts.push(("Certificate", caller.certificate_serial.clone()));
        facts.push(("Expires", text::date(caller.certificate_expire_time.as_ref())));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_but_an_admin_sees_everything() {
        let sees = |role: Role| {
            let caller = Caller { role: role.into(), ..Caller::default() };
            facts(&caller).into_iter().find(|(name, _)| *name == "Sees").map(|(_, value)| value)
        };
        assert_eq!(sees(Role::Operator).as_deref(), Some("all containers"));
        assert_eq!(sees(Role::Admin).as_deref(), Some("everything"));
    }
}
