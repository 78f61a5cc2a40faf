//! Files in memory, sealed so that the one who gets them can trust them.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create},
    io::Errno,
};

/// The seals of a file that never changes again.
const CONSTANT: SealFlags =
    SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// A file with these bytes, sealed for ever.
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(create(name, MemfdFlags::NOEXEC_SEAL)?);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, CONSTANT)?;
    Ok(file.into())
}

/// A file of `len` zero bytes whose size is sealed, to be mapped by two processes.
pub fn sized(name: &str, len: u64) -> io::Result<OwnedFd> {
    let fd = create(name, MemfdFlags::NOEXEC_SEAL)?;
    rustix::fs::ftruncate(&fd, len)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// A copy of a program that can be executed and never changes: nobody who gets hold of
/// /proc/PID/exe can write to it. Fails with EACCES where `vm.memfd_noexec` is 2.
pub fn executable(name: &str, program: &mut File) -> io::Result<OwnedFd> {
    let mut file = File::from(create(name, MemfdFlags::EXEC)?);
    program.seek(SeekFrom::Start(0))?;
    io::copy(program, &mut file)?;
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o500))?;
    // The mode is sealed as well where the kernel can (6.3).
    match fcntl_add_seals(&file, CONSTANT | SealFlags::EXEC) {
        Err(Errno::INVAL) => fcntl_add_seals(&file, CONSTANT)?,
        other => other?,
    }
    Ok(file.into())
}

/// The content of a file that came from elsewhere: refused with EPERM where it could still change, and
/// with EFBIG where it is longer than `limit`.
pub fn read_sealed(fd: OwnedFd, limit: u64) -> io::Result<Vec<u8>> {
    let wanted = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    if !seals(&fd)?.contains(wanted) {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    let mut file = File::from(fd);
    let len = file.metadata()?.len();
    if len > limit {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    // The offset is shared with whoever else has the file open.
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The seals of a file; none where it cannot have any.
pub fn seals(fd: impl AsFd) -> io::Result<SealFlags> {
    match fcntl_get_seals(fd) {
        Err(Errno::INVAL) => Ok(SealFlags::empty()),
        other => Ok(other?),
    }
}

/// `mode` says whether it may be executed; kernels before 6.3 know no such flag.
fn create(name: &str, mode: MemfdFlags) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, flags | mode) {
        Err(Errno::INVAL) => Ok(memfd_create(name, flags)?),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_file_reads_back_and_cannot_change() {
        let fd = sealed("test", b"plan").unwrap();
        assert_eq!(rustix::io::write(&fd, b"x"), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&fd, 1), Err(Errno::PERM));
        assert_eq!(read_sealed(fd, 4).unwrap(), b"plan");
    }

    #[test]
    fn a_file_that_is_not_sealed_or_too_long_is_refused() {
        let open = create("test", MemfdFlags::NOEXEC_SEAL).unwrap();
        assert_eq!(read_sealed(open, 9).unwrap_err().raw_os_error(), Some(libc::EPERM));
        let sized = sized("test", 9).unwrap();
        assert_eq!(read_sealed(sized, 9).unwrap_err().raw_os_error(), Some(libc::EPERM));
        let long = sealed("test", b"12345").unwrap();
        assert_eq!(read_sealed(long, 4).unwrap_err().raw_os_error(), Some(libc::EFBIG));
        let plain = File::open("/proc/self/stat").unwrap();
        assert!(read_sealed(plain.into(), 4).is_err());
    }

    #[test]
    fn an_executable_copy_runs_and_cannot_be_written() {
        let fd = executable("test", &mut File::open("/bin/true").unwrap()).unwrap();
        assert!(seals(&fd).unwrap().contains(CONSTANT));
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        // Root may open it for writing; the seal holds all the same.
        if let Ok(mut file) = File::options().write(true).open(&path) {
            assert!(file.write(b"x").is_err() && file.set_len(0).is_err());
        }
        assert!(std::process::Command::new(path).status().unwrap().success());
    }
}
