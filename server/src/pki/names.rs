//! Whom the agent's own certificate names: what clients may call it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use conti_runtime::host;

/// The names and addresses of this machine, the loopback ones last. `given`: what goes before all.
pub fn of_host(given: &[String]) -> Vec<String> {
    let mut names = given.to_vec();
    names.push(host_name());
    let (local, other): (Vec<IpAddr>, Vec<IpAddr>) =
        addresses().into_iter().partition(IpAddr::is_loopback);
    names.extend(other.iter().map(IpAddr::to_string));
    names.push("localhost".to_owned());
    names.extend(local.iter().map(IpAddr::to_string));
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| !name.is_empty() && seen.insert(name.clone()));
    names
}

/// The name of this machine.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether a name means the machine that uses it.
pub fn is_loopback(name: &str) -> bool {
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The addresses of this machine, from /proc/net (proc_pid_net(5)); link-local ones have no meaning elsewhere.
fn addresses() -> Vec<IpAddr> {
    let trie = host::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = host::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut all: Vec<IpAddr> = in_trie(&trie).into_iter().map(IpAddr::V4).collect();
    all.extend(in_table(&v6).into_iter().filter(|a| !a.is_unicast_link_local()).map(IpAddr::V6));
    all
}

/// The leaves `|-- ADDRESS` that are followed by `/32 host LOCAL`.
fn in_trie(text: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut leaf = None;
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = leaf
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// The first column: 32 hexadecimal digits.
fn in_table(text: &str) -> Vec<Ipv6Addr> {
    let address = |line: &str| {
        let digits = line.split_ascii_whitespace().next()?;
        u128::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 32).map(Ipv6Addr::from)
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_a_machine_are_read_from_the_tables_of_the_kernel() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
                    |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 10.1.2.255\n        /32 link BROADCAST\n\
                    Local:\n     |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(in_trie(trie), [Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::LOCALHOST]);
        let table = "00000000000000000000000000000001 01 80 10 80       lo\nfd00 x\n";
        assert_eq!(in_table(table), [Ipv6Addr::LOCALHOST]);
    }

    #[test]
    fn what_others_can_use_comes_first_and_nothing_twice() {
        let names = of_host(&["web.example".into(), "localhost".into()]);
        assert_eq!(names[0], "web.example");
        assert_eq!(names.iter().filter(|name| *name == "localhost").count(), 1);
        assert!(names.contains(&host_name()));
    }
}
