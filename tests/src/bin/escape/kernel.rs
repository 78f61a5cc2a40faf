//! System calls that no container has business with: old and new doors to the kernel.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};

use crate::{
    Host, say,
    sys::{c, call, in_child, told, told_io},
};

pub fn attempts(host: &Host) {
    // Each has an argument that is found to be wrong after the caller's rights were looked at.
    let wrong = usize::MAX;
    for (name, answer) in [
        ("bpf", call!(libc::SYS_bpf, 9999, 0, 0)),
        ("perf-event-open", call!(libc::SYS_perf_event_open, 0, 0, -1, -1, 0)),
        ("io-uring-setup", call!(libc::SYS_io_uring_setup, 0, 0)),
        ("userfaultfd", call!(libc::SYS_userfaultfd, wrong)),
        ("kexec-load", call!(libc::SYS_kexec_load, 0, 0, 0, 0xff00_0000usize)),
        #[cfg(target_arch = "x86_64")]
        ("kexec-file-load", call!(libc::SYS_kexec_file_load, -1, -1, 0, 0, wrong)),
        ("init-module", call!(libc::SYS_init_module, 0, 0, &c(""))),
        ("finit-module", call!(libc::SYS_finit_module, -1, &c(""), 0)),
        ("delete-module", call!(libc::SYS_delete_module, &c("conti_no_such_module"), 0)),
        ("swapon", call!(libc::SYS_swapon, &c("/conti-no-such-file"), 0)),
        ("swapoff", call!(libc::SYS_swapoff, &c("/conti-no-such-file"))),
        ("acct", call!(libc::SYS_acct, &c("/conti-no-such-file"))),
        ("syslog", call!(libc::SYS_syslog, 10, 0, 0)),
        ("reboot", call!(libc::SYS_reboot, 1, 2, 3, 0)),
        ("clock-settime", call!(libc::SYS_clock_settime, 0, 0)),
        ("settimeofday", call!(libc::SYS_settimeofday, 8, 0)),
        ("adjtimex", bad_tick()),
        ("quotactl", call!(libc::SYS_quotactl, 0, 0, 0, 0)),
        ("fanotify-init", call!(libc::SYS_fanotify_init, 0x8000_0000usize, 0)),
        ("vhangup", in_own_session()),
        ("nfsservctl", call!(180, 0, 0, 0)),
        ("lookup-dcookie", call!(libc::SYS_lookup_dcookie, 0, 0, 0)),
        ("move-pages", call!(libc::SYS_move_pages, 1, 0, 0, 0, 0, 0)),
        ("migrate-pages", call!(libc::SYS_migrate_pages, 1, 0, 0, 0)),
        ("process-madvise", call!(libc::SYS_process_madvise, -1, 0, 0, 0, 0)),
        #[cfg(target_arch = "x86_64")]
        ("iopl", call!(libc::SYS_iopl, 3)),
        #[cfg(target_arch = "x86_64")]
        ("ioperm", call!(libc::SYS_ioperm, 0x80, 1, 1)),
    ] {
        say(name, &told(answer));
    }
    // ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, PER_SVR4
    for persona in [0x4_0000, 0x40_0000, 1] {
        let change = || told(call!(libc::SYS_personality, persona));
        say(&format!("personality:{persona:x}"), &in_child(change));
    }
    for (name, family) in [("vsock", 40), ("alg", 38)] {
        say(name, &told(call!(libc::SYS_socket, family, 1, 0)));
    }
    let address = SocketAddr::from_abstract_name(host.socket.as_bytes());
    say("abstract-socket", &told_io(address.and_then(|a| UnixStream::connect_addr(&a))));
    // The filter is for one ABI: the others get round it.
    #[cfg(target_arch = "x86_64")]
    {
        say("32-bit", &in_child(|| crate::sys::old_gate().signum().to_string()));
        say("x32", &in_child(|| told(call!(libc::SYS_getpid | 0x4000_0000))));
    }
}

/// adjtimex(2) with a tick that no kernel takes: `struct timex` with ADJ_TICK.
fn bad_tick() -> Result<usize, rustix::io::Errno> {
    let mut timex = [0u8; 256];
    timex[..4].copy_from_slice(&0x4000u32.to_ne_bytes());
    call!(libc::SYS_adjtimex, &mut timex[..])
}

/// vhangup(2) of nobody's terminal: this process leaves its own first.
fn in_own_session() -> Result<usize, rustix::io::Errno> {
    let answer = in_child(|| {
        let _ = call!(libc::SYS_setsid);
        told(call!(libc::SYS_vhangup))
    });
    if answer == "ok" { Ok(0) } else { Err(rustix::io::Errno::PERM) }
}
