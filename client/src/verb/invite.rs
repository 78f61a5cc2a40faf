//! `contictl invite`

use std::time::Duration;

use clap::{Args, Subcommand};
use conti_proto::v1::{
    CreateInvitationRequest, DeleteInvitationRequest, Invitation, ListInvitationsRequest, Role,
};
use conti_shared::{endpoint::Place, invitation};
use serde_json::{Value, json};

use crate::{
    connect::PAGE_SIZE,
    error::Result,
    flags::value::{duration, duration_message, role},
    output::{self, Format, text},
    verb::{Context, missing},
};

/// Let somebody in: print a code for `contictl join` that can be used once
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Invite {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    invitation: InvitationFlags,
}

#[derive(Debug, Args)]
struct InvitationFlags {
    /// What they may do: viewer, operator or admin
    #[arg(long, required = true, value_parser = role)]
    role: Option<Role>,
    /// Whom it is for
    #[arg(long, required = true)]
    name: Option<String>,
    /// For how long the code can be used, at most 30d; 1h by default
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires: Option<Duration>,
    /// For how long the certificate holds; 90d by default
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    cert_expires: Option<Duration>,
    /// Where the agent is reached, HOST, HOST:PORT or vsock://CID:PORT, at most 4; by default the names
    /// of its certificate, with the ports on which it listens
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<Place>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List invitations that were not used yet
    Ls,
    /// Take invitations back
    Rm {
        /// Invitations, by id
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

impl Invite {
    /// Makes, lists or takes back.
    pub async fn run(self, context: &Context) -> Result<u8> {
        match self.verb {
            None => create(context, self.invitation).await?,
            Some(Verb::Ls) => list(context).await?,
            Some(Verb::Rm { ids }) => {
                let mut client = context.connect().await?.pki();
                for id in ids {
                    client.delete_invitation(DeleteInvitationRequest { id }).await?;
                }
            }
        }
        Ok(0)
    }
}

async fn create(context: &Context, flags: InvitationFlags) -> Result<()> {
    let request = CreateInvitationRequest {
        name: flags.name.unwrap_or_default(),
        role: flags.role.unwrap_or_default().into(),
        expires: flags.expires.map(duration_message),
        certificate_lifetime: flags.cert_expires.map(duration_message),
        addresses: flags.address.iter().map(ToString::to_string).collect(),
    };
    let created = context.connect().await?.pki().create_invitation(request).await?.into_inner();
    let invitation = created.invitation.ok_or_else(|| missing("the invitation"))?;
    match context.format {
        Format::Json => output::json(&json!({
            "invitation": output::pki::invitation(&invitation),
            "code": created.code,
        })),
        Format::Table => {
            output::line(&text::plain(&created.code))?;
            output::note(&format!(
                "lets {} join once as {} until {}{}: `contictl join CODE`. Who has the code can use \
                 it; `contictl invite rm {}` takes it back",
                invitation.name,
                output::pki::role(invitation.role()),
                text::date(invitation.expire_time.as_ref()),
                leads(&created.code),
                invitation.id,
            ));
            Ok(())
        }
    }
}

/// Where a code leads to, as the end of a sentence.
fn leads(code: &str) -> String {
    // One that a newer agent has made may not be understood here.
    let Ok(invitation) = code.parse::<invitation::Invitation>() else { return String::new() };
    let places: Vec<String> = invitation.addresses.iter().map(Place::to_string).collect();
    format!(", at {} (--address changes that)", places.join(", "))
}

async fn list(context: &Context) -> Result<()> {
    let mut client = context.connect().await?.pki();
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListInvitationsRequest { page_size: PAGE_SIZE, page_token };
        let page = client.list_invitations(request).await?.into_inner();
        all.extend(page.invitations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    match context.format {
        Format::Json => {
            output::json(&all.iter().map(output::pki::invitation).collect::<Vec<Value>>().into())
        }
        Format::Table => {
            output::table(["ID", "NAME", "ROLE", "EXPIRES"], all.iter().map(row).collect())
        }
    }
}

fn row(invitation: &Invitation) -> [String; 4] {
    [
        invitation.id.clone(),
        invitation.name.clone(),
        output::pki::role(invitation.role()),
        text::date(invitation.expire_time.as_ref()),
    ]
}
