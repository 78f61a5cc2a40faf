//! Fuzz targets: what an agent sends, or a container through it, and what lies in this client's files.

use conti_fuzz::target;
use conti_proto::v1::{ListMountsResponse, ListNamespacesResponse, ListProcessesResponse};
use conti_proto::v1::{MountInfo, NamespaceInfo, NamespaceType, ProcessInfo};
use conti_shared::text::is_deceptive;
use prost::Message as _;

use super::{
    mounts, ns,
    replay::{Cut, Piece, Pieces, frame, line},
};
use crate::{
    contexts::Contexts,
    output::{processes, text},
    stream::detach,
};

/// The pieces of a recording that comes in parts of `step` bytes, and whether it ended in an error.
fn pieces(cut: Cut, bytes: &[u8], step: usize) -> (Vec<Piece>, bool) {
    let (mut pieces, mut all) = (Pieces::new(cut), Vec::new());
    for part in bytes.chunks(step) {
        pieces.buffer.extend_from_slice(part);
        loop {
            match pieces.next() {
                Ok(Some(piece)) => all.push(piece),
                Ok(None) => break,
                Err(_) => return (all, true),
            }
        }
    }
    (all, false)
}

#[test]
fn fuzz_recording() {
    let samples = || {
        let mut frames = b"contirec\x01\0\0\0\x02\0\0\0{}".to_vec();
        for (kind, data) in
            [(1_u8, &b"out"[..]), (2, b"err"), (4, &[7, 0, 0, 0, 0, 0, 0, 0]), (5, b"")]
        {
            frames.extend([kind, 0, 0, 0]);
            frames.extend((data.len() as u32).to_le_bytes());
            frames.extend([0; 16]);
            frames.extend(data);
        }
        let cast = "{\"version\":2}\n[0.5,\"o\",\"\u{e9}\\u001b[2J\"]\n[1,\"r\",\"8x2\"]\n[1e999,\"m\",\"x\"]\n";
        vec![frames, cast.as_bytes().to_vec()]
    };
    target("recording").seeds(samples).memory(512).check(|bytes| {
        for cut in [line as Cut, frame as Cut] {
            let (whole, bad) = pieces(cut, bytes, bytes.len().max(1));
            // Whatever parts it comes in.
            let (parts, bad_parts) = pieces(cut, bytes, 1 + bytes.len() / 7);
            assert!(whole == parts && bad == bad_parts);
            assert!(whole.len() <= bytes.len());
        }
    });
}

/// What a terminal shows holds nothing that steers it or looks like something else.
#[test]
fn fuzz_shown_text() {
    let samples = || {
        let all: [&[u8]; 3] = [
            b"\x1b]0;title\x07\x1b[2Jname\r\n",
            "a\u{202e}b\u{2066}\u{feff}\u{85}\u{9b}31m\u{200d} \u{1f980}".as_bytes(),
            b"\xff\xfe\\x41\xc3\x28 plain",
        ];
        all.map(<[u8]>::to_vec).into()
    };
    target("shown_text").seeds(samples).runs(1000).memory(256).check(|bytes| {
        let given = text::bytes(bytes);
        let plain = text::plain(&given);
        assert!(!plain.chars().any(is_deceptive));
        assert_eq!(text::plain(&plain), plain, "nothing is escaped twice");
        let value = serde_json::json!({ given.clone(): [given.clone()] });
        let written = value.to_string();
        let shown = text::json(&written);
        assert!(!shown.chars().any(is_deceptive));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), value);
        assert!(text::cut(&given).chars().count() <= 40);
    });
}

#[test]
fn contexts_that_are_nested_a_hundred_thousand_deep_are_refused() {
    for open in ["a = ", "a.", "[a."] {
        let open = if open == "a = " {
            format!("a = {}", "[".repeat(100_000))
        } else {
            open.repeat(100_000)
        };
        toml::from_str::<Contexts>(&open).expect_err("there are no contexts in it");
    }
    // As an asciicast has it.
    let line_of = format!("{}\n", "[".repeat(100_000));
    assert!(line(line_of.as_bytes()).is_err());
}

#[test]
fn fuzz_contexts() {
    let samples = || {
        vec![
            b"current = 'a'\n[contexts.a]\nhost = 'tcp://web:7443'\nca = 'certificates/a/ca.pem'\n"
                .to_vec(),
        ]
    };
    target("contexts").seeds(samples).memory(2048).runs(2000).check(|bytes| {
        let Ok(text) = str::from_utf8(bytes) else { return };
        if let Ok(contexts) = toml::from_str::<Contexts>(text) {
            let again = toml::to_string(&contexts).expect("contexts can be written");
            let again: Contexts = toml::from_str(&again).expect("what was written is read");
            assert_eq!(format!("{again:?}"), format!("{contexts:?}"));
        }
        // `--detach-keys` and its variable.
        let _ = text.parse::<detach::Keys>();
    });
}

/// Parents are numbers that an agent says: nothing keeps them from going in circles.
#[test]
fn fuzz_trees() {
    let samples = || {
        let mounts = (1..9).map(|id| MountInfo { id, parent_id: id / 2, ..Default::default() });
        let process = |pid, parent_pid| ProcessInfo { pid, parent_pid, ..Default::default() };
        let namespace = |inode, owner_inode| NamespaceInfo {
            r#type: NamespaceType::User.into(),
            inode,
            owner_inode,
            ..Default::default()
        };
        vec![
            ListMountsResponse { mounts: mounts.collect() }.encode_to_vec(),
            ListProcessesResponse {
                processes: vec![process(1, 0), process(2, 1), process(3, 4), process(4, 3)],
            }
            .encode_to_vec(),
            ListNamespacesResponse { namespaces: vec![namespace(1, 2), namespace(2, 1)] }
                .encode_to_vec(),
        ]
    };
    // An empty entry of two bytes is a line of ten columns.
    target("trees").seeds(samples).memory(4096).fixed_memory(256 << 10).check(|bytes| {
        if let Ok(found) = ListMountsResponse::decode(bytes) {
            assert_eq!(mounts::tree(&found.mounts).len(), found.mounts.len());
        }
        if let Ok(found) = ListProcessesResponse::decode(bytes) {
            assert_eq!(processes::tree(&found.processes).len(), found.processes.len());
        }
        if let Ok(found) = ListNamespacesResponse::decode(bytes) {
            assert_eq!(ns::tree(&found.namespaces).lines().count(), found.namespaces.len());
        }
    });
}
