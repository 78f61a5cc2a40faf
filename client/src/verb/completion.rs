//! `contictl completion`

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use crate::{cli::Cli, error::Result, output};

/// Print a script that completes contictl's command line in a shell
#[derive(Debug, Args)]
pub struct Completion {
    /// The shell
    shell: Shell,
}

impl Completion {
    /// Prints it.
    pub fn run(self) -> Result<u8> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "contictl", &mut script);
        output::print(&String::from_utf8_lossy(&script))?;
        Ok(0)
    }
}
