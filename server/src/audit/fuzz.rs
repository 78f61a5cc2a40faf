//! Fuzz target: lines of the audit log, which a later agent reads again.

use conti_fuzz::target;
use conti_shared::text::is_deceptive;

use super::{Entry, Event, Subject, Who};

#[test]
fn fuzz_audit_entry() {
    let samples = || {
        let mut subject = Subject { reason: Some("a\nb\u{1b}[0m".into()), ..Subject::default() };
        subject.command(vec!["sh\n".into(), "\u{2028}\r".into()], &["A=secret".into()], true);
        let entry = Entry::new(Event::Begin, Who::default(), "/x", subject);
        vec![entry.line(), b"{}".to_vec()]
    };
    target("audit_entry").seeds(samples).memory(256).check(|bytes| {
        let Ok(entry) = serde_json::from_slice::<Entry>(bytes) else { return };
        let line = entry.line();
        // One line, whatever stands in it.
        assert!(line.ends_with(b"}\n"));
        assert_eq!(line.iter().filter(|byte| **byte < 0x20).count(), 1);
        // Nothing in it steers a terminal, or looks like something else.
        let text = std::str::from_utf8(&line).expect("JSON is text");
        assert!(!text.trim_end_matches('\n').chars().any(is_deceptive));
        let again: Entry = serde_json::from_slice(&line).expect("what was written is read");
        assert_eq!(again, entry);
    });
}
