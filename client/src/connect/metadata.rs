//! What goes with every call beside its message.

use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::error::{Error, Result};

/// Why somebody calls: UTF-8.
const REASON: &str = "conti-reason-bin";
/// The longest reason in bytes: headers are no place for letters.
const REASON_MAX: usize = 1024;
/// Which trace a call belongs to, W3C Trace Context.
const TRACE: HeaderName = HeaderName::from_static("traceparent");

/// The metadata of every call: the reason that was given, and the trace that this process is part of.
pub fn headers(reason: Option<&str>, trace: Option<&str>) -> Result<HeaderMap> {
    let mut metadata = MetadataMap::new();
    match reason.map(str::trim) {
        None | Some("") => {}
        Some(reason) if reason.len() > REASON_MAX => {
            return Err(Error::Usage(format!(
                "the reason has {} bytes, at most {REASON_MAX} are allowed",
                reason.len()
            )));
        }
        Some(reason) => {
            metadata.insert_bin(REASON, MetadataValue::from_bytes(reason.as_bytes()));
        }
    }
    let mut headers = metadata.into_headers();
    let trace = trace.filter(|trace| is_trace(trace));
    if let Some(trace) = trace.and_then(|trace| HeaderValue::from_str(trace).ok()) {
        headers.insert(TRACE, trace);
    }
    Ok(headers)
}

/// Whether a text is a `traceparent` of version 00: who gets anything else starts a trace anew.
fn is_trace(text: &str) -> bool {
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_zero = |part: &str| part.bytes().all(|b| b == b'0');
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, parent, flags] = parts[..] else { return false };
    let well_formed = version == "00" && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    well_formed && !is_zero(trace) && !is_zero(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn only_a_well_formed_trace_is_passed_on() {
        let sent = |trace: &str| headers(None, Some(trace)).unwrap().get(TRACE).cloned();
        assert_eq!(sent(TRACEPARENT).unwrap(), TRACEPARENT);
        for trace in [
            "",
            "00",
            &TRACEPARENT.replace("00-4", "01-4"),
            &TRACEPARENT.to_uppercase(),
            &TRACEPARENT.replace('f', "g"),
            &format!("{TRACEPARENT}-x"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert_eq!(sent(trace), None, "{trace:?}");
        }
    }

    #[test]
    fn a_reason_of_any_script_is_passed_on_and_a_long_one_refused() {
        let sent = headers(Some(" Störung 4711\n"), None).unwrap();
        // `Störung 4711` in base64 without padding, as gRPC has binary metadata.
        assert_eq!(sent.get(REASON).unwrap(), "U3TDtnJ1bmcgNDcxMQ");
        assert!(headers(Some("  "), None).unwrap().is_empty());
        assert!(headers(Some(&"x".repeat(1025)), None).is_err());
    }
}
