//! The trace that a call is part of, as its caller tells it: W3C Trace Context, level 1.

use std::fmt;

use http::HeaderMap;

/// The header, in gRPC a key of the metadata.
const TRACEPARENT: &str = "traceparent";
/// The length of version 00, and of the part of later versions that is understood.
const LEN: usize = 55;

/// A trace, and the span of the caller in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    /// The trace. Not 0.
    pub trace_id: TraceId,
    /// The caller's span: the parent of what the agent does for it. Not 0.
    pub span_id: SpanId,
    /// Whether the caller records the trace.
    pub sampled: bool,
}

/// 16 bytes, written as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(pub u128);

/// 8 bytes, written as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId(pub u64);

impl Traceparent {
    /// The trace that a call's headers tell. `None`: they tell none, or none that can be understood:
    /// the specification has both ignored.
    pub fn of(headers: &HeaderMap) -> Option<Traceparent> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Traceparent::parse(value.as_bytes()),
            _ => None,
        }
    }

    /// Reads `VERSION-TRACE-SPAN-FLAGS`, in lower-case hexadecimal digits.
    pub(super) fn parse(text: &[u8]) -> Option<Traceparent> {
        let (known, rest) = (text.get(..LEN)?, text.get(LEN..)?);
        let [b'-', b'-', b'-'] = [known[2], known[35], known[52]] else { return None };
        let version = digits(&known[..2])?;
        // A later version may go on behind another dash.
        if version == 0xff || (version == 0 && !rest.is_empty()) || !matches!(rest, [] | [b'-', ..])
        {
            return None;
        }
        let trace_id = TraceId(digits(&known[3..35])?);
        let span_id = SpanId(u64::try_from(digits(&known[36..52])?).ok()?);
        let flags = digits(&known[53..])?;
        let good = trace_id.0 != 0 && span_id.0 != 0;
        good.then_some(Traceparent { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

/// Lower-case hexadecimal digits, at most 32.
fn digits(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0, |number, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";

    #[test]
    fn what_the_specification_shows_is_read_and_written_back() {
        let read = Traceparent::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(read.trace_id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(read.span_id.to_string(), "00f067aa0ba902b7");
        assert!(read.sampled);
        let unsampled = Traceparent::parse(GOOD.replace("-01", "-02").as_bytes()).unwrap();
        assert!(!unsampled.sampled);
        // A later version is read as far as it is known.
        let later = GOOD.replacen("00", "cc", 1);
        assert_eq!(Traceparent::parse(later.as_bytes()), Some(read));
        assert_eq!(Traceparent::parse(format!("{later}-what-more").as_bytes()), Some(read));
    }

    #[test]
    fn what_is_malformed_is_ignored() {
        let zeros = |n| "0".repeat(n);
        for text in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}0"),
            &format!("{GOOD}-00"),
            &GOOD.replacen("00", "cc", 1).replace("-01", "-01x"),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.to_uppercase(),
            &GOOD.replace('-', "_"),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &zeros(32)),
            &GOOD.replace("00f067aa0ba902b7", &zeros(16)),
            &GOOD.replacen("0af", "0ag", 1),
            &format!(" {GOOD}"),
        ] {
            assert_eq!(Traceparent::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn two_of_them_are_as_none() {
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert!(Traceparent::of(&headers).is_some());
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert_eq!(Traceparent::of(&headers), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), text in "[0-9a-f-]{50,60}") {
            let _ = Traceparent::parse(&bytes);
            let _ = Traceparent::parse(text.as_bytes());
        }

        #[test]
        fn all_ids_but_zero_come_back(trace in 1u128.., span in 1u64..) {
            let text = format!("00-{}-{}-00", TraceId(trace), SpanId(span));
            let read = Traceparent::parse(text.as_bytes()).unwrap();
            prop_assert_eq!((read.trace_id.0, read.span_id.0), (trace, span));
        }
    }
}
