//! Reading /proc/PID/mountinfo, see proc_pid_mountinfo(5).

/// One mount. Paths and options are still written as the kernel wrote them, see [`unescape`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The id of the mount, unique among those that exist.
    pub id: u64,
    /// The mount that it lies on; that of the namespace's root is not in the list.
    pub parent: u64,
    /// The device of its files, `MAJOR:MINOR`.
    pub device: &'a [u8],
    /// The directory of the filesystem that is its root.
    pub root: &'a [u8],
    /// Where it lies, below the root of the process.
    pub point: &'a [u8],
    /// Its own options, parted by commas.
    pub options: &'a [u8],
    /// The peer group that it is in, where it is shared.
    pub shared: Option<u64>,
    /// The peer group that it receives from.
    pub master: Option<u64>,
    /// The nearest peer group that it receives from, where its master is out of sight.
    pub propagate_from: Option<u64>,
    /// Whether it cannot be bound.
    pub unbindable: bool,
    /// The type of the filesystem.
    pub fs_type: &'a [u8],
    /// What is mounted.
    pub source: &'a [u8],
    /// The options of the filesystem, parted by commas.
    pub fs_options: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads one line. `None`: it is none of mountinfo.
    pub fn parse(line: &'a [u8]) -> Option<Entry<'a>> {
        let mut fields = line.split(|byte| *byte == b' ');
        let mut entry = Entry {
            id: number(fields.next()?)?,
            parent: number(fields.next()?)?,
            device: fields.next()?,
            root: fields.next()?,
            point: fields.next()?,
            options: fields.next()?,
            shared: None,
            master: None,
            propagate_from: None,
            unbindable: false,
            fs_type: b"",
            source: b"",
            fs_options: b"",
        };
        loop {
            // Tags that a later kernel adds are skipped, as the manual asks for.
            match fields.next()? {
                b"-" => break,
                b"unbindable" => entry.unbindable = true,
                tag => {
                    let group = |name: &[u8]| tag.strip_prefix(name).and_then(number);
                    entry.shared = entry.shared.or(group(b"shared:"));
                    entry.master = entry.master.or(group(b"master:"));
                    entry.propagate_from = entry.propagate_from.or(group(b"propagate_from:"));
                }
            }
        }
        entry.fs_type = fields.next()?;
        entry.source = fields.next()?;
        entry.fs_options = fields.next().unwrap_or_default();
        Some(entry)
    }

    /// All mounts of a text, in its order.
    pub fn all(text: &'a [u8]) -> impl Iterator<Item = Entry<'a>> {
        text.split(|byte| *byte == b'\n').filter_map(Entry::parse)
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A field as it was before it was written: the kernel writes space, tab, newline, backslash and `#` as
/// three octal digits behind a backslash.
pub fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let octal = field.get(at + 1..at + 4).filter(|_| field[at] == b'\\');
        let value = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match value.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(field[at]);
                at += 1;
            }
        }
    }
    plain
}

/// The place of a mount that a bind of a directory leaves out, and which may hide or protect what lies there. `on`: the mount
/// that the directory is in; `at`: where, as mountinfo has it.
pub fn left_out(mountinfo: &[u8], on: u64, at: &[u8], recursive: bool) -> Option<Vec<u8>> {
    let is_below = |point: &[u8]| match point.strip_prefix(at) {
        Some(rest) => !rest.is_empty() && (at.ends_with(b"/") || rest.starts_with(b"/")),
        None => false,
    };
    let mut points = Entry::all(mountinfo).filter_map(|entry| {
        // One that cannot be bound stays behind without a word (copy_tree in the kernel's fs/namespace.c).
        let left = if recursive { entry.unbindable } else { entry.parent == on };
        left.then(|| unescape(entry.point))
    });
    points.find(|point| is_below(point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_all_of_its_tags() {
        let line = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 new:7 shared:2 - ext3 /dev/root rw,errors=continue";
        let entry = Entry::parse(line).expect("a line of the manual");
        assert_eq!(
            (entry.id, entry.parent, entry.shared, entry.master),
            (36, 35, Some(2), Some(1))
        );
        assert_eq!((entry.root, entry.point), (&b"/mnt1"[..], &br"/mnt\0402"[..]));
        assert_eq!((entry.fs_type, entry.source), (&b"ext3"[..], &b"/dev/root"[..]));
        assert_eq!(entry.fs_options, b"rw,errors=continue");
        // An empty source is written as nothing between two blanks.
        let line = b"1 2 0:5 / / rw unbindable - tmpfs  rw";
        let entry = Entry::parse(line).expect("an empty source");
        assert!(entry.unbindable && entry.source.is_empty() && entry.fs_options == b"rw");
        for bad in
            [&b""[..], b"1", b"1 2 0:5 / / rw", b"1 2 0:5 / / rw -", b"x 2 0:5 / / rw - t s o"]
        {
            assert_eq!(Entry::parse(bad), None);
        }
    }

    #[test]
    fn fields_are_read_as_they_were_before() {
        assert_eq!(unescape(br"/a\040b\134c\012"), b"/a b\\c\n");
        assert_eq!(unescape(br"/a\04"), br"/a\04");
    }
}
