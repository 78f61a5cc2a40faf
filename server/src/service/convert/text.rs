//! Strings, paths, ids, numbers and durations.

use std::{
    path::{Component, Path},
    time::Duration,
};

use conti_shared::{name, signal, text::is_deceptive};

use super::{Field, Violations, violation::quote};

/// The longest path of Linux, without its NUL.
const PATH_LENGTH_MAX: usize = 4095;
/// The longest duration: ten years. What is longer is a mistake, and would overflow a clock.
const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Checks that a text has no NUL byte.
pub fn no_nul(v: &mut Violations, at: Field<'_>, text: &str) {
    if text.contains('\0') {
        v.add(at, "holds a NUL byte");
    }
}

/// Checks an absolute path without `..`.
pub fn absolute_path(v: &mut Violations, at: Field<'_>, path: &str) {
    if let Some(problem) = path_problem(path) {
        v.add(at, problem);
    }
}

fn path_problem(path: &str) -> Option<String> {
    if path.is_empty() {
        Some("is empty: give an absolute path".to_owned())
    } else if path.contains('\0') {
        Some("holds a NUL byte".to_owned())
    } else if !path.starts_with('/') {
        Some(format!("is {}, which is not an absolute path", quote(path)))
    } else if path.split('/').any(|part| part == "..") {
        Some(format!("is {}: `..` is not allowed", quote(path)))
    } else if path.len() > PATH_LENGTH_MAX {
        Some(format!("has {} bytes, a path has at most {PATH_LENGTH_MAX}", path.len()))
    } else {
        None
    }
}

/// The parts of a path that was checked, without empty ones and `.`: equal for equal places.
pub fn parts(path: &str) -> Vec<&str> {
    let normal = |c: Component<'_>| matches!(c, Component::Normal(_));
    let components = Path::new(path).components().filter(|&c| normal(c));
    components.filter_map(|c| c.as_os_str().to_str()).collect()
}

/// Checks what names a container in a request: an id, a prefix of one, or a name. Which of these
/// it is, and whether there is such a container, the engine tells.
pub fn container_key(v: &mut Violations, at: Field<'_>, key: &str) {
    some_key(v, at, key, "give a container's id or name");
}

/// Checks what names a session in a request.
pub fn session_key(v: &mut Violations, at: Field<'_>, key: &str) {
    some_key(v, at, key, "give a session's id");
}

/// Checks the id of a mount.
pub fn mount_key(v: &mut Violations, at: Field<'_>, key: &str) {
    some_key(v, at, key, "give a mount's id");
}

fn some_key(v: &mut Violations, at: Field<'_>, key: &str, hint: &str) {
    if key.is_empty() {
        v.add(at, format_args!("is empty: {hint}"));
    } else if key.len() > name::CONTAINER_NAME_MAX || key.chars().any(is_deceptive) {
        v.add(at, format_args!("is {}: {hint}", quote(key)));
    }
}

/// Checks a request id; an empty one stands for none.
pub fn request_id(v: &mut Violations, at: Field<'_>, id: String) -> Option<String> {
    if id.is_empty() {
        return None;
    }
    v.check(at, name::check_request_id(&id));
    Some(id)
}

/// Checks a signal; an empty one stands for `default`, where there is one.
pub fn signal(v: &mut Violations, at: Field<'_>, text: &str, default: Option<i32>) -> i32 {
    if text.is_empty() {
        return default.unwrap_or_else(|| {
            v.add(at, "is empty: give a signal, e.g. SIGTERM");
            signal::SIGTERM
        });
    }
    signal::parse(text).unwrap_or_else(|_| {
        let problem = "is no signal: give a name such as SIGTERM or TERM, or a number from 1 to 64";
        v.add(at, format_args!("{} {problem}", quote(text)));
        signal::SIGTERM
    })
}

/// Checks a duration: not negative, not longer than ten years.
pub fn duration(v: &mut Violations, at: Field<'_>, message: prost_types::Duration) -> Duration {
    let parts = (u64::try_from(message.seconds), u32::try_from(message.nanos));
    let (Ok(seconds), Ok(nanos @ 0..1_000_000_000)) = parts else {
        let problem = "is negative, or has nanos that are not 0 to 999999999";
        v.add(at, problem);
        return Duration::ZERO;
    };
    // Not `Duration::new` first: it is the bound that makes the sum safe.
    if seconds > DURATION_MAX.as_secs() {
        v.add(at, "is longer than ten years");
        return Duration::ZERO;
    }
    Duration::new(seconds, nanos)
}

/// Checks an enum that has an UNSPECIFIED value which stands for a default.
pub fn known<E: TryFrom<i32> + Default>(v: &mut Violations, at: Field<'_>, value: i32) -> E {
    E::try_from(value).unwrap_or_else(|_| {
        v.add(at, format_args!("is {value}, which is no value of this enum"));
        E::default()
    })
}

/// Checks the name of a machine or an NIS domain: it is also written into /etc/hosts.
pub fn host_name(v: &mut Violations, at: Field<'_>, text: &str) {
    const MAX: usize = 64;
    let good = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if text.len() > MAX {
        v.add(at, format_args!("has {} bytes, at most {MAX} are allowed", text.len()));
    } else if let Some(bad) = text.chars().find(|&c| !good(c)) {
        let problem = "only letters, digits, `-`, `.` and `_` are allowed";
        v.add(at, format_args!("holds {bad:?}, {problem}"));
    } else if text.starts_with(['-', '.']) {
        v.add(at, "begins with `-` or `.`");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(check: impl FnOnce(&mut Violations, Field<'_>)) -> usize {
        let mut v = Violations::default();
        check(&mut v, Field::root("f"));
        v.total()
    }

    #[test]
    fn paths_are_absolute_and_do_not_climb() {
        for path in ["", "a", "./a", "/a/..", "/../a", "/a/../b", "/a\0", &"/a".repeat(2048)] {
            assert_eq!(problems(|v, at| absolute_path(v, at, path)), 1, "{path:?}");
        }
        for path in ["/", "/a", "/a/", "//a/./b", "/a..b", "/..."] {
            assert_eq!(problems(|v, at| absolute_path(v, at, path)), 0, "{path:?}");
        }
    }

    #[test]
    fn paths_to_the_same_place_have_the_same_parts() {
        assert_eq!(parts("//a/./b/"), parts("/a/b"));
        assert!(parts("/./").is_empty());
    }

    #[test]
    fn durations_are_bounded() {
        let ok = |seconds, nanos| {
            problems(|v, at| {
                duration(v, at, prost_types::Duration { seconds, nanos });
            }) == 0
        };
        assert!(ok(0, 0) && ok(1, 999_999_999) && ok(315_360_000, 0));
        for (seconds, nanos) in
            [(-1, 0), (0, -1), (0, 1_000_000_000), (315_360_001, 0), (i64::MAX, i32::MAX)]
        {
            assert!(!ok(seconds, nanos), "{seconds} {nanos}");
        }
        assert!(!ok(i64::MIN, i32::MIN));
    }

    #[test]
    fn host_names_are_one_word() {
        for name in ["a b", "a\n127.0.0.1 b", "a\0", "ä", "-a", ".a", &"a".repeat(65)] {
            assert_eq!(problems(|v, at| host_name(v, at, name)), 1, "{name:?}");
        }
        for name in ["", "a", "Web-1.example_com", &"a".repeat(64)] {
            assert_eq!(problems(|v, at| host_name(v, at, name)), 0, "{name:?}");
        }
    }

    #[test]
    fn signals_have_a_default_only_where_one_is_given() {
        let mut v = Violations::default();
        let at = Field::root("signal");
        assert_eq!(signal(&mut v, at, "", Some(9)), 9);
        assert_eq!(signal(&mut v, at, "hup", None), 1);
        assert!(v.is_empty());
        signal(&mut v, at, "", None);
        signal(&mut v, at, "NOPE", Some(9));
        assert_eq!(v.total(), 2);
    }
}
