//! Fuzz targets: files of the host, programs that are put into a root filesystem, and the engine's own records.

use std::fs;

use conti_fuzz::target;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    container, id_ranges::Pool, mounts::made::Made, recording::About, rootfs, session, store,
    users::Users,
};
use conti_runtime::protocol::End;

/// The parts of a real program that are read: its heads, and whatever lies where its dynamic section points to.
fn elf_head(path: &str) -> Vec<u8> {
    let mut program = fs::read(path).expect("a program");
    program.truncate(24 << 10);
    program
}

/// A small ELF file with a loader, two libraries and a search path, in one segment that maps all of it.
fn small_elf() -> Vec<u8> {
    let names = b"\0libc.so.6\0libm.so.6\0$ORIGIN/../lib:/opt\0/lib64/ld.so\0";
    let (heads, dynamic) = (64 + 3 * 56, 6 * 16);
    let names_at = (heads + dynamic) as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [3_u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for word in [0_u64, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 3, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let total = names_at + names.len() as u64;
    for (kind, at, size) in
        [(1_u32, 0, total), (2, heads as u64, dynamic as u64), (3, names_at + 41, 13)]
    {
        file.extend(kind.to_le_bytes());
        file.extend(4_u32.to_le_bytes());
        for word in [at, at, at, size, size, 1] {
            file.extend(word.to_le_bytes());
        }
    }
    for (tag, value) in [(5_u64, names_at), (1, 1), (1, 11), (29, 21), (15, 21), (0, 0)] {
        file.extend(tag.to_le_bytes());
        file.extend(value.to_le_bytes());
    }
    file.extend(names);
    file
}

/// A program whose heads say 400 times that all of it is its dynamic section.
fn many_dynamic_sections() -> Vec<u8> {
    let count = 400_u16;
    let size = 64 + 56 * u64::from(count);
    let mut file = small_elf();
    file.truncate(64);
    file[56..58].copy_from_slice(&count.to_le_bytes());
    for _ in 0..count {
        file.extend([2_u32, 4].map(u32::to_le_bytes).concat());
        file.extend([0, 0, 0, size, size, 1].map(u64::to_le_bytes).concat());
    }
    file
}

#[test]
fn fuzz_elf() {
    let samples = || vec![small_elf(), elf_head("/bin/true"), many_dynamic_sections()];
    target("elf").seeds(samples).check(|bytes| {
        let Ok(Some(elf)) = rootfs::elf::of(bytes) else { return };
        let names = elf.interpreter.iter().chain(&elf.needed).chain(&elf.rpath).chain(&elf.runpath);
        // Bytes that are no UTF-8 become three.
        assert!(names.into_iter().all(|name| name.len() <= 3 * bytes.len()));
    });
}

#[test]
fn the_small_program_is_understood() {
    let elf = rootfs::elf::of(small_elf().as_slice()).expect("sound").expect("an ELF file");
    assert_eq!(elf.interpreter.as_deref(), Some("/lib64/ld.so"));
    assert_eq!(elf.needed, ["libc.so.6", "libm.so.6"]);
    assert_eq!(elf.runpath, ["$ORIGIN/../lib", "/opt"]);
}

#[test]
fn fuzz_ld_cache() {
    let samples = || {
        let entry = |name: u32, path: u32| {
            [&3_u32.to_le_bytes()[..], &name.to_le_bytes(), &path.to_le_bytes(), &[0; 12]].concat()
        };
        let head = [b"glibc-ld.so.cache1.1", &2_u32.to_le_bytes()[..], &[0; 24]].concat();
        let names = b"libc.so.6\0/lib/libc.so.6\0".to_vec();
        vec![[head, entry(96, 106), entry(96, 106), names].concat()]
    };
    target("ld_cache").seeds(samples).memory(256).check(|bytes| {
        let Some(cache) = rootfs::loader::parse_cache(bytes) else { return };
        assert!(cache.values().map(Vec::len).sum::<usize>() <= bytes.len() / 24);
    });
}

#[test]
fn fuzz_script_line() {
    let samples = || {
        vec![b"#!/usr/bin/env -S -u A B=c python3 -u\nprint()".to_vec(), b"#! /bin/sh -e".to_vec()]
    };
    target("script_line").seeds(samples).check(|bytes| {
        let found = rootfs::collect::interpreters_in(bytes);
        assert!(found.len() <= 2 && found.iter().all(|word| !word.contains(char::is_whitespace)));
    });
}

#[test]
fn fuzz_host_texts() {
    let samples = || {
        vec![b"root:x:0:0::/:/bin/sh\nann:x:7:7\ntoor:x:0:0\n".to_vec(), b"524288:65536".to_vec()]
    };
    target("host_texts").seeds(samples).check(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let name = Users::parse(&text).name(0);
        assert!(!name.contains([':', '\n']));
        if let Ok(pool) = text.parse::<Pool>() {
            assert_eq!(pool.to_string().parse(), Ok(pool));
        }
    });
}

/// A record that is read says the same when it is written and read again.
fn kept<T: Serialize + DeserializeOwned>(content: &[u8]) {
    let Ok(record) = store::parse::<T>(content) else { return };
    let written = serde_json::to_vec(&record).expect("a record can be written");
    let again: T = store::parse(&written).expect("what was written is read");
    assert_eq!(serde_json::to_vec(&again).expect("written"), written);
}

#[test]
fn records_that_are_nested_a_hundred_thousand_deep_are_refused() {
    fn refused<T: DeserializeOwned>(content: &str) {
        assert!(store::parse::<T>(content.as_bytes()).is_err());
    }
    for open in ["[", "{\"a\":", "{\"id\":{\"id\":"] {
        let content = open.repeat(100_000);
        refused::<container::Record>(&content);
        refused::<session::store::Record>(&content);
        refused::<End>(&content);
        refused::<Made>(&content);
        refused::<About>(&content);
        refused::<serde_json::Value>(&content);
        // Fields that are not known are passed over without recursion into them.
        let inside = format!("{{\"unknown\":{content}");
        refused::<container::Record>(&inside);
        refused::<session::store::Record>(&inside);
    }
}

/// The agent's records outlive it, and may have been damaged, or made by another version.
#[test]
fn fuzz_records() {
    let time = json!({"secs_since_epoch": 1_700_000_000_u64, "nanos_since_epoch": 999_999_999});
    let end = json!({
        "wait": {"Exited": 1}, "cause": null, "time_ms": 5, "stdout_bytes": 1, "stderr_bytes": 2,
        "dropped_bytes": 3, "drain_timed_out": true,
    });
    let session = json!({
        "id": "0123456789abcdef0123456789abcdef", "container": null, "main": false, "argv": ["sh"],
        "io": {"Pipes": {"stdin": true}}, "start_time": time,
    });
    let about = json!({
        "session": "0123456789abcdef0123456789abcdef", "container": null, "labels": {"a": "b"},
        "argv": ["sh", "-c", "x"], "terminal": {"columns": 80, "rows": 24}, "start_time": time,
        "format": "Asciicast",
    });
    let samples = || [end, session, about].map(|record| record.to_string().into_bytes()).into();
    target("records").seeds(samples).memory(256).check(|bytes| {
        kept::<container::Record>(bytes);
        kept::<session::store::Record>(bytes);
        kept::<End>(bytes);
        kept::<Made>(bytes);
        kept::<About>(bytes);
    });
}
