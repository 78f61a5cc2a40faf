//! Runs a command beside two hosts with a network between them, for measurements and trials.
//!
//! `two_hosts ROUND_TRIP_MS MEGABITS LOSS_PERCENT COMMAND...`: the command finds in `NEAR` and `FAR`
//! the words that put a command into the one host or the other, and in `FAR_ADDRESS` where the far
//! one is.

#![allow(clippy::print_stderr)]

use std::{
    env,
    process::{Command, ExitCode},
    time::Duration,
};

use conti_tests::network::{Hosts, Side};

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let numbers: Vec<u64> = words.iter().take(3).map_while(|word| word.parse().ok()).collect();
    let ([round_trip, megabits, loss], [program, args @ ..]) =
        (&numbers[..], words.get(3..).unwrap_or_default())
    else {
        eprintln!("usage: two_hosts ROUND_TRIP_MS MEGABITS LOSS_PERCENT COMMAND...");
        return ExitCode::from(2);
    };
    let hosts = Hosts::new();
    hosts.delay(Duration::from_millis(*round_trip) / 2);
    hosts.rate(*megabits);
    hosts.loss(u32::try_from(*loss).unwrap_or(100));
    let words = |side| hosts.prefix(side).join(std::ffi::OsStr::new(" "));
    let status = Command::new(program)
        .args(args)
        .env("NEAR", words(Side::Near))
        .env("FAR", words(Side::Far))
        .env("FAR_ADDRESS", Side::Far.address().to_string())
        .status();
    match status {
        Ok(status) => ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)),
        Err(problem) => {
            eprintln!("cannot run {program}: {problem}");
            ExitCode::from(1)
        }
    }
}
