//! `contictl pki`

use clap::{Args, Subcommand};
use conti_proto::v1::{
    Certificate, ListCertificatesRequest, RevokeCertificateRequest,
    revoke_certificate_request::Which,
};
use serde_json::Value;

use crate::{
    connect::{Connection, PAGE_SIZE},
    error::Result,
    output::{self, Format, text},
    verb::Context,
};

/// Show and revoke the certificates of an agent's clients
#[derive(Debug, Args)]
pub struct Pki {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the certificates that were issued and have not expired
    Ls,
    /// Revoke certificates; their connections are closed
    Revoke {
        /// A serial number, or a name: then all certificates of that name
        #[arg(value_name = "NAME|SERIAL")]
        which: String,
    },
}

impl Pki {
    /// Lists or revokes.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let connection = context.connect().await?;
        let certificates = match self.verb {
            Verb::Ls => list(&connection).await?,
            Verb::Revoke { which } => {
                let known = list(&connection).await?;
                let is_serial = known.iter().any(|one| one.serial.eq_ignore_ascii_case(&which));
                let which = if is_serial {
                    Which::Serial(which.to_ascii_lowercase())
                } else {
                    Which::Name(which)
                };
                let request = RevokeCertificateRequest { which: Some(which) };
                connection.pki().revoke_certificate(request).await?.into_inner().certificates
            }
        };
        match context.format {
            Format::Json => {
                let all: Vec<Value> = certificates.iter().map(output::pki::certificate).collect();
                output::json(&all.into())?;
            }
            Format::Table => output::table(
                ["SERIAL", "NAME", "ROLE", "EXPIRES", "REVOKED"],
                certificates.iter().map(row).collect(),
            )?,
        }
        Ok(0)
    }
}

async fn list(connection: &Connection) -> Result<Vec<Certificate>> {
    let mut client = connection.pki();
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListCertificatesRequest { page_size: PAGE_SIZE, page_token };
        let page = client.list_certificates(request).await?.into_inner();
        all.extend(page.certificates);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

fn row(certificate: &Certificate) -> [String; 5] {
    [
        certificate.serial.clone(),
        certificate.name.clone(),
        output::pki::role(certificate.role()),
        text::date(certificate.not_after.as_ref()),
        text::date(certificate.revoke_time.as_ref()),
    ]
}
