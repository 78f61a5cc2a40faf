//! Which libraries the loader would load for a program, and from where (ld.so(8)).

use std::{
    collections::{HashMap, VecDeque},
    fs,
    path::{Path, PathBuf},
};

use super::elf::{self, Elf};

/// How many libraries one program may need.
const LIBRARIES_MAX: usize = 4096;

/// Finds libraries as the loader of this host does.
#[derive(Debug)]
pub struct Loader {
    /// /etc/ld.so.cache: paths by the names of libraries.
    cache: HashMap<String, Vec<PathBuf>>,
}

/// A library that is needed and not there.
#[derive(Debug)]
pub struct Missing {
    /// Its name.
    pub library: String,
    /// What needs it.
    pub by: PathBuf,
}

impl Loader {
    /// Reads the cache of the host. Where there is none, the standard directories are left.
    pub fn of_host() -> Loader {
        let cache = fs::read("/etc/ld.so.cache").unwrap_or_default();
        Loader { cache: parse_cache(&cache).unwrap_or_default() }
    }

    /// All libraries of a program, each at the path where the loader finds it.
    pub fn libraries(&self, program: &Path, elf: &Elf) -> Result<Vec<PathBuf>, Missing> {
        let mut loaded: HashMap<String, PathBuf> = HashMap::new();
        let mut order = Vec::new();
        // In the order of the loader, which is breadth first: the first of a name counts for all. Each
        // with the DT_RPATH of whatever needs it.
        let mut open: VecDeque<(PathBuf, Elf, Vec<PathBuf>)> = VecDeque::new();
        open.push_back((program.to_owned(), elf.clone(), Vec::new()));
        while let Some((path, elf, inherited)) = open.pop_front() {
            let rpath: Vec<PathBuf> = match elf.runpath.is_empty() {
                true => expand(&elf.rpath, &path).into_iter().chain(inherited).collect(),
                false => inherited,
            };
            for name in &elf.needed {
                if loaded.contains_key(name) || order.len() >= LIBRARIES_MAX {
                    continue;
                }
                let found = self.find(name, &path, &elf, &rpath);
                let Some((at, library)) = found else {
                    let library = name.clone();
                    return Err(Missing { library, by: path });
                };
                loaded.insert(name.clone(), at.clone());
                order.push(at.clone());
                open.push_back((at, library, rpath.clone()));
            }
        }
        Ok(order)
    }

    /// A library that is loaded only while a program runs, where it is there.
    pub fn optional(&self, name: &str, like: &Elf) -> Option<PathBuf> {
        self.find(name, Path::new("/"), &Elf { runpath: Vec::new(), ..like.clone() }, &[])
            .map(|(path, _)| path)
    }

    fn find(&self, name: &str, by: &Path, elf: &Elf, rpath: &[PathBuf]) -> Option<(PathBuf, Elf)> {
        // Of another class or machine it is passed over.
        let fits = |path: PathBuf| {
            let found = elf::read(&path).ok().flatten()?;
            (found.machine == elf.machine).then_some((path, found))
        };
        if name.contains('/') {
            return fits(PathBuf::from(name));
        }
        let runpath = expand(&elf.runpath, by);
        // Where DT_RUNPATH is there, DT_RPATH counts for nothing.
        let rpath = if runpath.is_empty() { rpath } else { &[] };
        let told = rpath.iter().chain(&runpath).map(|dir| dir.join(name));
        let cached = self.cache.get(name).into_iter().flatten().cloned();
        let standard = standard(elf).into_iter().map(|dir| dir.join(name));
        told.chain(cached).chain(standard).find_map(fits)
    }
}

/// The tokens of the loader that are the same for every machine.
fn expand(paths: &[String], of: &Path) -> Vec<PathBuf> {
    let real = fs::canonicalize(of).unwrap_or_else(|_| of.to_owned());
    let origin = real.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
    let paths = paths.iter().filter(|path| !path.is_empty());
    paths
        .map(|path| path.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin).into())
        .collect()
}

/// The directories that the loader looks into at last, with Debian's for several machines.
fn standard(elf: &Elf) -> Vec<PathBuf> {
    // Machines of <elf.h>.
    let triplet = match elf.machine {
        (true, 62) => "x86_64-linux-gnu",
        (false, 62) => "x86_64-linux-gnux32",
        (false, 3) => "i386-linux-gnu",
        (true, 183) => "aarch64-linux-gnu",
        (false, 40) => "arm-linux-gnueabihf",
        (true, 243) => "riscv64-linux-gnu",
        (true, 21) => "powerpc64le-linux-gnu",
        (true, 22) => "s390x-linux-gnu",
        _ => "",
    };
    let debian = [format!("/lib/{triplet}"), format!("/usr/lib/{triplet}")];
    let others = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(str::to_owned);
    debian.into_iter().chain(others).map(PathBuf::from).collect()
}

/// The cache of the loader of glibc since 2.2, sysdeps/generic/dl-cache.h: a header of 48 bytes with the
/// number of entries at 20, entries of 24 bytes (flags, name, path, OS version, hardware), names.
pub(in crate::engine) fn parse_cache(bytes: &[u8]) -> Option<HashMap<String, Vec<PathBuf>>> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    // An older form may lie before it.
    let start = bytes.windows(MAGIC.len()).position(|part| part == MAGIC)?;
    let bytes = &bytes[start..];
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let text = |at: u32| {
        let bytes = bytes.get(at as usize..)?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&bytes[..end]).ok()
    };
    let mut found: HashMap<String, Vec<PathBuf>> = HashMap::new();
    for index in 0..number(20)? as usize {
        let at = 48 + index * 24;
        let entry = bytes.get(at..at + 24)?;
        // What is for some processors only is an addition to what is for all.
        if entry[16..24] != [0; 8] {
            continue;
        }
        let (name, path) = (text(number(at + 4)?)?, text(number(at + 8)?)?);
        found.entry(name.to_owned()).or_default().push(path.into());
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_is_cut_off_is_none() {
        let mut cache = b"glibc-ld.so.cache1.1".to_vec();
        cache.extend(1_u32.to_le_bytes());
        cache.extend([0; 24]);
        cache.extend([3, 0, 0, 0, 72, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0]);
        cache.extend([0; 8]);
        cache.extend(b"liba\0/lib/liba\0");
        let parsed = parse_cache(&cache).expect("it is whole");
        assert_eq!(parsed["liba"], [PathBuf::from("/lib/liba")]);
        for length in 0..cache.len() {
            let cut = parse_cache(&cache[..length]);
            assert!(cut.is_none_or(|cut| cut.is_empty()), "{length}");
        }
    }

    #[test]
    fn origin_is_where_the_file_is() {
        let paths = ["$ORIGIN/../lib".to_owned(), String::new(), "/opt".to_owned()];
        let expanded = expand(&paths, Path::new("/nowhere/bin/tool"));
        assert_eq!(expanded, [Path::new("/nowhere/bin/../lib"), Path::new("/opt")]);
    }
}
