//! Who may connect: invitations and certificates, and joining itself.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use conti_proto::v1::{
    self, CreateInvitationRequest, CreateInvitationResponse, DeleteInvitationRequest,
    DeleteInvitationResponse, JoinRequest, JoinResponse, ListCertificatesRequest,
    ListCertificatesResponse, ListInvitationsRequest, ListInvitationsResponse,
    RenewCertificateRequest, RenewCertificateResponse, RevokeCertificateRequest,
    RevokeCertificateResponse, join_service_server::JoinService, pki_service_server::PkiService,
    revoke_certificate_request,
};
use tokio::{sync::Mutex, time::timeout};
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use super::{
    call::Call,
    convert::{Field, info as convert, text},
    page::{Page, Place},
    status::{self, valid},
};
use crate::{
    access::Role,
    engine::carry,
    listen::PeerInfo,
    pki::{
        Error, PATIENCE, Pki as Authority,
        authority::Issued,
        invitations::{self, EXPIRES, LIFETIME, Wanted},
        issued::{self, Which},
    },
};

/// The largest request for a certificate that is looked at, in bytes.
const REQUEST_MAX: usize = 16 * 1024;

/// Serves `conti.v1.PkiService`, and `conti.v1.JoinService` to guests.
#[derive(Debug, Clone)]
pub struct Pki {
    authority: Arc<Authority>,
    turn: Arc<Mutex<()>>,
    /// Where the agent listens to other machines.
    listens: Vec<SocketAddr>,
}

impl Pki {
    /// Serves an authority, which need not be there.
    pub fn new(authority: Authority, listens: Vec<SocketAddr>) -> Pki {
        Pki { authority: Arc::new(authority), turn: Arc::default(), listens }
    }

    /// Works on the authority's files, which takes its time.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Authority) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Status> {
        // One thread waits for other processes that work on them: each call with a thread of its own would leave none
        // for whatever else needs one.
        let turn = timeout(PATIENCE, self.turn.clone().lock_owned()).await;
        let turn = turn.map_err(|_| status::pki(self.authority.busy()))?;
        let authority = self.authority.clone();
        let work = move || {
            let _turn = turn;
            work(&authority)
        };
        // A thread cannot be stopped: it goes on when the caller has gone.
        let work = async {
            let done = tokio::task::spawn_blocking(work).await;
            if let Ok(result) = &done {
                carry::ended(result);
            }
            done
        };
        match carry::to_its_end(work).await.flatten() {
            Ok(result) => result.map_err(status::pki),
            Err(error) => Err(Status::internal(format!("the work was given up: {error}"))),
        }
    }
}

#[tonic::async_trait]
impl PkiService for Pki {
    async fn create_invitation(
        &self,
        request: Request<CreateInvitationRequest>,
    ) -> Result<Response<CreateInvitationResponse>, Status> {
        let call = Call::of(&request)?;
        let message = request.into_inner();
        let wanted = valid(|v| {
            let role = text::known(v, Field::root("role"), message.role);
            let role = match role {
                v1::Role::Viewer => Role::Viewer,
                v1::Role::Operator => Role::Operator,
                v1::Role::Admin => Role::Admin,
                v1::Role::Unspecified | v1::Role::Guest => {
                    v.add(Field::root("role"), "must be VIEWER, OPERATOR or ADMIN");
                    Role::Viewer
                }
            };
            let mut time = |name, duration: Option<prost_types::Duration>, default: Duration| {
                duration.map_or(default, |duration| text::duration(v, Field::root(name), duration))
            };
            let expires = time("expires", message.expires, EXPIRES);
            let lifetime = time("certificate_lifetime", message.certificate_lifetime, LIFETIME);
            let at = Field::root("addresses");
            let mut addresses = Vec::new();
            for (index, address) in message.addresses.iter().enumerate() {
                match address.parse() {
                    Ok(address) => addresses.push(address),
                    Err(problem) => {
                        v.add(at.index(index), format_args!("is no address: {problem}"))
                    }
                }
            }
            let listens = self.listens.clone();
            Wanted { name: message.name, role, expires, lifetime, addresses, listens }
        })?;
        let (record, code) = self.work(|authority| authority.invite(wanted)).await?;
        info!(
            by = call.caller.name(),
            id = record.id,
            name = record.name,
            role = record.role,
            "invited"
        );
        let invitation = Some(invitation(record));
        Ok(Response::new(CreateInvitationResponse { invitation, code: code.to_string() }))
    }

    async fn list_invitations(
        &self,
        request: Request<ListInvitationsRequest>,
    ) -> Result<Response<ListInvitationsResponse>, Status> {
        let ListInvitationsRequest { page_size, page_token } = request.into_inner();
        let page = valid(|v| Page::parse(v, page_size, &page_token))?;
        let all = self.work(Authority::invitations).await?;
        let place = |record: &invitations::Record| Place::new(std::time::UNIX_EPOCH, &record.id);
        let (invitations, next_page_token) = page.cut(all, place, invitation);
        Ok(Response::new(ListInvitationsResponse { invitations, next_page_token }))
    }

    async fn delete_invitation(
        &self,
        request: Request<DeleteInvitationRequest>,
    ) -> Result<Response<DeleteInvitationResponse>, Status> {
        let call = Call::of(&request)?;
        let id = request.into_inner().id;
        info!(by = call.caller.name(), id, "withdrawing an invitation");
        self.work(move |authority| authority.withdraw(&id)).await?;
        Ok(Response::new(DeleteInvitationResponse {}))
    }

    async fn list_certificates(
        &self,
        request: Request<ListCertificatesRequest>,
    ) -> Result<Response<ListCertificatesResponse>, Status> {
        let ListCertificatesRequest { page_size, page_token } = request.into_inner();
        let page = valid(|v| Page::parse(v, page_size, &page_token))?;
        let all = self.work(Authority::certificates).await?;
        let place = |record: &issued::Record| Place::new(std::time::UNIX_EPOCH, &record.serial);
        let (certificates, next_page_token) = page.cut(all, place, certificate);
        Ok(Response::new(ListCertificatesResponse { certificates, next_page_token }))
    }

    async fn revoke_certificate(
        &self,
        request: Request<RevokeCertificateRequest>,
    ) -> Result<Response<RevokeCertificateResponse>, Status> {
        let call = Call::of(&request)?;
        let which = request.into_inner().which;
        let which = valid(|v| match which {
            Some(revoke_certificate_request::Which::Serial(serial)) => Which::Serial(serial),
            Some(revoke_certificate_request::Which::Name(name)) => Which::Name(name),
            None => {
                v.add(Field::root("which"), "is missing: give `serial` or `name`");
                Which::Name(String::new())
            }
        })?;
        info!(by = call.caller.name(), ?which, "revoking certificates");
        let revoked = self.work(move |authority| authority.revoke(&which)).await?;
        let certificates = revoked.into_iter().map(certificate).collect();
        Ok(Response::new(RevokeCertificateResponse { certificates }))
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<RenewCertificateResponse>, Status> {
        let call = Call::of(&request)?;
        let der = request.into_inner().certificate_request;
        valid(|v| {
            if der.len() > REQUEST_MAX {
                v.add(Field::root("certificate_request"), "is larger than 16 KiB");
            }
        })?;
        let holder = call.caller.peer.identity.certificate().cloned();
        let holder = holder.ok_or_else(|| status::pki(Error::NoCertificate(call.caller.name())))?;
        let issued = self.work(move |authority| authority.renew(&holder, &der)).await?;
        let Issued { record, certificate: certificate_pem, authority: authority_pem } = issued;
        info!(name = record.name, serial = record.serial, "renewed a certificate");
        let certificate = Some(certificate(record));
        Ok(Response::new(RenewCertificateResponse { certificate, certificate_pem, authority_pem }))
    }
}

#[tonic::async_trait]
impl JoinService for Pki {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let peer = request.extensions().get::<PeerInfo>().map(|info| info.0.address.clone());
        let address = peer.ok_or_else(status::unauthenticated)?;
        let JoinRequest { invitation_id, secret, certificate_request } = request.into_inner();
        valid(|v| {
            if certificate_request.len() > REQUEST_MAX {
                v.add(Field::root("certificate_request"), "is larger than 16 KiB");
            }
        })?;
        let id = invitation_id.clone();
        let joined = move |authority: &Authority| {
            let joined = authority.join(&invitation_id, &secret, &certificate_request);
            if let Err(Error::Refused(why)) = &joined {
                warn!(address, invitation = invitation_id, why, "refused a guest");
            }
            joined.map(|issued| (issued, address))
        };
        let (issued, address) = self.work(joined).await?;
        let Issued { record, certificate: certificate_pem, authority: authority_pem } = issued;
        info!(
            address,
            invitation = id,
            name = record.name,
            role = record.role,
            serial = record.serial,
            "joined"
        );
        let certificate = Some(certificate(record));
        Ok(Response::new(JoinResponse { certificate, certificate_pem, authority_pem }))
    }
}

fn invitation(record: invitations::Record) -> v1::Invitation {
    v1::Invitation {
        role: role(&record.role).into(),
        expire_time: Some(convert::timestamp(record.expire_time)),
        certificate_lifetime: Some(convert::duration(record.lifetime)),
        id: record.id,
        name: record.name,
    }
}

fn certificate(record: issued::Record) -> v1::Certificate {
    let known = |time| (time != std::time::UNIX_EPOCH).then(|| convert::timestamp(time));
    v1::Certificate {
        role: role(&record.role).into(),
        not_before: known(record.not_before),
        not_after: known(record.not_after),
        revoke_time: record.revoked.map(convert::timestamp),
        serial: record.serial,
        name: record.name,
    }
}

fn role(name: &str) -> v1::Role {
    Role::parse(name).map_or(v1::Role::Unspecified, convert::role)
}
