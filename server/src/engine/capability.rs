//! Capabilities by name (capabilities(7)).

/// Their names without `CAP_`, in the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Every capability.
pub const ALL: u64 = (1 << NAMES.len()) - 1;

/// The capabilities that a text names, bit N for capability N: `CAP_NET_ADMIN`, `net_admin`, `12`, `ALL`.
pub fn parse(text: &str) -> Option<u64> {
    if !text.is_empty() && text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit()) {
        let number: usize = text.parse().ok()?;
        return (number < NAMES.len()).then(|| 1 << number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if name == "ALL" {
        return Some(ALL);
    }
    NAMES.iter().position(|n| *n == name).map(|number| 1 << number)
}

/// The names of a set of capabilities.
pub fn names(set: u64) -> Vec<String> {
    let named = NAMES.iter().enumerate().filter(|(number, _)| set & (1 << number) != 0);
    named.map(|(_, name)| format!("CAP_{name}")).collect()
}
