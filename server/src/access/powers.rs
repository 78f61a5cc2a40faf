//! Capabilities that make whoever has them root of the host, namespaces or not.

use crate::engine::capability;

/// Each with the way that leads there (capabilities(7)). The capabilities count in the user namespace of the host,
/// which a container shares unless it has one of its own.
const LEAD_TO_ROOT: [(&str, &str); 12] = [
    ("SYS_ADMIN", "mounts filesystems of the host, and undoes what hides parts of proc and sysfs"),
    ("SYS_PTRACE", "takes over every process that it sees, also one that is only entering"),
    ("SYS_MODULE", "loads code into the kernel"),
    ("SYS_RAWIO", "writes to memory, ports and disks of the host"),
    ("SYS_BOOT", "starts another kernel"),
    ("DAC_READ_SEARCH", "opens every file of the host's filesystems by its handle"),
    ("BPF", "loads programs into the kernel"),
    ("PERFMON", "reads the kernel's memory by tracing it"),
    ("SYSLOG", "learns where the kernel lies in memory, which other attacks need"),
    ("MAC_ADMIN", "changes what AppArmor, SELinux or Smack forbid"),
    ("MAC_OVERRIDE", "does what AppArmor, SELinux or Smack forbid"),
    ("CHECKPOINT_RESTORE", "reaches files of other processes through /proc"),
];

/// What is to be said of a grant: one sentence for each capability in the set that leads to root.
pub fn warnings(set: u64) -> Vec<String> {
    let named = LEAD_TO_ROOT.iter().filter(|(name, _)| {
        capability::parse(name).is_some_and(|capability| set & capability != 0)
    });
    named
        .map(|(name, how)| format!("{name} makes whoever has it root of the host: it {how}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_that_of_a_capability_and_warned_of() {
        let all: u64 = LEAD_TO_ROOT
            .iter()
            .map(|(name, _)| capability::parse(name).unwrap())
            .fold(0, |set, one| set | one);
        assert_eq!(all.count_ones() as usize, LEAD_TO_ROOT.len());
        assert_eq!(warnings(all).len(), LEAD_TO_ROOT.len());
        assert_eq!(warnings(capability::ALL).len(), LEAD_TO_ROOT.len());
        assert!(warnings(!all).is_empty());
    }
}
