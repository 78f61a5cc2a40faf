//! Failures of a step: from the errno inside the child to the words of [`SetupFailure`].
//!
//! A child has no way to send a string, so that it names the step and the number of the item;
//! [`Plan::argument`] finds the item's words again in the plan that the monitor has too.

use rustix::io::Errno;

use crate::plan::{
    ContainerPlan, Identity, JoinPlan, Mount, NsSource, NsType, Place, Plan, SetupFailure, Step,
};

/// The index of [`Step::JoinNamespace`] that stands for all namespaces of the target at once.
pub(super) const ALL_NAMESPACES: u32 = u32::MAX;
/// The index of [`Step::JoinNamespace`] that stands for the mount namespace of the host.
pub(super) const HOST_MOUNTS: u32 = u32::MAX - 1;
/// The index of [`Step::Root`] that stands for the directory that a joining process takes as its root.
pub(super) const TARGET_ROOT: u32 = 1;
/// The index of [`Step::Cwd`] that stands for the directory of the target.
pub(super) const TARGET_CWD: u32 = 1;

/// A step that failed in the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fail {
    pub step: Step,
    /// Which of the step's items.
    pub index: u32,
    /// 0 where the kernel was not asked.
    pub errno: i32,
}

impl Fail {
    pub(super) fn new(step: Step, index: u32, errno: Errno) -> Fail {
        Fail { step, index, errno: errno.raw_os_error() }
    }

    /// The kernel was not asked: what was named is not there.
    pub(super) fn unknown(step: Step, index: u32) -> Fail {
        Fail { step, index, errno: 0 }
    }

    /// As the monitor reports it.
    pub(super) fn describe(self, plan: &Plan) -> SetupFailure {
        let argument = plan.argument(self.step, self.index);
        SetupFailure { step: self.step, argument, errno: self.errno }
    }
}

/// How much is told of what a step was tried on, in bytes: as long as a path may be (PATH_MAX). More of the command's
/// words, say, would not fit into a message to the agent.
const ARGUMENT_MAX: usize = 4096;

/// Says which step a system call belongs to.
pub(super) trait At<T> {
    /// The error becomes a failure of `step`.
    fn at(self, step: Step) -> Result<T, Fail>;
    /// The error becomes a failure of an item of `step`.
    fn at_item(self, step: Step, index: usize) -> Result<T, Fail>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, step: Step) -> Result<T, Fail> {
        self.map_err(|errno| Fail::new(step, 0, errno))
    }

    fn at_item(self, step: Step, index: usize) -> Result<T, Fail> {
        self.map_err(|errno| Fail::new(step, index as u32, errno))
    }
}

/// The step with this number.
pub(super) fn step_from_number(number: u32) -> Option<Step> {
    const STEPS: [Step; 32] = [
        Step::Plan,
        Step::Stdio,
        Step::Clone,
        Step::IdMap,
        Step::JoinNamespace,
        Step::Keyring,
        Step::Session,
        Step::Hostname,
        Step::Domainname,
        Step::Loopback,
        Step::Propagation,
        Step::Root,
        Step::Mount,
        Step::PivotRoot,
        Step::MaskPath,
        Step::ReadOnlyPath,
        Step::Sysctl,
        Step::User,
        Step::Group,
        Step::Cwd,
        Step::Umask,
        Step::Rlimit,
        Step::OomScoreAdj,
        Step::Terminal,
        Step::Capabilities,
        Step::Credentials,
        Step::Groups,
        Step::NoNewPrivs,
        Step::Seccomp,
        Step::CloseFds,
        Step::Init,
        Step::Exec,
    ];
    STEPS.into_iter().find(|step| *step as u32 == number)
}

impl Plan {
    /// What a step was tried on: a path, a name, a value. Empty where the step has no argument, and cut where it is very
    /// long.
    pub fn argument(&self, step: Step, index: u32) -> String {
        let mut argument = self.whole_argument(step, index);
        argument.truncate(argument.floor_char_boundary(ARGUMENT_MAX));
        argument
    }

    fn whole_argument(&self, step: Step, index: u32) -> String {
        let item = index as usize;
        match (step, &self.place) {
            (Step::Clone | Step::IdMap | Step::JoinNamespace, place) => {
                namespaces(place, step, index)
            }
            (Step::Root, Place::Container(_)) => "/".to_owned(),
            (Step::Root, Place::Join(_)) => "the root of the target".to_owned(),
            (Step::Root, Place::Host(_)) => "the root of the host".to_owned(),
            (Step::Mount, Place::Host(_)) => "/proc".to_owned(),
            (Step::Mount, Place::Join(join)) => {
                let tool = join.tools.as_ref().and_then(|tools| tools.entries.get(item));
                tool.map(|tool| format!("/{}", tool.name)).unwrap_or_default()
            }
            (Step::Hostname, Place::Container(c)) => c.hostname.clone().unwrap_or_default(),
            (Step::Domainname, Place::Container(c)) => c.domainname.clone().unwrap_or_default(),
            (Step::Mount, Place::Container(c)) => {
                c.mounts.get(item).map(|m| m.target.clone()).unwrap_or_default()
            }
            (Step::MaskPath, Place::Join(join)) => {
                let paths = join.tools.as_ref().map(|tools| &tools.masked_paths);
                paths.and_then(|paths| paths.get(item)).cloned().unwrap_or_default()
            }
            (Step::ReadOnlyPath, Place::Join(join)) => {
                let paths = join.tools.as_ref().map(|tools| &tools.read_only_paths);
                paths.and_then(|paths| paths.get(item)).cloned().unwrap_or_default()
            }
            (Step::MaskPath, Place::Container(c)) => {
                c.masked_paths.get(item).cloned().unwrap_or_default()
            }
            (Step::ReadOnlyPath, Place::Container(c)) => {
                c.read_only_paths.get(item).cloned().unwrap_or_else(|| "/".to_owned())
            }
            (Step::Sysctl, Place::Container(c)) => c
                .sysctls
                .iter()
                .chain(&c.net_defaults)
                .nth(item)
                .map(|(name, value)| format!("{name}={value}"))
                .unwrap_or_default(),
            (Step::Loopback, _) => "lo".to_owned(),
            _ => self.process_argument(step, item),
        }
    }

    fn process_argument(&self, step: Step, item: usize) -> String {
        let process = &self.process;
        match (step, &process.identity) {
            (Step::User, Identity::Lookup { user, .. }) => user.clone(),
            (Step::Group, Identity::Lookup { group, .. }) if item == 0 => group.clone(),
            (Step::Group, Identity::Lookup { additional_groups, .. }) => {
                additional_groups.get(item - 1).cloned().unwrap_or_default()
            }
            // The index is the id itself, which may be one that the plan does not name.
            (Step::Groups, _) | (Step::Credentials, _) if item > 0 => item.to_string(),
            (Step::Groups, _) => "0".to_owned(),
            (Step::Credentials, Identity::Lookup { user, group, .. }) => {
                format!("{user}:{group}").trim_end_matches(':').to_owned()
            }
            (Step::Credentials, Identity::Ids { uid, gid, .. }) => format!("{uid}:{gid}"),
            (Step::Cwd, _) if item == TARGET_CWD as usize => {
                "the working directory of the target".to_owned()
            }
            (Step::Cwd, _) => process.cwd.clone(),
            (Step::Umask, _) => format!("{:04o}", process.umask),
            (Step::Rlimit, _) => process
                .rlimits
                .get(item)
                .map(|l| format!("{}={}:{}", rlimit_name(l.resource), l.soft, l.hard))
                .unwrap_or_default(),
            (Step::OomScoreAdj, _) => process.oom_score_adj.unwrap_or_default().to_string(),
            (Step::Capabilities, _) => format!("{:#x}", process.confinement.capabilities),
            (Step::Exec, _) => process.argv.first().cloned().unwrap_or_default(),
            _ => String::new(),
        }
    }
}

/// The namespaces that a step is about.
fn namespaces(place: &Place, step: Step, index: u32) -> String {
    let names =
        |types: &[NsType]| types.iter().map(|t| t.file_name()).collect::<Vec<_>>().join(",");
    let joined = |join: &JoinPlan| join.namespaces.iter().map(|ns| ns.kind).collect::<Vec<_>>();
    match (step, place, index) {
        (Step::JoinNamespace, _, HOST_MOUNTS) => "mnt of the host".to_owned(),
        (Step::JoinNamespace, Place::Join(join), ALL_NAMESPACES) => names(&joined(join)),
        (Step::JoinNamespace, _, index) => {
            NsType::ALL.get(index as usize).map(|t| t.file_name().to_owned()).unwrap_or_default()
        }
        (Step::IdMap, Place::Container(container), 1..) => mapped_mount(container, index - 1),
        (Step::IdMap, _, _) => "user".to_owned(),
        (_, Place::Join(join), _) => names(&joined(join)),
        (_, Place::Host(host), _) => names(&host.new),
        (_, Place::Container(container), _) => {
            let new = |t: &NsType| {
                *t == NsType::Mount || container.namespaces.source(*t) == NsSource::New
            };
            names(&NsType::ALL.into_iter().filter(new).collect::<Vec<_>>())
        }
    }
}

/// Where a mount that gets the id map lies in the container.
fn mapped_mount(container: &ContainerPlan, index: u32) -> String {
    let fd = container.idmapped.get(index as usize).copied();
    let is = |mount: &&Mount| mount.fd().is_some() && mount.fd() == fd;
    container.mounts.iter().find(is).map_or_else(|| "/".to_owned(), |mount| mount.target.clone())
}

/// A resource limit's name as the API has it.
fn rlimit_name(resource: u32) -> String {
    const NAMES: [&str; 16] = [
        "cpu",
        "fsize",
        "data",
        "stack",
        "core",
        "rss",
        "nproc",
        "nofile",
        "memlock",
        "as",
        "locks",
        "sigpending",
        "msgqueue",
        "nice",
        "rtprio",
        "rttime",
    ];
    NAMES.get(resource as usize).map_or_else(|| resource.to_string(), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_found_by_its_number() {
        for number in 1..=Step::Exec as u32 {
            assert_eq!(step_from_number(number).map(|step| step as u32), Some(number));
        }
        assert_eq!(step_from_number(0), None);
        assert_eq!(step_from_number(Step::Exec as u32 + 1), None);
    }

    #[test]
    fn a_long_argument_is_cut() {
        let mut plan = super::super::sample_plan();
        plan.process.argv[0] = "ä".repeat(100_000);
        assert_eq!(plan.argument(Step::Exec, 0), "ä".repeat(ARGUMENT_MAX / 2));
    }

    #[test]
    fn an_argument_is_found_again_and_a_wrong_index_is_empty() {
        let plan = super::super::sample_plan();
        assert_eq!(plan.argument(Step::Exec, 0), "true");
        assert_eq!(plan.argument(Step::Mount, 0), "/proc");
        assert_eq!(plan.argument(Step::Mount, 99), "");
        assert_eq!(plan.argument(Step::Group, 1), "wheel");
        assert_eq!(plan.argument(Step::Group, 7), "");
        assert_eq!(plan.argument(Step::Clone, 0), "uts,pid,mnt");
        for number in 1..=Step::Exec as u32 {
            for index in [0, 1, 2, u32::MAX - 1, u32::MAX] {
                plan.argument(step_from_number(number).unwrap(), index);
            }
        }
    }
}
