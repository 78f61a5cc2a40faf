//! The devices that a container may use.

use std::{collections::BTreeSet, path::PathBuf};

use conti_proto::v1;

use super::{Field, Violations, text, violation::quote};
use crate::engine::spec::Device;

/// Checks the devices of a container.
pub fn devices(v: &mut Violations, at: Field<'_>, messages: Vec<v1::Device>) -> Vec<Device> {
    let mut places: BTreeSet<Vec<String>> = BTreeSet::new();
    let mut devices = Vec::with_capacity(messages.len());
    for (index, message) in messages.into_iter().enumerate() {
        let at = at.index(index);
        text::absolute_path(v, at.name("path"), &message.path);
        let inside = match message.path_in_container.is_empty() {
            true => message.path.clone(),
            false => message.path_in_container,
        };
        let inside_at = at.name("path_in_container");
        let place: Vec<String> = text::parts(&inside).into_iter().map(str::to_owned).collect();
        if !inside.starts_with('/') || place.len() < 2 || place[0] != "dev" {
            v.add(inside_at, format_args!("is {}, which is not below /dev", quote(&inside)));
        } else {
            text::absolute_path(v, inside_at, &inside);
            if !places.insert(place) {
                v.add(inside_at, format_args!("{} is given twice", quote(&inside)));
            }
        }
        let [read, write, mknod] = access(v, at.name("access"), &message.access);
        devices.push(Device {
            path: PathBuf::from(message.path),
            path_in_container: inside,
            read,
            write,
            mknod,
        });
    }
    devices
}

fn access(v: &mut Violations, at: Field<'_>, text: &str) -> [bool; 3] {
    if text.is_empty() {
        return [true; 3];
    }
    let once = |c: char| text.matches(c).count() == 1;
    if !text.chars().all(|c| "rwm".contains(c) && once(c)) {
        v.add(at, format_args!("is {}: give some of `r`, `w` and `m`, each once", quote(text)));
    }
    ['r', 'w', 'm'].map(|c| text.contains(c))
}

/// A device as a message.
pub fn device_back(device: Device) -> v1::Device {
    let flags = [(device.read, 'r'), (device.write, 'w'), (device.mknod, 'm')];
    v1::Device {
        path: super::back::path(device.path),
        path_in_container: device.path_in_container,
        access: flags.into_iter().filter(|(set, _)| *set).map(|(_, c)| c).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(list: &[(&str, &str, &str)]) -> Vec<String> {
        let message = |&(path, inside, access): &(&str, &str, &str)| v1::Device {
            path: path.into(),
            path_in_container: inside.into(),
            access: access.into(),
        };
        let mut v = Violations::default();
        devices(&mut v, Field::root("d"), list.iter().map(message).collect());
        v.named().iter().map(|(field, _)| field.clone()).collect()
    }

    #[test]
    fn devices_go_below_dev_with_some_access() {
        assert!(faults(&[("/dev/fuse", "", ""), ("/dev/kvm", "/dev/x/kvm", "rw")]).is_empty());
        assert_eq!(faults(&[("/srv/fuse", "", "")]), ["d[0].path_in_container"]);
        assert!(faults(&[("/srv/fuse", "/dev/fuse", "m")]).is_empty());
        for inside in ["/dev", "/dev/", "dev/x", "/etc/x", "/dev/../etc/x", "/dev/a\0"] {
            assert_eq!(faults(&[("/dev/a", inside, "")]), ["d[0].path_in_container"], "{inside}");
        }
        for access in ["x", "rr", "rwmr", "RW", " "] {
            assert_eq!(faults(&[("/dev/a", "", access)]), ["d[0].access"], "{access}");
        }
        let twice = [("/dev/a", "", ""), ("/dev/b", "/dev//a", "")];
        assert_eq!(faults(&twice), ["d[1].path_in_container"]);
    }
}
