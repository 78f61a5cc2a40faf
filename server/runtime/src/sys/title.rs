//! The arguments and the environment that the kernel shows of this process, see proc_pid_cmdline(5).
//!
//! What is forked off the launcher has its arguments until it executes something, and those name a path of the
//! host. Whatever is to live in a container overwrites them first.

use std::{
    io,
    ptr::write_bytes,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::clone::OnlyThread;
use crate::{host, inspect::process::name_and_fields};

/// Where the arguments begin, where they end, and where the environment behind them ends; 0: not known.
static ARGUMENTS: AtomicUsize = AtomicUsize::new(0);
static ARGUMENTS_END: AtomicUsize = AtomicUsize::new(0);
static ENVIRONMENT: AtomicUsize = AtomicUsize::new(0);
static ENVIRONMENT_END: AtomicUsize = AtomicUsize::new(0);

/// Finds out where they lie. It is asked of /proc, which whoever is forked off later may not see.
pub fn find() -> io::Result<()> {
    let stat = host::read("/proc/self/stat")?;
    let areas = areas(&stat).ok_or(io::ErrorKind::InvalidData)?;
    let places = [&ARGUMENTS, &ARGUMENTS_END, &ENVIRONMENT, &ENVIRONMENT_END];
    places.into_iter().zip(areas).for_each(|(place, at)| place.store(at, Ordering::Relaxed));
    Ok(())
}

/// Fields 48 to 51 of /proc/PID/stat.
fn areas(stat: &[u8]) -> Option<[usize; 4]> {
    let (_, fields) = name_and_fields(stat)?;
    let number = |field: usize| std::str::from_utf8(fields.get(field - 3)?).ok()?.parse().ok();
    let all = [number(48)?, number(49)?, number(50)?, number(51)?];
    (all[0] > 0 && all[0] < all[1] && all[1] <= all[2] && all[2] <= all[3]).then_some(all)
}

/// Shows `title` in place of the arguments, and no environment. Nothing is changed where they were not found, or
/// have no room for it.
pub fn replace(_proof: &OnlyThread, title: &[u8]) {
    let at = |place: &AtomicUsize| place.load(Ordering::Relaxed);
    let (start, end) = (at(&ARGUMENTS), at(&ARGUMENTS_END));
    let (environment, environment_end) = (at(&ENVIRONMENT), at(&ENVIRONMENT_END));
    // A NUL behind the title, and the last byte, are needed beside it.
    if end - start < title.len() + 2 {
        return;
    }
    let arguments = std::ptr::with_exposed_provenance_mut::<u8>(start);
    let variables = std::ptr::with_exposed_provenance_mut::<u8>(environment);
    // SAFETY: the kernel has put the strings of arguments and environment there, writable, at the start of the
    // program, and they stay for its life. Nothing refers to them but argv and environ, as strings that end at a
    // NUL, which is there again afterwards: the byte behind the last argument is not touched, or is one of the
    // environment's zeroes. No other thread is there to read them.
    unsafe {
        write_bytes(arguments, 0, end - start);
        title.iter().enumerate().for_each(|(index, byte)| arguments.add(index).write(*byte));
        // Where the last byte is none, the kernel shows all up to the first NUL, and not the whole area.
        arguments.add(end - start - 1).write(b'.');
        write_bytes(variables, 0, environment_end - environment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_areas_are_those_of_this_process() {
        let stat = host::read("/proc/self/stat").unwrap();
        let [start, end, ..] = areas(&stat).unwrap();
        assert_eq!(end - start, host::read("/proc/self/cmdline").unwrap().len());
        assert_eq!(areas(b"1 (a) S 1 2 3"), None);
    }
}
