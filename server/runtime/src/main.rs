//! The small binary that the agent starts: the launcher, and by its forks monitors and inits.

use std::{io::Write, process::ExitCode};

use conti_runtime::{launcher, user_namespace};

const USAGE: &str = "conti-runtime is started by contid, which talks to it through its stdin.

Usage: conti-runtime launcher --agent TAG    TAG names the agent in the process list
       conti-runtime hold-user-namespace     holds one until its stdin closes
       conti-runtime --version";

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["launcher", "--agent", _] => match launcher::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&format!("conti-runtime: {error}"));
                ExitCode::FAILURE
            }
        },
        ["hold-user-namespace"] => match user_namespace::hold() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        ["--version"] => {
            let _ = writeln!(std::io::stdout(), "{}", launcher::VERSION);
            ExitCode::SUCCESS
        }
        _ => {
            say(USAGE);
            ExitCode::from(2)
        }
    }
}

/// To stderr, which may be closed.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
