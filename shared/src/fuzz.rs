//! Fuzz targets: what people paste and write, and certificates that others send.

use conti_fuzz::target;
use rustls::pki_types::CertificateDer;

use crate::{
    endpoint::{Endpoint, Place},
    invitation::{Fingerprint, Invitation, sha256},
    name, signal,
    text::is_deceptive,
    tls::{authorities_in, certificates_in},
};

#[test]
fn fuzz_invitation() {
    let samples = || {
        let invitation = Invitation {
            authority: Fingerprint([7; 32]),
            id: [1; 8],
            secret: [2; 16],
            addresses: ["web:7443", "[::1]:1", "vsock://3:1"]
                .map(|place| place.parse().expect("a place"))
                .into(),
        };
        vec![invitation.payload().expect("short addresses"), invitation.to_string().into_bytes()]
    };
    target("invitation").seeds(samples).check(|bytes| {
        // As it stands, and with the check that would belong to it.
        let checked = [bytes, &sha256(bytes)[..4]].concat();
        let text = String::from_utf8_lossy(bytes);
        for read in [Invitation::parse(bytes), Invitation::parse(&checked), text.parse()] {
            let Ok(invitation) = read else { continue };
            assert!((1..=4).contains(&invitation.addresses.len()));
            assert_eq!(invitation.to_string().parse(), Ok(invitation.clone()));
            // Its secret is never shown.
            assert!(!format!("{invitation:?}").contains("secret"));
        }
    });
}

#[test]
fn fuzz_endpoint() {
    let samples = || {
        [
            "unix:///run/a.sock",
            "tcp://[::1]:2",
            "ssh://me@web:22/run/a.sock",
            "vsock://3:1",
            "web:1",
        ]
        .map(|text| text.as_bytes().to_vec())
        .into()
    };
    target("endpoint").seeds(samples).check(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(endpoint) = text.parse::<Endpoint>() {
            assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        }
        if let Ok(place) = text.parse::<Place>() {
            assert_eq!(place.to_string().parse(), Ok(place));
        }
    });
}

#[test]
fn fuzz_names() {
    let samples = || {
        let all: [&[u8]; 5] =
            [b"box-1", b"0123456789abcdef0123456789abcdef", b"SIGRTMIN+3", b"15", b"a.b/c=d e"];
        all.map(<[u8]>::to_vec).into()
    };
    target("names").seeds(samples).check(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let misleads = text.chars().any(is_deceptive);
        assert!(name::check_container_name(&text).is_err() || !(misleads || text.contains('/')));
        assert!(name::check_request_id(&text).is_err() || !misleads);
        assert!(name::check_id(&text).is_err() || text.len() == 32);
        assert!(name::check_label_name(&text).is_err() || !misleads);
        let value_misleads = text.chars().any(|c| is_deceptive(c) && !"\t\n".contains(c));
        assert!(name::check_label_value(&text).is_err() || !value_misleads);
        if let Ok(number) = signal::parse(&text) {
            assert_eq!(signal::parse(&signal::name(number)), Ok(number));
        }
    });
}

#[test]
fn fuzz_certificates() {
    let samples = || {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec!["web".into()]).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(1));
        let certificate = params.self_signed(&key).expect("a certificate");
        vec![certificate.der().to_vec(), certificate.pem().into_bytes()]
    };
    target("certificates").seeds(samples).fixed_memory(1 << 20).check(|bytes| {
        if let Ok(all) = certificates_in(bytes) {
            assert!(
                !all.is_empty() && all.iter().map(|one| one.len()).sum::<usize>() <= bytes.len()
            );
        }
        if let Err(problem) = authorities_in(bytes) {
            assert!(!problem.is_empty());
        }
        let der = CertificateDer::from(bytes.to_vec());
        let _ = crate::anchors::Anchors::of(&[der], |_| Ok(()));
    });
}
