//! Loading a system call filter: seccomp(2).

use rustix::io::Errno;

use super::clone::last_errno;

/// One instruction of classic BPF (struct sock_filter).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    /// The operation.
    pub code: u16,
    /// How far a jump goes where its condition holds.
    pub jt: u8,
    /// How far it goes where it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// struct sock_fprog.
#[repr(C)]
struct Program {
    len: libc::c_ushort,
    filter: *const Insn,
}

/// Loads a filter for this thread. It needs no_new_privs or CAP_SYS_ADMIN.
pub fn load(filter: &[Insn]) -> Result<(), Errno> {
    let len = libc::c_ushort::try_from(filter.len()).map_err(|_| Errno::TOOBIG)?;
    let program = Program { len, filter: filter.as_ptr() };
    // SAFETY: `program` and the `len` instructions it points to have the kernel's layout and live
    // through the call; the kernel checks the program itself and copies it.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}
