//! The devices that a container may use.

use std::{collections::BTreeSet, path::PathBuf};

use conti_proto::v1;

use super::{Field, Violations, text, violation::quote};
use crate::engine::spec::Device;

/// The most devices, and how deep below /dev one of them may be: each directory is made in a step of its own.
const DEVICES_MAX: usize = 256;
const PARTS_MAX: usize = 16;

/// Checks the devices of a container.
pub fn devices(v: &mut Violations, at: Field<'_>, messages: Vec<v1::Device>) -> Vec<Device> {
    if messages.len() > DEVICES_MAX {
        v.add(
            at,
            format_args!("has {} devices, at most {DEVICES_MAX} are allowed", messages.len()),
        );
        return Vec::new();
    }
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
        } else if place.len() > PARTS_MAX {
            let parts = place.len();
            v.add(inside_at, format_args!("has {parts} parts, at most {PARTS_MAX} are allowed"));
        } else {
            text::absolute_path(v, inside_at, &inside);
            if !places.insert(place) {
                v.add(inside_at, format_args!("{} is given twice", quote(&inside)));
            }
        }
        let [read, write, mknod] = access(v, at.name("access"), &message.access);
        // In one form only: what was granted is compared by its parts, and the device is made by its text.
        devices.push(Device {
            path: PathBuf::from(plain(&message.path)),
            path_in_container: plain(&inside),
            read,
            write,
            mknod,
        });
    }
    devices
}

/// A path that was checked, without empty parts.
fn plain(path: &str) -> String {
    format!("/{}", text::parts(path).join("/"))
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
    fn devices_and_the_directories_that_they_need_are_bounded() {
        let names: Vec<String> = (0..=DEVICES_MAX).map(|n| format!("/dev/d{n}")).collect();
        let all: Vec<_> = names.iter().map(|name| ("/dev/fuse", name.as_str(), "")).collect();
        assert!(faults(&all[1..]).is_empty());
        assert_eq!(faults(&all), ["d"]);
        let deep = |parts: usize| format!("/dev{}", "/x".repeat(parts - 1));
        assert!(faults(&[("/dev/fuse", &deep(PARTS_MAX), "")]).is_empty());
        let fault = faults(&[("/dev/fuse", &deep(PARTS_MAX + 1), "")]);
        assert_eq!(fault, ["d[0].path_in_container"]);
    }

    #[test]
    fn equal_paths_are_one_device() {
        let messages =
            [("/dev//fuse", ""), ("/dev/./fuse", "/dev//x//fuse/"), ("/dev/fuse", "/dev/f")];
        let messages = messages.map(|(path, inside)| v1::Device {
            path: path.into(),
            path_in_container: inside.into(),
            access: String::new(),
        });
        let mut v = Violations::default();
        let devices = devices(&mut v, Field::root("d"), messages.into());
        assert_eq!(v.total(), 0);
        let paths =
            devices.iter().map(|d| (d.path.to_str().unwrap(), d.path_in_container.as_str()));
        assert_eq!(
            paths.collect::<Vec<_>>(),
            [("/dev/fuse", "/dev/fuse"), ("/dev/fuse", "/dev/x/fuse"), ("/dev/fuse", "/dev/f")]
        );
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
