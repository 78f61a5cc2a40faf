//! Who calls, who may join, and with which certificate.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use conti_proto::v1::{
    agent_service_server::AgentService, join_service_server::JoinService,
    pki_service_server::PkiService, revoke_certificate_request::Which, *,
};
use conti_shared::reason::{DOMAIN, Reason};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::tls::{Authority, DAY, Subject};

/// What the agent knows of its clients.
#[derive(Clone, Default)]
pub struct Access(Arc<Mutex<Known>>);

#[derive(Default)]
pub struct Known {
    pub authority: Option<Arc<Authority>>,
    /// Certificates by their serial numbers.
    pub certificates: BTreeMap<String, Certificate>,
    pub invitations: Vec<Invitation>,
    /// The requests of those who wanted to join.
    pub joins: Vec<JoinRequest>,
    /// Reason and trace of each call that asked who calls.
    pub calls: Vec<(Option<String>, Option<String>)>,
    /// Whether another authority is named to those who join than the invitation vouches for.
    pub lies: bool,
}

impl Access {
    pub fn new(authority: Arc<Authority>) -> Access {
        let access = Access::default();
        access.known(|known| known.authority = Some(authority));
        access
    }

    pub fn known<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    fn issue(&self, request: &[u8]) -> Result<(Certificate, String, String), Status> {
        self.known(|known| {
            let authority = known.authority.clone().ok_or(Status::unavailable("no authority"))?;
            let (pem, serial) = authority.sign(request, &Subject::default());
            let certificate = Certificate {
                serial: format!("{serial:02x}"),
                name: "alice".to_owned(),
                role: Role::Operator.into(),
                not_before: Some(SystemTime::now().into()),
                not_after: Some((SystemTime::now() + 90 * DAY).into()),
                revoke_time: None,
            };
            known.certificates.insert(certificate.serial.clone(), certificate.clone());
            let named = if known.lies { Authority::new().pem() } else { authority.pem() };
            Ok((certificate, pem, named))
        })
    }
}

fn refusal(code: Code, text: &str, reason: Reason) -> Status {
    let details = ErrorDetails::with_error_info(reason.as_str(), DOMAIN, []);
    Status::with_error_details(code, text, details)
}

#[tonic::async_trait]
impl AgentService for Access {
    async fn get_agent(
        &self,
        _: Request<GetAgentRequest>,
    ) -> Result<Response<GetAgentResponse>, Status> {
        Err(refusal(Code::PermissionDenied, "only an admin may", Reason::PermissionDenied))
    }

    async fn get_caller(
        &self,
        request: Request<GetCallerRequest>,
    ) -> Result<Response<GetCallerResponse>, Status> {
        let reason = request.metadata().get_bin("conti-reason-bin");
        let reason = reason.map(|reason| String::from_utf8(reason.to_bytes().unwrap().to_vec()));
        let trace = request.metadata().get("traceparent");
        let trace = trace.map(|trace| trace.to_str().unwrap().to_owned());
        self.known(|known| known.calls.push((reason.map(Result::unwrap), trace)));
        Ok(Response::new(GetCallerResponse {
            caller: Some(Caller {
                identity: "alice".to_owned(),
                role: Role::Operator.into(),
                labels: [("team".to_owned(), "blue".to_owned())].into(),
                address: "127.0.0.1:1".to_owned(),
                certificate_expire_time: Some((SystemTime::now() + DAY).into()),
                certificate_serial: "02".to_owned(),
            }),
        }))
    }
}

#[tonic::async_trait]
impl JoinService for Access {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        let good = request.invitation_id == "0101010101010101" && request.secret[..] == [2; 16];
        let used = self.known(|known| {
            known.joins.push(request.clone());
            known.joins.len() > 1
        });
        if !good || used {
            let text =
                "the invitation cannot be used: it is not known here, was used or has expired";
            return Err(refusal(Code::PermissionDenied, text, Reason::InvitationRefused));
        }
        let (certificate, certificate_pem, authority_pem) =
            self.issue(&request.certificate_request)?;
        Ok(Response::new(JoinResponse {
            certificate: Some(certificate),
            certificate_pem,
            authority_pem,
        }))
    }
}

#[tonic::async_trait]
impl PkiService for Access {
    async fn create_invitation(
        &self,
        request: Request<CreateInvitationRequest>,
    ) -> Result<Response<CreateInvitationResponse>, Status> {
        let request = request.into_inner();
        let life = request.expires.map_or(3600, |expires| expires.seconds as u64);
        let invitation = Invitation {
            id: format!("{:016x}", self.known(|known| known.invitations.len())),
            name: request.name,
            role: request.role,
            expire_time: Some((SystemTime::now() + Duration::from_secs(life)).into()),
            certificate_lifetime: request.certificate_lifetime,
        };
        self.known(|known| known.invitations.push(invitation.clone()));
        let code = format!("conti-{}", request.addresses.join("+"));
        Ok(Response::new(CreateInvitationResponse { invitation: Some(invitation), code }))
    }

    /// One on each page.
    async fn list_invitations(
        &self,
        request: Request<ListInvitationsRequest>,
    ) -> Result<Response<ListInvitationsResponse>, Status> {
        let at: usize = request.into_inner().page_token.parse().unwrap_or(0);
        let (invitations, count) = self.known(|known| {
            (known.invitations.get(at).cloned().into_iter().collect(), known.invitations.len())
        });
        let next_page_token = if at + 1 < count { (at + 1).to_string() } else { String::new() };
        Ok(Response::new(ListInvitationsResponse { invitations, next_page_token }))
    }

    async fn delete_invitation(
        &self,
        request: Request<DeleteInvitationRequest>,
    ) -> Result<Response<DeleteInvitationResponse>, Status> {
        let id = request.into_inner().id;
        let before = self.known(|known| known.invitations.len());
        self.known(|known| known.invitations.retain(|invitation| invitation.id != id));
        if self.known(|known| known.invitations.len()) == before {
            return Err(refusal(Code::NotFound, "no invitation", Reason::InvitationNotFound));
        }
        Ok(Response::new(DeleteInvitationResponse {}))
    }

    async fn list_certificates(
        &self,
        _: Request<ListCertificatesRequest>,
    ) -> Result<Response<ListCertificatesResponse>, Status> {
        let certificates = self.known(|known| known.certificates.values().cloned().collect());
        Ok(Response::new(ListCertificatesResponse { certificates, ..Default::default() }))
    }

    async fn revoke_certificate(
        &self,
        request: Request<RevokeCertificateRequest>,
    ) -> Result<Response<RevokeCertificateResponse>, Status> {
        let which = request.into_inner().which.unwrap();
        let certificates: Vec<Certificate> = self.known(|known| {
            let fits = |one: &&mut Certificate| match &which {
                Which::Serial(serial) => one.serial == *serial,
                Which::Name(name) => one.name == *name,
            };
            let revoke = |one: &mut Certificate| {
                one.revoke_time = Some(SystemTime::now().into());
                one.clone()
            };
            known.certificates.values_mut().filter(fits).map(revoke).collect()
        });
        if certificates.is_empty() {
            return Err(refusal(Code::NotFound, "no certificate", Reason::CertificateNotFound));
        }
        Ok(Response::new(RevokeCertificateResponse { certificates }))
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<RenewCertificateResponse>, Status> {
        let (certificate, certificate_pem, authority_pem) =
            self.issue(&request.into_inner().certificate_request)?;
        Ok(Response::new(RenewCertificateResponse {
            certificate: Some(certificate),
            certificate_pem,
            authority_pem,
        }))
    }
}
