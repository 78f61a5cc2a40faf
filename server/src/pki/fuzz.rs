//! Fuzz targets: requests for certificates, which come from whoever holds an invitation, and the records of both.

use conti_fuzz::target;
use serde_json::json;

use super::{authority::signing_request, invitations, issued};

#[test]
fn fuzz_signing_request() {
    let samples = || {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["web".into()]).expect("parameters");
        vec![params.serialize_request(&key).expect("a request").der().to_vec()]
    };
    target("signing_request").seeds(samples).fixed_memory(1 << 20).check(|bytes| {
        if let Err(problem) = signing_request(bytes) {
            assert!(!problem.to_string().is_empty());
        }
    });
}

#[test]
fn fuzz_pki_records() {
    let time = json!({"secs_since_epoch": 1_700_000_000_u64, "nanos_since_epoch": 1});
    let span = json!({"secs": 3600, "nanos": 0});
    let invitation = json!({
        "id": "0123456789abcdef", "name": "ann", "role": "viewer", "expire_time": time,
        "lifetime": span, "secret": vec![7; 32],
    });
    let issued = json!({
        "serial": "40ff", "name": "ann", "role": "admin", "not_before": time, "not_after": time,
        "lifetime": span, "revoked": null, "renewed_from": "41",
    });
    let samples = || [invitation, issued].map(|record| record.to_string().into_bytes()).into();
    target("pki_records").seeds(samples).check(|bytes| {
        if let Ok(record) = serde_json::from_slice::<invitations::Record>(bytes) {
            let again = serde_json::to_vec(&record).expect("written");
            serde_json::from_slice::<invitations::Record>(&again).expect("read again");
        }
        if let Ok(record) = serde_json::from_slice::<issued::Record>(bytes) {
            let again = serde_json::to_vec(&record).expect("written");
            serde_json::from_slice::<issued::Record>(&again).expect("read again");
        }
    });
}
