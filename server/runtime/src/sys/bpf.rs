//! bpf(2), as far as cgroup device policies need it.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;

/// One instruction (struct bpf_insn).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    /// Operation.
    pub code: u8,
    /// Destination register in the low four bits, source in the high ones.
    pub regs: u8,
    /// Signed offset, of a jump in instructions.
    pub off: i16,
    /// Signed immediate.
    pub imm: i32,
}

/// The first fields of union bpf_attr for BPF_PROG_LOAD.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The first fields of union bpf_attr for BPF_PROG_ATTACH.
#[repr(C)]
struct ProgAttach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Loads a program of type BPF_PROG_TYPE_CGROUP_DEVICE.
pub fn load_cgroup_device(program: &[Insn]) -> io::Result<OwnedFd> {
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: `attr` is a prefix of union bpf_attr whose size is given, and its pointers lead
    // to `program` and to a static string, which both outlive the call; the kernel writes nothing.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<ProgLoad>())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so this is a new fd that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches a device program to a cgroup of the unified hierarchy. Where others are attached above
/// it, all must allow an access.
pub fn attach_cgroup_device(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // 0: no program may be attached to cgroups below it.
    const FLAGS: u32 = 0;
    let attr = ProgAttach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: FLAGS,
    };
    // SAFETY: `attr` is a prefix of union bpf_attr whose size is given, without pointers.
    let rc = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attr, size_of::<ProgAttach>())
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
