//! Who may call an agent, as JSON.

use conti_proto::v1::{Caller, Certificate, Invitation, Role};
use serde_json::{Value, json};

use crate::output::{
    json::seconds,
    text::{enum_name, rfc3339},
};

/// A role.
pub fn role(role: Role) -> String {
    enum_name(role.as_str_name(), "ROLE_")
}

/// Who calls.
pub fn caller(caller: &Caller) -> Value {
    json!({
        "identity": caller.identity,
        "role": role(caller.role()),
        "labels": caller.labels,
        "address": caller.address,
        "certificate_expire_time": rfc3339(caller.certificate_expire_time.as_ref()),
        "certificate_serial": caller.certificate_serial,
    })
}

/// A certificate that was issued.
pub fn certificate(certificate: &Certificate) -> Value {
    json!({
        "serial": certificate.serial,
        "name": certificate.name,
        "role": role(certificate.role()),
        "not_before": rfc3339(certificate.not_before.as_ref()),
        "not_after": rfc3339(certificate.not_after.as_ref()),
        "revoke_time": rfc3339(certificate.revoke_time.as_ref()),
    })
}

/// An invitation, without its secret.
pub fn invitation(invitation: &Invitation) -> Value {
    json!({
        "id": invitation.id,
        "name": invitation.name,
        "role": role(invitation.role()),
        "expire_time": rfc3339(invitation.expire_time.as_ref()),
        "certificate_lifetime": invitation.certificate_lifetime.as_ref().map(seconds),
    })
}
