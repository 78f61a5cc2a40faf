//! The default system call filter.
//!
//! - `table.rs`: which system calls a container may use, and with which capability;
//! - `compile.rs`: from the table to classic BPF.
//!
//! What is not in the table is EPERM. What is newer than the table is ENOSYS, as it would be on the
//! kernel that the table was written for, so that programs fall back. clone3 is ENOSYS as well where
//! namespaces are not for the container to make: its flags lie in memory that a filter cannot see.
//!
//! Only the machine's own 64-bit calls are let through. A program of another ABI (i386 on x86_64,
//! 32-bit ARM on aarch64) is killed with SIGSYS: its numbers mean other calls, and a program all of
//! whose calls fail does worse than end. The numbers of x32 are above all others and so ENOSYS.

mod compile;
mod table;

pub use compile::filter;
