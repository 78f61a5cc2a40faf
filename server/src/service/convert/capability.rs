//! A confinement, and the capabilities that it names.

use conti_proto::v1;
use conti_runtime::plan::Confinement;

use super::{Field, Violations, text, violation::quote};
use crate::engine::{
    capability::{ALL, names, parse},
    inherit::ConfinementChange,
};

/// Checks what is to change of a confinement. Absent: nothing.
pub fn change(
    v: &mut Violations,
    at: Field<'_>,
    message: Option<v1::Confinement>,
) -> ConfinementChange {
    let Some(message) = message else { return ConfinementChange::default() };
    let seccomp: v1::SeccompMode = text::known(v, at.name("seccomp"), message.seccomp);
    let added = set(v, at.name("cap_add"), &message.cap_add);
    let dropped = set(v, at.name("cap_drop"), &message.cap_drop);
    if message.privileged() && !message.cap_drop.is_empty() {
        v.add(at.name("cap_drop"), "cannot be combined with privileged");
    }
    if added.all && dropped.all {
        v.add(at.name("cap_drop"), "names ALL, and so does cap_add: give it in one of them");
    }
    // What is all of them comes before the single ones, so that there can be exceptions to it.
    let (drop, add) = match (added.all, dropped.all) {
        (true, _) => (0, ALL & !dropped.named | added.named),
        (false, true) => (ALL, added.named),
        (false, false) => (dropped.named, added.named),
    };
    ConfinementChange {
        drop,
        add,
        no_new_privs: message.allow_new_privileges.map(|allowed| !allowed),
        seccomp: match seccomp {
            v1::SeccompMode::Unspecified => None,
            v1::SeccompMode::Default => Some(true),
            v1::SeccompMode::Unconfined => Some(false),
        },
        privileged: message.privileged,
    }
}

/// A confinement as a message: what was added to and taken from the default one.
pub fn confinement_back(confinement: Confinement) -> v1::Confinement {
    let seccomp = match confinement.seccomp {
        true => v1::SeccompMode::Default,
        false => v1::SeccompMode::Unconfined,
    };
    let message = v1::Confinement {
        seccomp: seccomp.into(),
        allow_new_privileges: Some(!confinement.no_new_privs),
        privileged: Some(confinement.privileged),
        ..Default::default()
    };
    if confinement.privileged {
        return message;
    }
    let default = Confinement::DEFAULT_CAPABILITIES;
    v1::Confinement {
        cap_add: names(confinement.capabilities & !default),
        cap_drop: names(default & !confinement.capabilities),
        ..message
    }
}

/// Capabilities by name, and whether ALL is among them.
#[derive(Default)]
struct Set {
    named: u64,
    all: bool,
}

fn set(v: &mut Violations, at: Field<'_>, texts: &[String]) -> Set {
    let mut set = Set::default();
    for (index, text) in texts.iter().enumerate() {
        match parse(text) {
            Some(ALL) => set.all = true,
            Some(bits) => set.named |= bits,
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
        let change = super::super::checked(|v| change(v, Field::root("c"), Some(message)))?;
        Ok(change.of(Confinement::default()))
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
    fn capabilities_are_dropped_then_added() {
        let set = |message| convert(message).unwrap().capabilities;
        assert_eq!(set(with(&["ALL"], &[])), ALL);
        assert_eq!(set(with(&[], &["all"])), 0);
        assert_eq!(set(with(&["ALL"], &["CAP_SYS_ADMIN"])), ALL & !(1 << 21));
        assert_eq!(set(with(&["net_admin"], &["ALL"])), 1 << 12);
        assert_eq!(set(with(&["cap_net_admin", "21"], &["cap_all", "CHOWN"])), 1 << 12 | 1 << 21);
        assert_eq!(set(with(&["CHOWN"], &["CHOWN"])), Confinement::DEFAULT_CAPABILITIES);
        assert!(convert(with(&["ALL"], &["CHOWN", "ALL"])).is_err());
        assert_eq!(set(with(&["40"], &[])), Confinement::DEFAULT_CAPABILITIES | 1 << 40);
        for bad in ["", "41", "-1", "CAP_", "CAP_CAP_CHOWN", "CHOWN ", "NOPE", "9999999999"] {
            assert!(convert(with(&[bad], &[])).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn privileged_lifts_all_and_excludes_drops() {
        let privileged = v1::Confinement { privileged: Some(true), ..Default::default() };
        let wanted = Confinement {
            capabilities: ALL,
            no_new_privs: false,
            seccomp: false,
            privileged: true,
        };
        assert_eq!(convert(privileged), Ok(wanted));
        let both = v1::Confinement { privileged: Some(true), ..with(&[], &["CHOWN"]) };
        assert!(convert(both).is_err());
    }
}
