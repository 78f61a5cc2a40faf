//! execve(2) with strings that were made long before, and the signals that it passes on.

use std::{
    ffi::{CStr, CString, c_char},
    ptr,
};

use rustix::io::Errno;

use super::clone::last_errno;

/// A list of C strings as execve wants it: an array of pointers with a null at its end.
#[derive(Debug)]
pub struct CStrings {
    strings: Vec<CString>,
    /// One pointer per string, then a null.
    pointers: Vec<*const c_char>,
}

impl CStrings {
    /// From these strings.
    pub fn new(strings: Vec<CString>) -> CStrings {
        let mut pointers: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.push(ptr::null());
        CStrings { strings, pointers }
    }

    /// Adds a string.
    pub fn push(&mut self, string: CString) {
        let last = self.pointers.len() - 1;
        self.pointers[last] = string.as_ptr();
        self.pointers.push(ptr::null());
        self.strings.push(string);
    }

    /// The strings.
    pub fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.strings.iter().map(CString::as_c_str)
    }
}

/// execve(2). Returns only where it failed.
pub fn execve(path: &CStr, argv: &CStrings, env: &CStrings) -> Errno {
    // SAFETY: `path` ends with a NUL; both arrays end with a null pointer, and what they point to is
    // the heap memory of CStrings that the same value owns, so that it neither moves nor goes away.
    unsafe {
        libc::execve(path.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr());
    }
    last_errno()
}

/// Gives every signal its default disposition: execve would pass on those that are ignored. Asks the
/// kernel itself, as C libraries refuse the numbers that they keep, and such may have been inherited.
pub fn default_dispositions() {
    // The kernel's struct sigaction: handler, flags, restorer, mask. SIG_DFL is 0.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: `default` has the size of the kernel's struct and of its mask, and names no function,
        // so that no code of ours runs as a handler. KILL and STOP are EINVAL, which changes nothing.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                0usize,
                size_of::<u64>(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_with_a_null_pointer_also_after_a_push() {
        let mut list = CStrings::new(vec![c"a".to_owned(), c"b".to_owned()]);
        list.push(c"c".to_owned());
        assert_eq!(list.iter().collect::<Vec<_>>(), [c"a", c"b", c"c"]);
        assert_eq!(list.pointers.len(), 4);
        assert!(list.pointers[3].is_null());
        assert_eq!(list.pointers[2], list.strings[2].as_ptr());
    }
}
