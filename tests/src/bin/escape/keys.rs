//! Keyrings of the host.

use rustix::io::Errno;

use crate::{
    list, say, secrets,
    sys::{c, call, name as errno_name, told},
};

// include/uapi/linux/keyctl.h
const SESSION: i32 = -3;
const USER: i32 = -4;
const USER_SESSION: i32 = -5;
const GET_KEYRING_ID: i32 = 0;
const JOIN_SESSION: i32 = 1;
const LINK: i32 = 8;
const SEARCH: i32 = 10;
const READ: i32 = 11;
const SET_TIMEOUT: i32 = 15;

/// `name` is what the test calls its keys.
pub fn attempts(name: &str) {
    say("keyctl-session", &told(call!(libc::SYS_keyctl, GET_KEYRING_ID, SESSION, 0)));
    say("keyctl-user", &told(call!(libc::SYS_keyctl, GET_KEYRING_ID, USER, 0)));
    say("request-key", &told(call!(libc::SYS_request_key, &c("user"), &c(name), 0, 0)));
    let here = add("conti-test-own", b"x", -2);
    say("add-key", &told(here));
    for (way, ring) in [("session", SESSION), ("user", USER), ("user-session", USER_SESSION)] {
        let found = call!(libc::SYS_keyctl, SEARCH, ring, &c("user"), &c(name), 0);
        let answer = found.and_then(read).map_or_else(errno_name, |bytes| list(secrets(&bytes)));
        say(&format!("key-of-{way}"), &answer);
    }
}

fn read(key: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; 256];
    let length = call!(libc::SYS_keyctl, READ, key, &mut bytes[..], 256usize)?;
    bytes.truncate(length.max(1));
    bytes.extend([0; 32]);
    Ok(bytes)
}

fn add(name: &str, payload: &[u8], ring: i32) -> Result<usize, Errno> {
    call!(libc::SYS_add_key, &c("user"), &c(name), payload, payload.len(), ring)
}

/// Makes a session keyring for this process and what it runs, with a secret in it. The user's own keyring, which
/// is shared with others, has the secret for some minutes.
pub fn plant(name: &str, secret: &str) {
    call!(libc::SYS_keyctl, JOIN_SESSION, 0).expect("a session keyring");
    // Only who possesses a key may set its time.
    call!(libc::SYS_keyctl, LINK, USER, SESSION).expect("the user's keyring in the session's");
    for ring in [SESSION, USER] {
        let key = add(name, secret.as_bytes(), ring).expect("a key");
        call!(libc::SYS_keyctl, SET_TIMEOUT, key, 300usize).expect("a time when it goes");
    }
}
