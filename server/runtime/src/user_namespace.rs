//! A user namespace that is held by a process of its own, to try out what the kernel allows with one.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, BorrowedFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, ChildStdin, Command, Stdio},
};

use crate::{host, plan::IdMap, sys::ns::unshare_namespaces};

/// CLONE_NEWUSER.
const NEW_USER: u64 = 0x1000_0000;

/// A user namespace with an id map. It goes with this.
#[derive(Debug)]
pub struct UserNamespace {
    /// The namespace: an fd of /proc/PID/ns/user.
    pub fd: OwnedFd,
    holder: Child,
    /// The holder ends when it closes.
    stdin: Option<ChildStdin>,
}

impl UserNamespace {
    /// Makes one. `image`: the program conti-runtime as an open file.
    pub fn new(image: BorrowedFd<'_>, map: IdMap) -> io::Result<UserNamespace> {
        let mut holder = Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()))
            .arg0("conti-runtime")
            .arg("hold-user-namespace")
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdin = holder.stdin.take();
        let made = (|| {
            let mut stdout = holder.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
            let mut answer = Vec::new();
            stdout.read_to_end(&mut answer)?;
            if let Ok(errno) = <[u8; 4]>::try_from(answer.as_slice()).map(i32::from_ne_bytes)
                && errno != 0
            {
                return Err(io::Error::from_raw_os_error(errno));
            }
            // It is not reaped, so that the pid is its own.
            let dir = format!("/proc/{}", holder.id());
            let line = format!("{} {} {}\n", map.inside, map.outside, map.count);
            host::write(format!("{dir}/uid_map"), &line)?;
            host::write(format!("{dir}/gid_map"), &line)?;
            Ok(host::open(format!("{dir}/ns/user"))?.into())
        })();
        match made {
            Ok(fd) => Ok(UserNamespace { fd, holder, stdin }),
            Err(error) => {
                drop(stdin);
                let _ = holder.wait();
                Err(error)
            }
        }
    }
}

impl Drop for UserNamespace {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.holder.wait();
    }
}

/// The holder's life: makes the namespace, says so on stdout with an errno or 0, and stays until its stdin
/// closes.
pub fn hold() -> io::Result<()> {
    let errno = unshare_namespaces(NEW_USER).map_or_else(|errno| errno.raw_os_error(), |()| 0);
    let mut stdout = io::stdout();
    stdout.write_all(&errno.to_ne_bytes())?;
    stdout.flush()?;
    rustix::stdio::dup2_stdout(rustix::stdio::stdin())?;
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}
