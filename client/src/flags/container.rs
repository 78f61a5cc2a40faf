//! What run and create share: all that describes a container.

use clap::Args;
use conti_proto::v1::{
    ContainerSpec, Device, DirRootfs, HostRootfs, IdMapping, Mount, Rootfs, rootfs::Source,
};

use crate::{
    error::{Error, Result},
    flags::{
        mount::{mount, volume},
        namespace::{Choice, choice, id_map, namespaces, userns},
        process::ProcessFlags,
        session::PolicyFlags,
        value::{Pair, device, label, pair},
    },
};

/// The description of a container on the command line.
#[derive(Debug, Clone, Default, Args)]
pub struct ContainerFlags {
    #[command(flatten)]
    pub process: ProcessFlags,
    #[command(flatten)]
    policy: PolicyFlags,
    /// Delete the container as soon as its command has ended
    #[arg(long)]
    rm: bool,
    /// The container's name; without, the agent makes one
    #[arg(long, value_parser = container_name)]
    name: Option<String>,
    /// The host name inside
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// The NIS domain name inside
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
    /// Add a label
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = label)]
    label: Vec<Pair>,
    /// The root filesystem: the programs of the agent's host, or a directory there
    #[arg(long, value_name = "host|dir:PATH", default_value = "host", value_parser = rootfs)]
    rootfs: Option<Source>,
    /// Keep what is written away from the directory of --rootfs, in a layer of its own
    #[arg(long)]
    overlay: bool,
    /// Make the root filesystem read-only
    #[arg(long)]
    read_only: bool,
    /// Mount a file or directory of the agent's host, with what is mounted below; ro holds for all of it
    #[arg(short, long, value_name = "SRC:DST[:ro]", value_parser = volume)]
    volume: Vec<Mount>,
    /// Mount something: type=bind|tmpfs|device|overlay,src=,dst=,ro,propagation=,size=,mode=,fs=,opt=,…
    ///
    /// A bind comes with what is mounted below its source, unless non-recursive is said. ro holds for all of it,
    /// with recursive-ro=false for the topmost mount alone. An overlay has lower=, upper= and work=.
    #[arg(long, value_name = "KEY=VALUE,…", value_parser = mount)]
    mount: Vec<Mount>,
    /// Choose a namespace: TYPE=private, TYPE=host or TYPE=container:NAME
    #[arg(long, value_name = "TYPE=MODE", value_parser = choice)]
    ns: Vec<Choice>,
    /// Give the container ids of its own (auto), those of the host, or those of another container, whose user
    /// namespace it joins
    #[arg(long, value_name = "auto|host|container:NAME", value_parser = userns)]
    userns: Option<Choice>,
    /// Map user ids of a private user namespace
    #[arg(long, value_name = "INSIDE:OUTSIDE:COUNT", value_parser = id_map)]
    uid_map: Vec<IdMapping>,
    /// Map group ids of a private user namespace
    #[arg(long, value_name = "INSIDE:OUTSIDE:COUNT", value_parser = id_map)]
    gid_map: Vec<IdMapping>,
    /// Allow a device of the agent's host
    #[arg(long, value_name = "PATH[:PATH[:rwm]]", value_parser = device)]
    device: Vec<Device>,
    /// Set a kernel parameter of the container's own namespaces
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    sysctl: Vec<Pair>,
    /// Run a small init as PID 1 that reaps orphans and forwards signals
    #[arg(long)]
    init: bool,
}

fn container_name(text: &str) -> Result<String, String> {
    conti_shared::name::check_container_name(text)
        .map(|()| text.to_owned())
        .map_err(|problem| format!("the name {problem}"))
}

fn rootfs(text: &str) -> Result<Source, String> {
    match text.split_once(':') {
        None if text == "host" => Ok(Source::Host(HostRootfs {})),
        Some(("dir", path)) if path.starts_with('/') => {
            Ok(Source::Dir(DirRootfs { path: path.to_owned(), overlay: false }))
        }
        Some(("dir", _)) => Err("the directory must be an absolute path".to_owned()),
        _ => Err("write host or dir:/PATH".to_owned()),
    }
}

impl ContainerFlags {
    /// The container as the API has it.
    pub fn spec(self, argv: Vec<String>) -> Result<ContainerSpec> {
        if self.userns.is_some() && self.ns.iter().any(Choice::is_of_users) {
            let twice = "--userns and --ns user=MODE both choose the user namespace: give one";
            return Err(Error::Usage(twice.to_owned()));
        }
        let source = match (self.rootfs, self.overlay) {
            (Some(Source::Dir(dir)), overlay) => Some(Source::Dir(DirRootfs { overlay, ..dir })),
            (_, true) => {
                return Err(Error::Usage(
                    "--overlay needs --rootfs dir:PATH: `host` has a layer of its own always"
                        .to_owned(),
                ));
            }
            (source, false) => source,
        };
        // In the order of the kinds: clap does not keep the order between two flags.
        let mounts = self.volume.into_iter().chain(self.mount).collect();
        Ok(ContainerSpec {
            name: self.name.unwrap_or_default(),
            labels: self.label.into_iter().collect(),
            rootfs: source.map(|source| Rootfs { source: Some(source) }),
            namespaces: namespaces(
                self.ns.into_iter().chain(self.userns).collect(),
                self.uid_map,
                self.gid_map,
            ),
            mounts,
            process: Some(self.process.process(argv)?),
            hostname: self.hostname.unwrap_or_default(),
            domainname: self.domainname.unwrap_or_default(),
            devices: self.device,
            read_only_root: self.read_only,
            init: self.init,
            sysctls: self.sysctl.into_iter().collect(),
            auto_remove: self.rm,
            session_policy: self.policy.policy(),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use conti_proto::v1::NamespaceMode;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        container: ContainerFlags,
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    }

    fn spec(args: &[&str]) -> Result<ContainerSpec, String> {
        let line = Line::try_parse_from(["x"].iter().chain(args)).map_err(|e| e.to_string())?;
        line.container.spec(line.command).map_err(|e| e.to_string())
    }

    #[test]
    fn the_flags_of_the_command_are_its_own() {
        let by_dashes = spec(&["--rm", "--", "ls", "-l", "--rm"]).unwrap();
        assert_eq!(by_dashes.process.unwrap().argv, ["ls", "-l", "--rm"]);
        let without = spec(&["--rm", "ls", "-l", "--", "x"]).unwrap();
        assert_eq!(without.process.unwrap().argv, ["ls", "-l", "--", "x"]);
        assert!(spec(&["--no-such-flag", "ls"]).is_err());
        assert!(spec(&["--rm"]).is_err());
    }

    #[test]
    fn flags_find_their_fields() {
        let spec = spec(&[
            "--rm",
            "--init",
            "--read-only",
            "--name=web",
            "--hostname=h",
            "--domainname=d",
            "-la=b",
            "-lc",
            "-v/a:/b",
            "--mount=type=tmpfs,dst=/t",
            "--ns=net=host",
            "--ns=user=private",
            "--device=/dev/fuse",
            "--sysctl=net.ipv4.ip_forward=1",
            "--rootfs=dir:/srv",
            "--overlay",
            "--deadline=10s",
            "true",
        ])
        .unwrap();
        assert!(spec.auto_remove && spec.init && spec.read_only_root);
        assert_eq!((spec.name.as_str(), spec.hostname.as_str()), ("web", "h"));
        assert_eq!((spec.labels["a"].as_str(), spec.labels["c"].as_str()), ("b", ""));
        assert_eq!(spec.mounts.len(), 2);
        let namespaces = spec.namespaces.unwrap();
        assert_eq!(namespaces.net.unwrap().mode(), NamespaceMode::Host);
        assert_eq!(namespaces.user.unwrap().mode(), NamespaceMode::Private);
        // The agent chooses the ids.
        assert!(namespaces.uid_mappings.is_empty() && namespaces.gid_mappings.is_empty());
        assert_eq!(spec.sysctls["net.ipv4.ip_forward"], "1");
        let dir = DirRootfs { path: "/srv".to_owned(), overlay: true };
        assert_eq!(spec.rootfs.unwrap().source, Some(Source::Dir(dir)));
        assert_eq!(spec.session_policy.unwrap().deadline.unwrap().seconds, 10);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for args in [
            ["--overlay", "true"],
            ["--name=A", "true"],
            ["--rootfs=dir:relative", "true"],
            ["--rootfs=image", "true"],
        ] {
            assert!(spec(&args).is_err(), "{args:?}");
        }
    }
}
