//! A confinement, and the capabilities that it names.

use conti_proto::v1;
use conti_runtime::plan::Confinement;

use super::{Field, Violations, text, violation::quote};
use crate::engine::capability::{ALL, names, parse};

/// Checks a confinement. Absent: the default one.
pub fn confinement(
    v: &mut Violations,
    at: Field<'_>,
    message: Option<v1::Confinement>,
) -> Confinement {
    let Some(message) = message else { return Confinement::default() };
    let seccomp: v1::SeccompMode = text::known(v, at.name("seccomp"), message.seccomp);
    let add = set(v, at.name("cap_add"), &message.cap_add);
    let drop = set(v, at.name("cap_drop"), &message.cap_drop);
    if message.privileged {
        if !message.cap_drop.is_empty() {
            v.add(at.name("cap_drop"), "cannot be combined with privileged");
        }
        return Confinement {
            capabilities: ALL,
            no_new_privs: false,
            // Only where it was asked for by its name.
            seccomp: seccomp == v1::SeccompMode::Default,
            privileged: true,
        };
    }
    Confinement {
        capabilities: (Confinement::DEFAULT_CAPABILITIES | add) & !drop,
        no_new_privs: !message.allow_new_privileges,
        seccomp: seccomp != v1::SeccompMode::Unconfined,
        privileged: false,
    }
}

/// A confinement as a message: what was added to and taken from the default one.
pub fn confinement_back(confinement: Confinement) -> v1::Confinement {
    let seccomp = match confinement.seccomp {
        true => v1::SeccompMode::Default,
        false => v1::SeccompMode::Unconfined,
    };
    let message = v1::Confinement { seccomp: seccomp.into(), ..Default::default() };
    if confinement.privileged {
        return v1::Confinement { privileged: true, ..message };
    }
    let default = Confinement::DEFAULT_CAPABILITIES;
    v1::Confinement {
        cap_add: names(confinement.capabilities & !default),
        cap_drop: names(default & !confinement.capabilities),
        allow_new_privileges: !confinement.no_new_privs,
        ..message
    }
}

fn set(v: &mut Violations, at: Field<'_>, texts: &[String]) -> u64 {
    let mut set = 0;
    for (index, text) in texts.iter().enumerate() {
        match parse(text) {
            Some(bits) => set |= bits,
            None => v.add(
                at.index(index),
                format_args!("{} is no capability: give e.g. CAP_NET_ADMIN or ALL", quote(text)),
            ),
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(message: v1::Confinement) -> Result<Confinement, Violations> {
        super::super::checked(|v| confinement(v, Field::root("c"), Some(message)))
    }

    fn with(add: &[&str], drop: &[&str]) -> v1::Confinement {
        let own = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect();
        v1::Confinement { cap_add: own(add), cap_drop: own(drop), ..Default::default() }
    }

    #[test]
    fn the_default_set_is_that_of_the_major_runtimes() {
        let names = names(Confinement::DEFAULT_CAPABILITIES);
        assert_eq!(names.len(), 14);
        assert_eq!(convert(v1::Confinement::default()), Ok(Confinement::default()));
    }

    #[test]
    fn capabilities_are_added_then_dropped() {
        let set = |message| convert(message).unwrap().capabilities;
        assert_eq!(set(with(&["ALL"], &[])), ALL);
        assert_eq!(set(with(&[], &["all"])), 0);
        assert_eq!(set(with(&["ALL"], &["CAP_SYS_ADMIN"])), ALL & !(1 << 21));
        assert_eq!(set(with(&["net_admin"], &["ALL"])), 0);
        assert_eq!(set(with(&["cap_net_admin", "21"], &["cap_all"])), 0);
        assert_eq!(set(with(&["40"], &[])), Confinement::DEFAULT_CAPABILITIES | 1 << 40);
        for bad in ["", "41", "-1", "CAP_", "CAP_CAP_CHOWN", "CHOWN ", "NOPE", "9999999999"] {
            assert!(convert(with(&[bad], &[])).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn privileged_lifts_all_and_excludes_drops() {
        let privileged = v1::Confinement { privileged: true, ..Default::default() };
        let wanted = Confinement {
            capabilities: ALL,
            no_new_privs: false,
            seccomp: false,
            privileged: true,
        };
        assert_eq!(convert(privileged), Ok(wanted));
        let both = v1::Confinement { privileged: true, ..with(&[], &["CHOWN"]) };
        assert!(convert(both).is_err());
    }
}
