//! The names of the host's users.

use std::collections::HashMap;

use conti_runtime::host;
/// The host's /etc/passwd at one moment. Other sources of users (NSS) are not asked.
#[derive(Debug, Clone, Default)]
pub struct Users(HashMap<u32, String>);

impl Users {
    /// Reads them. Where that is not possible there are none.
    pub fn of_host() -> Users {
        // Comments in it may be of any character set.
        Users::parse(&String::from_utf8_lossy(&host::read("/etc/passwd").unwrap_or_default()))
    }

    pub(super) fn parse(passwd: &str) -> Users {
        let mut users = HashMap::new();
        for line in passwd.lines() {
            let mut fields = line.split(':');
            let (name, uid) = (fields.next(), fields.nth(1).and_then(|uid| uid.parse().ok()));
            if let (Some(name), Some(uid)) = (name, uid) {
                // Of several names the first counts, as in getpwuid(3).
                users.entry(uid).or_insert_with(|| name.to_owned());
            }
        }
        Users(users)
    }

    /// The name of a user, empty where there is none.
    pub fn name(&self, uid: u32) -> String {
        self.0.get(&uid).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_an_id_counts_and_bad_lines_do_not() {
        let users = Users::parse("root:x:0:0::/:/bin/sh\ntoor:x:0:0\nbad\nann:x:no:1\nbob:x:7:7\n");
        assert_eq!(
            (users.name(0), users.name(7), users.name(8)),
            ("root".into(), "bob".into(), "".into())
        );
    }
}
