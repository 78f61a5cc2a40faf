//! What a program needs to be loaded, read from its file. Nothing of it is executed.

use std::{io, path::Path};

use object::{
    Endianness, FileKind, ReadCache, ReadRef,
    elf::{self, FileHeader32, FileHeader64},
    read::{
        self,
        elf::{Dyn as _, FileHeader, ProgramHeader as _},
    },
};
use rustix::fs::ResolveFlags;

/// How large the headers of a file may be, in bytes, as far as they are read.
const DYNAMIC_MAX: u64 = 1 << 20;
/// How long a name may be, in bytes.
const NAME_MAX: u64 = 4096;
/// How many libraries a file may need by itself.
const NEEDED_MAX: usize = 4096;

/// What an ELF file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// Its class and machine: only files with the same ones go together.
    pub machine: (bool, u16),
    /// Whether it can be loaded: a program or a shared object, and not an object file or a core dump.
    pub loadable: bool,
    /// The loader that runs it. `None`: it is a library or linked statically.
    pub interpreter: Option<String>,
    /// The libraries that it needs, by their names, in order.
    pub needed: Vec<String>,
    /// DT_RPATH, where the loader looks for them and for all that those need.
    pub rpath: Vec<String>,
    /// DT_RUNPATH, where the loader looks for them; it makes DT_RPATH count for nothing.
    pub runpath: Vec<String>,
}

/// Reads a file. `None`: it is no ELF file.
pub fn read(path: &Path) -> io::Result<Option<Elf>> {
    // Only what is asked for is read.
    let cache = ReadCache::new(super::open_regular(path, ResolveFlags::empty())?);
    of(&cache).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// Reads what a file holds.
pub(in crate::engine) fn of<'a>(data: impl ReadRef<'a>) -> read::Result<Option<Elf>> {
    match FileKind::parse(data) {
        Ok(FileKind::Elf64) => parse::<FileHeader64<Endianness>, _>(data).map(Some),
        Ok(FileKind::Elf32) => parse::<FileHeader32<Endianness>, _>(data).map(Some),
        _ => Ok(None),
    }
}

fn parse<'a, H, R>(data: R) -> read::Result<Elf>
where
    H: FileHeader<Endian = Endianness>,
    R: ReadRef<'a>,
{
    let header = H::parse(data)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, data)?;
    let mut found = Elf {
        machine: (header.is_class_64(), header.e_machine(endian).0),
        loadable: matches!(header.e_type(endian), elf::ET_DYN | elf::ET_EXEC),
        interpreter: None,
        needed: Vec::new(),
        rpath: Vec::new(),
        runpath: Vec::new(),
    };
    // There is one of each: many that overlap would take far more memory than the file is large. Of several the
    // kernel takes the first loader, and the loader the last dynamic section.
    let of_kind = |kind| {
        let fits = move |segment: &&H::ProgramHeader| {
            segment.p_type(endian) == kind && segment.p_filesz(endian).into() <= DYNAMIC_MAX
        };
        segments.iter().filter(fits)
    };
    if let Some(segment) = of_kind(elf::PT_INTERP).next()
        && let Some(name) = segment.interpreter(endian, data)?
    {
        found.interpreter = Some(String::from_utf8_lossy(name).into_owned());
    }
    let entries = match of_kind(elf::PT_DYNAMIC).next_back() {
        Some(segment) => segment.dynamic(endian, data)?.unwrap_or_default(),
        None => &[],
    };
    let entries: Vec<_> = entries
        .iter()
        .map(|entry| (entry.tag(endian), entry.val(endian)))
        .take_while(|(tag, _)| *tag != elf::DT_NULL)
        .collect();
    // Where the names are: an address, which a segment maps to a place in the file.
    let names = entries.iter().find(|(tag, _)| *tag == elf::DT_STRTAB).and_then(|(_, address)| {
        segments.iter().find_map(|segment| {
            let start: u64 = segment.p_vaddr(endian).into();
            let size: u64 = segment.p_filesz(endian).into();
            let offset: u64 = segment.p_offset(endian).into();
            let at = address.checked_sub(start).filter(|at| *at < size)?;
            (segment.p_type(endian) == elf::PT_LOAD).then(|| offset.checked_add(at)).flatten()
        })
    });
    let text = |at: u64| -> Option<String> {
        let start = names?.checked_add(at)?;
        // What lies beyond the end of the file is not asked for: the answer would be an error.
        let end = start.checked_add(NAME_MAX)?.min(data.len().ok()?);
        let bytes = data.read_bytes_at_until(start..end, 0).ok()?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    };
    for (tag, value) in entries {
        let list = |text: String| text.split(':').map(str::to_owned).collect();
        match tag {
            elf::DT_NEEDED if found.needed.len() < NEEDED_MAX => {
                found.needed.extend(text(value));
            }
            elf::DT_RPATH => found.rpath = text(value).map(list).unwrap_or_default(),
            elf::DT_RUNPATH => found.runpath = text(value).map(list).unwrap_or_default(),
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_needs_the_c_library_and_a_loader() {
        let own = std::env::current_exe().expect("its own program");
        let elf = read(&own).expect("readable").expect("an ELF file");
        assert!(elf.interpreter.is_some_and(|path| path.starts_with('/')));
        assert!(elf.needed.iter().any(|name| name.starts_with("libc.")), "{:?}", elf.needed);
    }

    #[test]
    fn what_is_cut_off_or_nothing_of_the_kind_does_no_harm() {
        let own = std::fs::read(std::env::current_exe().expect("its own program")).expect("read");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        for length in [0, 1, 4, 16, 63, 64, 100, 500, 1000, 4000, 100_000] {
            std::fs::write(&path, &own[..length.min(own.len())]).expect("written");
            let _ = read(&path);
        }
        for at in (0..1200).step_by(7) {
            let mut bytes = own[..own.len().min(200_000)].to_vec();
            bytes[at] ^= 0xff;
            std::fs::write(&path, bytes).expect("written");
            let _ = read(&path);
        }
        std::fs::write(&path, "#!/bin/sh\n").expect("written");
        assert_eq!(read(&path).expect("readable"), None);
    }
}
