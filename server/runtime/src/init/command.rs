//! The command: its strings as execve wants them, made before the clone, and the search in PATH.

use std::ffi::{CStr, CString};

use rustix::io::Errno;

use crate::{
    plan::{Process, SetupFailure, Step},
    sys::exec::{CStrings, execve},
};

/// Where a command without a slash is looked for when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command that is ready to be executed.
#[derive(Debug)]
pub(super) struct Command {
    argv: CStrings,
    env: CStrings,
    /// The paths to try, in order.
    candidates: Vec<CString>,
    has_home: bool,
}

impl Command {
    /// Makes all strings of a process. What execve could not take is refused here.
    pub(super) fn new(process: &Process) -> Result<Command, SetupFailure> {
        let invalid = |what: &str| SetupFailure {
            step: Step::Plan,
            argument: what.to_owned(),
            errno: libc::EINVAL,
        };
        let Some(program) = process.argv.first() else { return Err(invalid("argv is empty")) };
        fn strings<T: Clone + Into<Vec<u8>>>(list: &[T]) -> Option<Vec<CString>> {
            list.iter().map(|one| CString::new(one.clone()).ok()).collect()
        }
        let argv = strings(&process.argv).ok_or_else(|| invalid("a NUL byte in argv"))?;
        let env = strings(&process.raw_env).zip(strings(&process.env));
        let (mut env, entries) = env.ok_or_else(|| invalid("a NUL byte in the environment"))?;
        env.extend(entries);
        if process.env.iter().any(|entry| entry.find('=').is_none_or(|at| at == 0)) {
            return Err(invalid("an environment entry without a name"));
        }
        let path = process.env.iter().find_map(|entry| entry.strip_prefix("PATH="));
        let candidates = strings(&candidates(program, path.unwrap_or(DEFAULT_PATH)))
            .ok_or_else(|| invalid("a NUL byte in PATH"))?;
        let has_home = process.env.iter().any(|entry| entry.starts_with("HOME="));
        Ok(Command { argv: CStrings::new(argv), env: CStrings::new(env), candidates, has_home })
    }

    /// Whether the environment names the home directory.
    pub(super) fn has_home(&self) -> bool {
        self.has_home
    }

    /// Adds the home directory to the environment.
    pub(super) fn set_home(&mut self, home: &[u8]) -> Result<(), Errno> {
        let entry = CString::new([b"HOME=", home].concat()).map_err(|_| Errno::INVAL)?;
        self.env.push(entry);
        self.has_home = true;
        Ok(())
    }

    /// Becomes the command. Returns only where that failed, with what a shell would say: a file that
    /// may not be executed counts over one that is not there, anything else ends the search.
    pub(super) fn execute(&self) -> Errno {
        self.search(|path| execve(path, &self.argv, &self.env))
    }

    fn search(&self, mut attempt: impl FnMut(&CStr) -> Errno) -> Errno {
        let mut answer = Errno::NOENT;
        for candidate in &self.candidates {
            match attempt(candidate) {
                Errno::NOENT | Errno::NOTDIR => {}
                Errno::ACCESS => answer = Errno::ACCESS,
                errno => return errno,
            }
        }
        answer
    }
}

/// The paths that a command's name stands for. An empty part of PATH is the working directory.
fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.is_empty() {
        return Vec::new();
    }
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let within = |dir: &str| match dir {
        "" => program.to_owned(),
        dir => format!("{}/{program}", dir.trim_end_matches('/')),
    };
    path.split(':').map(within).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(argv: &[&str], env: &[&str]) -> Process {
        let mut process = super::super::sample_plan().process;
        process.argv = argv.iter().map(|s| (*s).to_owned()).collect();
        process.env = env.iter().map(|s| (*s).to_owned()).collect();
        process
    }

    fn paths(argv: &[&str], env: &[&str]) -> Vec<String> {
        let command = Command::new(&process(argv, env)).unwrap();
        command.candidates.iter().map(|c| c.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_name_is_looked_up_in_path_and_a_path_is_not() {
        assert_eq!(paths(&["x"], &["PATH=/a:/b/::/"]), ["/a/x", "/b/x", "x", "/x"]);
        assert_eq!(paths(&["./x"], &["PATH=/a"]), ["./x"]);
        assert_eq!(paths(&["x"], &["APATH=/a"]).len(), 6);
        assert_eq!(paths(&[""], &[]).len(), 0);
    }

    #[test]
    fn bad_strings_are_refused_before_anything_is_made() {
        for (argv, env) in [
            (&[][..], &[][..]),
            (&["a\0b"][..], &[][..]),
            (&["a"][..], &["A=\0"][..]),
            (&["a"][..], &["A"][..]),
            (&["a"][..], &["=a"][..]),
            (&["a"][..], &["PATH=/\0"][..]),
        ] {
            let failure = Command::new(&process(argv, env)).unwrap_err();
            assert_eq!(
                (failure.step, failure.errno),
                (Step::Plan, libc::EINVAL),
                "{argv:?} {env:?}"
            );
        }
    }

    #[test]
    fn the_search_goes_on_as_a_shell_does() {
        let command = Command::new(&process(&["x"], &["PATH=/a:/b:/c"])).unwrap();
        let answers = |list: [Errno; 3]| {
            let mut list = list.into_iter();
            command.search(|_| list.next().unwrap())
        };
        let (none, access) = (Errno::NOENT, Errno::ACCESS);
        assert_eq!(answers([none, Errno::NOTDIR, none]), none);
        assert_eq!(answers([none, access, none]), access);
        assert_eq!(answers([Errno::NOEXEC, access, none]), Errno::NOEXEC);
        assert_eq!(answers([access, Errno::TXTBSY, none]), Errno::TXTBSY);
    }
}
