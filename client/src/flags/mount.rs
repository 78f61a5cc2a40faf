//! Mounts: `-v SRC:DST[:OPTIONS]` and `--mount type=…,src=…,dst=…,…`.

use conti_proto::v1::{
    BindMount, DeviceMount, Mount, MountPropagation, OverlayMount, TmpfsMount, mount::Source,
};

use crate::flags::value::{boolean, octal, size};

/// A bind mount as `SRC:DST[:OPTIONS]`, the options separated by commas.
pub fn volume(text: &str) -> Result<Mount, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => {
            let problem = "write SRC:DST[:ro]; paths with a colon go as type=bind,src=SRC,dst=DST (--mount of \
                           `run` and `create`)";
            return Err(problem.to_owned());
        }
    };
    if !source.starts_with('/') || !target.starts_with('/') {
        return Err("both paths must be absolute; SRC is a path of the agent's host".to_owned());
    }
    let mut fields = Fields { source: source.to_owned(), ..Fields::default() };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "rw" => fields.read_only = false,
            "ro" => fields.read_only = true,
            "rro" => (fields.read_only, fields.recursive_read_only) = (true, Some(true)),
            other => {
                fields.propagation = propagation(other).map_err(|_| {
                    format!("{other:?} is none of ro, rw, rro, private, slave and shared")
                })?;
            }
        }
    }
    fields.target = target.to_owned();
    fields.bind()
}

/// A mount as `key=value` pairs, separated by commas.
pub fn mount(text: &str) -> Result<Mount, String> {
    let mut fields = Fields::default();
    for item in text.split(',') {
        let (key, value) = match item.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (item, None),
        };
        fields.set(key, value)?;
    }
    match fields.kind.as_str() {
        "bind" => fields.bind(),
        "tmpfs" => fields.tmpfs(),
        "device" => fields.device(),
        "overlay" => fields.overlay(),
        "" => Err("has no type: write type=bind, tmpfs, device or overlay".to_owned()),
        other => Err(format!("the type {other:?} is none of bind, tmpfs, device and overlay")),
    }
}

#[derive(Default)]
struct Fields {
    kind: String,
    source: String,
    target: String,
    read_only: bool,
    /// Of a bind mount that comes with the mounts below: what is not said is what `read_only` says.
    recursive_read_only: Option<bool>,
    non_recursive: bool,
    propagation: MountPropagation,
    size: Option<u64>,
    mode: Option<u32>,
    fs_type: String,
    options: Vec<String>,
    lowers: Vec<String>,
    upper: String,
    work: String,
}

impl Fields {
    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        let flag = || value.map_or(Ok(true), boolean).map_err(|e| format!("{key}: {e}"));
        let text = || match value {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(format!("{key} has no value")),
        };
        match key {
            "type" => text()?.clone_into(&mut self.kind),
            "src" | "source" => text()?.clone_into(&mut self.source),
            "dst" | "target" | "destination" => text()?.clone_into(&mut self.target),
            "ro" | "readonly" | "read-only" => self.read_only = flag()?,
            "recursive-ro" => {
                let set = flag()?;
                self.recursive_read_only = Some(set);
                self.read_only |= set;
            }
            "non-recursive" => self.non_recursive = flag()?,
            "propagation" => self.propagation = propagation(text()?)?,
            "size" => self.size = Some(size(text()?)?),
            "mode" => self.mode = Some(octal(text()?)?),
            "fs" => text()?.clone_into(&mut self.fs_type),
            "opt" => self.options.push(text()?.to_owned()),
            "lower" => self.lowers.push(text()?.to_owned()),
            "upper" => text()?.clone_into(&mut self.upper),
            "work" => text()?.clone_into(&mut self.work),
            _ if key.contains(':') => {
                return Err(format!(
                    "{key:?} is no mount: in SOURCE:TARGET both paths must be absolute"
                ));
            }
            _ => {
                return Err(format!(
                    "there is no key {key:?}; the keys are type, src, dst, ro, recursive-ro, \
                     non-recursive, propagation, size, mode, fs, opt, lower, upper and work"
                ));
            }
        }
        Ok(())
    }

    fn bind(self) -> Result<Mount, String> {
        self.refuse(
            "bind",
            &[
                ("size", self.size.is_some()),
                ("mode", self.mode.is_some()),
                ("fs", !self.fs_type.is_empty()),
                ("opt", !self.options.is_empty()),
            ],
        )?;
        self.require("src", &self.source)?;
        let bind = BindMount {
            source: self.source.clone(),
            non_recursive: self.non_recursive,
            recursive_read_only: self
                .recursive_read_only
                .unwrap_or(self.read_only && !self.non_recursive),
            propagation: self.propagation.into(),
        };
        self.build(Source::Bind(bind))
    }

    fn tmpfs(self) -> Result<Mount, String> {
        self.refuse_bind_keys("tmpfs")?;
        self.refuse(
            "tmpfs",
            &[
                ("src", !self.source.is_empty()),
                ("fs", !self.fs_type.is_empty()),
                ("opt", !self.options.is_empty()),
            ],
        )?;
        let tmpfs = TmpfsMount { size_bytes: self.size.unwrap_or(0), mode: self.mode };
        self.build(Source::Tmpfs(tmpfs))
    }

    fn device(self) -> Result<Mount, String> {
        self.refuse_bind_keys("device")?;
        self.refuse("device", &[("size", self.size.is_some()), ("mode", self.mode.is_some())])?;
        self.require("src", &self.source)?;
        self.require("fs", &self.fs_type)?;
        let device = DeviceMount {
            source: self.source.clone(),
            fs_type: self.fs_type.clone(),
            options: self.options.clone(),
        };
        self.build(Source::Device(device))
    }

    fn overlay(self) -> Result<Mount, String> {
        self.refuse_bind_keys("overlay")?;
        self.refuse(
            "overlay",
            &[
                ("src", !self.source.is_empty()),
                ("size", self.size.is_some()),
                ("mode", self.mode.is_some()),
                ("fs", !self.fs_type.is_empty()),
                ("opt", !self.options.is_empty()),
            ],
        )?;
        let overlay = OverlayMount {
            lowers: self.lowers.clone(),
            upper: self.upper.clone(),
            work: self.work.clone(),
        };
        self.build(Source::Overlay(overlay))
    }

    fn build(self, source: Source) -> Result<Mount, String> {
        self.require("dst", &self.target)?;
        Ok(Mount { target: self.target, source: Some(source), read_only: self.read_only })
    }

    fn require(&self, key: &str, value: &str) -> Result<(), String> {
        if value.is_empty() { Err(format!("has no {key}")) } else { Ok(()) }
    }

    fn refuse_bind_keys(&self, kind: &str) -> Result<(), String> {
        self.refuse(
            kind,
            &[
                ("recursive-ro", self.recursive_read_only.is_some()),
                ("non-recursive", self.non_recursive),
                ("propagation", self.propagation != MountPropagation::Unspecified),
            ],
        )
    }

    /// Layers belong to overlays alone.
    fn has_layers(&self) -> bool {
        !(self.lowers.is_empty() && self.upper.is_empty() && self.work.is_empty())
    }

    fn refuse(&self, kind: &str, keys: &[(&str, bool)]) -> Result<(), String> {
        if kind != "overlay" && self.has_layers() {
            return Err(format!("lower, upper and work have no meaning for type={kind}"));
        }
        match keys.iter().find(|(_, given)| *given) {
            Some((key, _)) => Err(format!("{key} has no meaning for type={kind}")),
            None => Ok(()),
        }
    }
}

fn propagation(text: &str) -> Result<MountPropagation, String> {
    match text {
        "private" | "rprivate" => Ok(MountPropagation::Private),
        "slave" | "rslave" => Ok(MountPropagation::Slave),
        "shared" | "rshared" => Ok(MountPropagation::Shared),
        _ => Err(format!("the propagation {text:?} is none of private, slave and shared")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_volume_is_a_bind_mount() {
        let mount = volume("/a:/b:ro,rslave").unwrap();
        assert!(mount.read_only);
        assert_eq!(mount.target, "/b");
        let Some(Source::Bind(bind)) = mount.source else { panic!() };
        assert_eq!((bind.source.as_str(), bind.propagation()), ("/a", MountPropagation::Slave));
        for text in ["/a", "/a:b", "a:/b", "/a:/b:x", "/a:/b:ro:x", "", ":"] {
            assert!(volume(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn read_only_is_so_below_too_unless_said_otherwise() {
        let flags = |mount: Result<Mount, String>| {
            let mount = mount.unwrap();
            let Some(Source::Bind(bind)) = mount.source else { panic!() };
            (mount.read_only, bind.recursive_read_only)
        };
        let with = |keys: &str| flags(mount(&format!("type=bind,src=/a,dst=/b{keys}")));
        for options in ["ro", "rro", "rw,ro", "ro,slave"] {
            assert_eq!(flags(volume(&format!("/a:/b:{options}"))), (true, true), "{options}");
        }
        assert_eq!(flags(volume("/a:/b")), (false, false));
        assert_eq!(with(",ro"), (true, true));
        assert_eq!(with(",recursive-ro"), (true, true));
        assert_eq!(with(",ro,recursive-ro=false"), (true, false));
        assert_eq!(with(",recursive-ro=false,ro"), (true, false));
        assert_eq!(with(",ro,non-recursive"), (true, false));
        assert_eq!(with(",ro=false"), (false, false));
        assert_eq!(with(",recursive-ro=false"), (false, false));
    }

    #[test]
    fn every_type_of_mount_has_its_keys() {
        let tmpfs = mount("type=tmpfs,dst=/t,size=64m,mode=1777").unwrap();
        assert_eq!(
            tmpfs.source,
            Some(Source::Tmpfs(TmpfsMount { size_bytes: 64 << 20, mode: Some(0o1777) }))
        );
        let device = mount("type=device,src=/i,dst=/d,fs=ext4,opt=noload,opt=a=b,ro").unwrap();
        assert!(device.read_only);
        let Some(Source::Device(device)) = device.source else { panic!() };
        assert_eq!(device.options, ["noload", "a=b"]);
        let overlay = mount("type=overlay,lower=/a,lower=/b,upper=/u,work=/w,dst=/o").unwrap();
        let Some(Source::Overlay(overlay)) = overlay.source else { panic!() };
        assert_eq!((overlay.lowers.len(), overlay.upper.as_str()), (2, "/u"));
        let bind = mount("type=bind,source=/a,target=/b,recursive-ro,propagation=shared").unwrap();
        assert!(bind.read_only);
        for text in [
            "",
            "type=nfs,src=/a,dst=/b",
            "src=/a,dst=/b",
            "type=bind,dst=/b",
            "type=bind,src=/a",
            "type=bind,src=/a,dst=/b,size=1",
            "type=tmpfs,src=/a,dst=/b",
            "type=device,src=/a,dst=/b",
            "type=bind,src=/a,dst=/b,colour=red",
            "type=bind,src=/a,dst=/b,ro=maybe",
            "type=tmpfs,dst=/t,mode=9",
            "type=tmpfs,dst=",
            "type=tmpfs,dst=/t,lower=/a",
            "type=overlay,src=/a,dst=/t,lower=/a",
        ] {
            assert!(mount(text).is_err(), "{text:?}");
        }
        let refused = mount("b:/mnt").expect_err("a path that is relative");
        assert!(refused.contains("absolute"), "{refused}");
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = (volume(&text), mount(&text));
            let _ = mount(&format!("type=bind,{text}"));
        }
    }
}
