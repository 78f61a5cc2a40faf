//! How single values are written on the command line.

use std::{ffi::OsString, time::Duration};

use conti_proto::v1::{Device, Rlimit, Role};

/// A name with a value.
pub type Pair = (String, String);

/// Takes `NAME=VALUE` apart.
pub fn pair(text: &str) -> Result<Pair, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// Takes a label `NAME=VALUE` apart; without `=` its value is empty.
pub fn label(text: &str) -> Result<Pair, String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    conti_shared::name::check_label_name(name).map_err(|e| format!("its name {e}"))?;
    conti_shared::name::check_label_value(value).map_err(|e| format!("its value {e}"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A variable `NAME=VALUE`; without `=` it is taken from this client's environment, where it is
/// set there.
pub fn variable(text: &str) -> Result<Option<Pair>, String> {
    if text.is_empty() || text.starts_with('=') {
        return Err("has no name: write NAME=VALUE".to_owned());
    }
    match text.split_once('=') {
        Some((name, value)) => Ok(Some((name.to_owned(), value.to_owned()))),
        None => match std::env::var(text) {
            Ok(value) => Ok(Some((text.to_owned(), value))),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(error @ std::env::VarError::NotUnicode(_)) => Err(error.to_string()),
        },
    }
}

/// A duration such as `500ms`, `10s`, `1h 30m`, or a number of seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if plain {
        let seconds: f64 = text.parse().map_err(|_| "is no number of seconds".to_owned())?;
        return Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string());
    }
    humantime::parse_duration(text).map_err(|e| format!("{e}; write e.g. 500ms, 10s or 5m"))
}

/// A duration as a message.
pub fn duration_message(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        // More than the agent takes in any case: it says so.
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}

/// A size in bytes: a number, or one with `k`, `m`, `g` or `t`, each 1024 times the one before.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size: write e.g. 4096, 64k, 16m or 1g");
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (digits, shift) = match lower.as_bytes().last() {
        Some(b'k') => (&lower[..lower.len() - 1], 10),
        Some(b'm') => (&lower[..lower.len() - 1], 20),
        Some(b'g') => (&lower[..lower.len() - 1], 30),
        Some(b't') => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// A file mode or a mask, in octal digits.
pub fn octal(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if !digits.starts_with('+') && mode <= 0o7777 => Ok(mode),
        _ => Err(format!("{text:?} is no file mode: write octal digits, e.g. 0755")),
    }
}

/// `true` or `false`.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// A resource limit: `NAME=SOFT:HARD` or `NAME=BOTH`.
pub fn ulimit(text: &str) -> Result<Rlimit, String> {
    let (name, limits) = pair(text).map_err(|_| "write NAME=SOFT[:HARD]".to_owned())?;
    let one = |text: &str| match text {
        "unlimited" | "-1" => Ok(u64::MAX),
        _ => text.parse().map_err(|_| format!("{text:?} is neither a number nor `unlimited`")),
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((&limits, &limits));
    Ok(Rlimit { name, soft: one(soft)?, hard: one(hard)? })
}

/// A device: `PATH[:PATH_INSIDE][:ACCESS]`.
pub fn device(text: &str) -> Result<Device, String> {
    let is_access =
        |part: &str| !part.is_empty() && part.bytes().all(|b| matches!(b, b'r' | b'w' | b'm'));
    let parts: Vec<&str> = text.split(':').collect();
    let (path, inside, access) = match parts[..] {
        [path] => (path, "", ""),
        [path, access] if is_access(access) => (path, "", access),
        [path, inside] => (path, inside, ""),
        [path, inside, access] if is_access(access) => (path, inside, access),
        [_, _, access] => {
            return Err(format!("the access {access:?} is not made of r, w and m"));
        }
        _ => return Err("write PATH[:PATH_INSIDE][:rwm]".to_owned()),
    };
    if path.is_empty() {
        return Err("the path is empty".to_owned());
    }
    Ok(Device {
        path: path.to_owned(),
        path_in_container: inside.to_owned(),
        access: access.to_owned(),
    })
}

/// A role that somebody can be given.
pub fn role(text: &str) -> Result<Role, String> {
    match text {
        "viewer" => Ok(Role::Viewer),
        "operator" => Ok(Role::Operator),
        "admin" => Ok(Role::Admin),
        _ => Err(format!("{text:?} is no role: there are viewer, operator and admin")),
    }
}

/// A signal: returned as it was written, so that the agent reads it for its own host.
pub fn signal(text: &str) -> Result<String, String> {
    conti_shared::signal::parse(text).map(|_| text.to_owned()).map_err(|e| e.to_string())
}

/// A path of a target as the kernel there has it: any bytes, where this system's arguments are such.
pub fn bytes_of<B: From<Vec<u8>>>(path: OsString) -> B {
    path.into_encoded_bytes().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_have_letters() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("64k", 65536), ("64M", 64 << 20)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert_eq!(size("1GiB"), Ok(1 << 30));
        for text in ["", "m", "-1", "+1", "1.5g", "99999999999t", "1x"] {
            assert!(size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(octal("1777"), Ok(0o1777));
        assert_eq!(octal("022"), Ok(0o22));
        for text in ["", "9", "10000", "-1", "+7"] {
            assert!(octal(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn limits_have_one_number_or_two() {
        let limit = |text| ulimit(text).map(|l| (l.name, l.soft, l.hard));
        assert_eq!(limit("nofile=1024:2048"), Ok(("nofile".to_owned(), 1024, 2048)));
        assert_eq!(limit("core=0"), Ok(("core".to_owned(), 0, 0)));
        assert_eq!(limit("core=unlimited"), Ok(("core".to_owned(), u64::MAX, u64::MAX)));
        assert!(limit("core").is_err() && limit("core=a").is_err() && limit("=1").is_err());
    }

    #[test]
    fn devices_have_up_to_three_parts() {
        let parts = |text| device(text).map(|d| (d.path, d.path_in_container, d.access));
        let owned = |a: &str, b: &str, c: &str| Ok((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(parts("/dev/fuse"), owned("/dev/fuse", "", ""));
        assert_eq!(parts("/dev/fuse:rw"), owned("/dev/fuse", "", "rw"));
        assert_eq!(parts("/dev/a:/dev/b"), owned("/dev/a", "/dev/b", ""));
        assert_eq!(parts("/dev/a:/dev/b:r"), owned("/dev/a", "/dev/b", "r"));
        assert!(parts("/dev/a:/dev/b:x").is_err() && parts("").is_err());
    }

    #[test]
    fn durations_may_lack_their_unit() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for text in ["", "-1", "abc", "1x", ".", "1e400"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = (pair(&text), label(&text), duration(&text), size(&text), octal(&text));
            let _ = (ulimit(&text), device(&text), signal(&text));
        }
    }
}
