//! The ids that a host has set aside for a user: subuid(5), subgid(5).
//!
//! Each line is `USER:FIRST:COUNT`, where the user is a name or a number. A user may have several.

use std::{ops::Range, path::Path};

use conti_runtime::host;

/// The files, in the order of [`common`].
const FILES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// The first id and the number of those that a user has both as user ids and as group ids: the largest such range.
pub fn of(user: &str) -> Result<(u32, u32), String> {
    let read = |file: &str| {
        let text =
            host::read(Path::new(file)).map_err(|error| format!("cannot read {file}: {error}"))?;
        match ranges(&text, user) {
            none if none.is_empty() => Err(format!("{file} has no ids for the user {user:?}")),
            ranges => Ok(ranges),
        }
    };
    let (uids, gids) = (read(FILES[0])?, read(FILES[1])?);
    let range = common(&uids, &gids).ok_or_else(|| {
        format!(
            "{} and {} give the user {user:?} no ids in common; a container has the same for users and groups",
            FILES[0], FILES[1]
        )
    })?;
    Ok((range.start, range.end - range.start))
}

/// The ranges of a user. What is no line as it should be is left out, as newuidmap(1) does.
fn ranges(text: &[u8], user: &str) -> Vec<Range<u32>> {
    let lines = text.split(|byte| *byte == b'\n');
    let range = |line: &[u8]| {
        let mut fields = std::str::from_utf8(line).ok()?.trim_end().split(':');
        let (name, first, count) = (fields.next()?, fields.next()?, fields.next()?);
        let (first, count): (u32, u32) = (first.parse().ok()?, count.parse().ok()?);
        let fits = name == user && fields.next().is_none();
        Some(first..first.checked_add(count)?).filter(|range| fits && !range.is_empty())
    };
    lines.filter_map(range).collect()
}

/// The largest range that lies in one of each.
fn common(uids: &[Range<u32>], gids: &[Range<u32>]) -> Option<Range<u32>> {
    let both = uids
        .iter()
        .flat_map(|uid| gids.iter().map(|gid| uid.start.max(gid.start)..uid.end.min(gid.end)));
    both.filter(|range| !range.is_empty()).max_by_key(|range| range.end - range.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_of_a_user_are_found_and_others_left_out() {
        let text = b"a:100000:65536\nconti:200000:131072\nbad\nconti:x:1\nconti:1:2:3\n\
            \xff:1:1\nconti:4294967295:1\nconti:9:0\n  conti:5:5\nconti:500000:10\n";
        assert_eq!(ranges(text, "conti"), [200_000..331_072, 500_000..500_010]);
        assert_eq!(ranges(text, "con"), []);
    }

    #[expect(clippy::single_range_in_vec_init, reason = "a list of ranges, and not what is in one")]
    #[test]
    fn the_largest_range_that_both_files_give_is_taken() {
        assert_eq!(common(&[0..10, 100..200], &[5..120]), Some(100..120));
        assert_eq!(common(&[0..10], &[10..20]), None);
        assert_eq!(common(&[], &[10..20]), None);
    }
}
