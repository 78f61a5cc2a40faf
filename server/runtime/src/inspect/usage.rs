//! How much directories hold, as du(1) says it.
//!
//! A tree in the hands of others may be endless: it is walked by directory fds, so that no rename leads
//! out of it and no path is too long; one level holds one fd and one small buffer, and what has to be
//! remembered (hard links, the largest) is bounded.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    ffi::{CStr, CString},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FileType, RawDir, Statx, StatxAttributes},
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use super::{
    answers::Answers,
    files::{kind, look_at, open_directory},
    process::Pinned,
    question::{Answer, Failure, Held, Measure},
    viewer::Viewer,
};

/// How many levels of directories are walked.
const DEPTH_MAX: usize = 4096;
/// How many files with several names are told apart.
const LINKS_MAX: usize = 8 << 20;
/// How much of a path is told, in bytes.
const PATH_SHOWN: usize = 4096;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(200);
/// What one level reads at once, in bytes.
const BUFFER: usize = 4096;

/// Answers [`super::question::Question::Measure`].
pub fn answer(question: &Measure, answers: &mut Answers<'_>) -> Result<(), Failure> {
    let limit = getrlimit(Resource::Nofile);
    // Each level holds an fd. Where it cannot be raised, fewer levels are walked.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let mut walk = Walk {
        question,
        links: HashSet::new(),
        top: BinaryHeap::new(),
        seen: 0,
        allocated: 0,
        told: Instant::now(),
        answers,
    };
    let pinned = Pinned::same(question.of)?;
    let mut viewer = Viewer::of(&pinned)?;
    for path in &question.paths {
        // What is told of a filesystem of the kernel's below an ordinary directory is what root of the target
        // sees: names and sizes.
        let found = viewer.find(path)?;
        let looking = &viewer;
        let refused = |tried| move |errno| looking.refused(tried, path, errno);
        let about = look_at(&found, c"").map_err(refused("cannot look at"))?;
        if kind(&about) == FileType::Directory {
            let open = open_directory(&found, c".").map_err(refused("cannot read"))?;
            walk.tree(path, open, &about)?;
        } else {
            let mut held = Held::new(path, 0);
            walk.count(&about, &mut held)?;
            walk.answers.add(&Answer::Held(held))?;
        }
        pinned.still_there()?;
    }
    let mut top: Vec<Held> = walk.top.into_iter().map(|Reverse(ranked)| ranked.0).collect();
    top.sort_by(|a, b| (b.allocated, &a.path).cmp(&(a.allocated, &b.path)));
    top.into_iter().try_for_each(|held| answers.add(&Answer::Held(held)))
}

struct Walk<'a, 'b> {
    question: &'a Measure,
    /// Device and inode number of files with several names.
    links: HashSet<(u64, u64)>,
    top: BinaryHeap<Reverse<Ranked>>,
    seen: u64,
    allocated: u64,
    told: Instant,
    answers: &'a mut Answers<'b>,
}

/// One of the largest, in the order of what it takes.
#[derive(PartialEq, Eq)]
struct Ranked(Held);

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> std::cmp::Ordering {
        (self.0.allocated, &self.0.path).cmp(&(other.0.allocated, &other.0.path))
    }
}

/// A directory that is being walked.
struct Level {
    directory: OwnedFd,
    /// Device and inode number.
    id: (u64, u64),
    /// Names that were read and not looked at yet, the next one last.
    names: Vec<CString>,
    over: bool,
    held: Held,
    /// How long the path is without this level.
    path_length: usize,
}

impl Walk<'_, '_> {
    fn tree(&mut self, path: &[u8], open: OwnedFd, about: &Statx) -> Result<(), Failure> {
        let mut current = path.to_owned();
        while current.len() > 1 && current.ends_with(b"/") {
            current.pop();
        }
        let device = device(about);
        let mut levels = vec![self.level(open, about, 0, &current, 0)?];
        loop {
            let depth = levels.len();
            let Some(level) = levels.last_mut() else { return Ok(()) };
            let Some(name) = level.next_name() else {
                let Some(done) = levels.pop() else { return Ok(()) };
                current.truncate(done.path_length);
                self.leave(done, levels.last_mut())?;
                continue;
            };
            let about = match look_at(&level.directory, &name) {
                Ok(about) => about,
                // Gone meanwhile.
                Err(Errno::NOENT) => continue,
                Err(_) => {
                    level.held.unreadable += 1;
                    continue;
                }
            };
            if self.question.one_file_system && self::device(&about) != device {
                continue;
            }
            if kind(&about) != FileType::Directory {
                self.count(&about, &mut level.held)?;
                if self.question.top > 0 {
                    let mut held = Held::new(&joined(&current, &name), levels.len() as u32);
                    held.add(&about);
                    self.rank(held);
                }
                continue;
            }
            let (open, about) = match descend(level, &name, &about, depth) {
                Ok((_, about))
                    if self.question.one_file_system && self::device(&about) != device =>
                {
                    continue;
                }
                Ok(opened) => opened,
                Err(Errno::NOENT) => continue,
                Err(_) => {
                    level.held.unreadable += 1;
                    continue;
                }
            };
            let id = (self::device(&about), about.stx_ino);
            // A bind mount of a directory above: there is no end to it.
            if levels.iter().any(|above| above.id == id) {
                continue;
            }
            let length = current.len();
            current = joined(&current, &name);
            let depth = levels.len() as u32;
            levels.push(self.level(open, &about, depth, &current, length)?);
        }
    }

    fn level(
        &mut self,
        directory: OwnedFd,
        about: &Statx,
        depth: u32,
        path: &[u8],
        path_length: usize,
    ) -> Result<Level, Failure> {
        let mut held = Held::new(path, depth);
        self.count(about, &mut held)?;
        let id = (device(about), about.stx_ino);
        Ok(Level { directory, id, names: Vec::new(), over: false, held, path_length })
    }

    /// Counts a file, once for all of its names.
    fn count(&mut self, about: &Statx, held: &mut Held) -> Result<(), Failure> {
        let is_directory = kind(about) == FileType::Directory;
        if !is_directory && about.stx_nlink > 1 {
            if self.links.len() >= LINKS_MAX {
                return Err(Failure::unfit(
                    "more files with several names than can be told apart:",
                    "",
                ));
            }
            if !self.links.insert((device(about), about.stx_ino)) {
                return Ok(());
            }
        }
        held.add(about);
        self.seen += 1;
        self.allocated = self.allocated.saturating_add(about.stx_blocks.saturating_mul(512));
        if self.seen.is_multiple_of(256) && self.told.elapsed() >= PROGRESS {
            self.told = Instant::now();
            let (seen, allocated) = (self.seen, self.allocated);
            self.answers.add(&Answer::Progress { seen, allocated })?;
            self.answers.flush()?;
        }
        Ok(())
    }

    /// Adds a directory that was walked to the one above, and tells it where that is wanted.
    fn leave(&mut self, level: Level, above: Option<&mut Level>) -> Result<(), Failure> {
        let held = level.held;
        if let Some(above) = above {
            above.held.merge(&held);
        }
        if held.depth > 0 && self.question.top > 0 {
            self.rank(held.clone());
        }
        if held.depth <= self.question.max_depth {
            self.answers.add(&Answer::Held(held))?;
        }
        Ok(())
    }

    fn rank(&mut self, mut held: Held) {
        held.top = true;
        self.top.push(Reverse(Ranked(held)));
        if self.top.len() > self.question.top as usize {
            self.top.pop();
        }
    }
}

/// Opens a directory below a level, and says what was opened: it may have taken the place of what was looked
/// at.
fn descend(
    level: &Level,
    name: &CStr,
    about: &Statx,
    depth: usize,
) -> Result<(OwnedFd, Statx), Errno> {
    // Nothing is mounted by looking (autofs).
    if about.stx_attributes.contains(StatxAttributes::AUTOMOUNT) {
        return Err(Errno::REMOTE);
    }
    if depth >= DEPTH_MAX {
        return Err(Errno::MFILE);
    }
    let open = open_directory(&level.directory, name)?;
    let about = look_at(&open, c"")?;
    Ok((open, about))
}

impl Level {
    fn next_name(&mut self) -> Option<CString> {
        if self.names.is_empty() && !self.over {
            self.read();
        }
        self.names.pop()
    }

    /// Reads as many names as fit into the buffer. The place in the directory is the fd's.
    fn read(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut entries = RawDir::new(&self.directory, &mut buffer);
        loop {
            match entries.next() {
                None => {
                    self.over = true;
                    break;
                }
                Some(Ok(entry)) => {
                    let name: &CStr = entry.file_name();
                    if !matches!(name.to_bytes(), b"." | b"..") {
                        self.names.push(name.to_owned());
                    }
                    // What was read is used up: more would be another call.
                    if entries.is_buffer_empty() && !self.names.is_empty() {
                        break;
                    }
                }
                Some(Err(Errno::NOENT)) => {
                    // Removed while it is walked.
                    self.over = true;
                    break;
                }
                Some(Err(_)) => {
                    // One that cannot be read is told as such, and does not keep the others back.
                    self.held.unreadable += 1;
                    self.over = true;
                    break;
                }
            }
        }
    }
}

impl Held {
    fn new(path: &[u8], depth: u32) -> Held {
        // A copy of its own, or the capacity of a long path would stay.
        let path = path[..path.len().min(PATH_SHOWN)].to_vec();
        Held { path, depth, ..Held::default() }
    }

    fn add(&mut self, about: &Statx) {
        // A filesystem may say what it likes.
        self.allocated = self.allocated.saturating_add(about.stx_blocks.saturating_mul(512));
        match kind(about) {
            FileType::Directory => self.directories += 1,
            FileType::RegularFile | FileType::Symlink => {
                self.apparent = self.apparent.saturating_add(about.stx_size);
                self.files += 1;
            }
            _ => self.files += 1,
        }
    }

    fn merge(&mut self, below: &Held) {
        self.allocated = self.allocated.saturating_add(below.allocated);
        self.apparent = self.apparent.saturating_add(below.apparent);
        self.files += below.files;
        self.directories += below.directories;
        self.unreadable += below.unreadable;
    }
}

fn device(about: &Statx) -> u64 {
    u64::from(about.stx_dev_major) << 32 | u64::from(about.stx_dev_minor)
}

/// The path of an entry. What would not be told any more is left out: a tree may be deeper than any path.
fn joined(directory: &[u8], name: &CStr) -> Vec<u8> {
    if directory.len() >= PATH_SHOWN {
        return directory.to_vec();
    }
    let slash: &[u8] = if directory.ends_with(b"/") { b"" } else { b"/" };
    [directory, slash, name.to_bytes()].concat()
}
