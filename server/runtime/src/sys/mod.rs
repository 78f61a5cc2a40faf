//! The only room with unsafe code: the system calls that rustix has not, or has only as unsafe.
//!
//! Each function is safe to call; what must hold for that is said where it is asked of the kernel.

#![allow(unsafe_code)]

pub mod bpf;
pub mod clone;
pub mod cred;
pub mod exec;
pub mod fds;
pub mod loopdev;
pub mod memfd;
pub mod mount;
pub mod ns;
pub mod process;
pub mod seccomp;
pub mod shm;
pub mod signal;
pub mod sigwait;
pub mod socket;
pub mod title;
pub mod wait;
