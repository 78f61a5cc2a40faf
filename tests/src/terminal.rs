//! Runs `contictl` in a pseudo-terminal, as at a keyboard.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::{Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Instant,
};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};

use crate::{
    ctl::{Ctl, Running},
    wait::PATIENCE,
};

/// A terminal with a `contictl` in it.
pub struct Terminal {
    master: File,
    slave: File,
    screen: Arc<(Mutex<Vec<u8>>, Condvar)>,
    read: usize,
    client: Option<Running>,
}

impl Terminal {
    /// Starts a call of `contictl` in a new terminal of this size.
    pub fn spawn(ctl: Ctl, columns: u16, rows: u16) -> Terminal {
        let (master, slave) = pair();
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&slave, size).expect("the terminal has a size");

        let client = begin(ctl, &slave, true);

        let screen = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let mut input = master.try_clone().expect("an fd can be duplicated");
        let shown = Arc::clone(&screen);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = input.read(&mut buffer) {
                shown.0.lock().expect("no reader panics").extend_from_slice(&buffer[..n]);
                shown.1.notify_all();
            }
        });
        Terminal { master, slave, screen, read: 0, client: Some(client) }
    }

    /// Types.
    pub fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal takes input");
    }

    /// Waits until `needle` appears after what was seen before, and returns what came with it.
    pub fn expect(&mut self, needle: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let (lock, changed) = &*self.screen;
        let mut screen = lock.lock().expect("no reader panics");
        loop {
            let text = String::from_utf8_lossy(&screen[self.read..]).into_owned();
            if text.contains(needle) {
                let at = screen[self.read..]
                    .windows(needle.len())
                    .position(|window| window == needle.as_bytes())
                    .expect("what is in the text is in its bytes");
                self.read += at + needle.len();
                return text;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{needle:?} never appeared on the terminal: {text:?}");
            screen = changed.wait_timeout(screen, left).expect("no reader panics").0;
        }
    }

    /// Changes the size, as a window manager does.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("the terminal takes a size");
    }

    /// The terminal's modes now.
    pub fn modes(&self) -> Termios {
        tcgetattr(&self.slave).expect("the terminal has modes")
    }

    /// Whether the terminal is in raw mode: no echo, no line editing, no signals from keys.
    pub fn is_raw(&self) -> bool {
        use rustix::termios::LocalModes as L;
        !self.modes().local_modes.intersects(L::ECHO | L::ICANON | L::ISIG)
    }

    /// The client.
    pub fn client(&mut self) -> &mut Running {
        self.client.as_mut().expect("the client was not waited for before")
    }

    /// Waits for the client's end: its exit code, or minus the signal that ended it.
    pub fn wait(&mut self) -> i32 {
        self.client.take().expect("the client was not waited for before").wait()
    }
}

/// A terminal that is closed under its client, as a window is.
pub struct Window {
    master: File,
    client: Running,
}

impl Window {
    /// Starts a call of `contictl` in a new terminal. `controlling`: whether its hang-up is a signal as well.
    pub fn open(ctl: Ctl, controlling: bool) -> Window {
        let (master, slave) = pair();
        let client = begin(ctl, &slave, controlling);
        Window { master, client }
    }

    /// Types.
    pub fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal takes input");
    }

    /// Reads on until `needle` appears.
    pub fn expect(&mut self, needle: &str) {
        let (mut shown, mut byte) = (Vec::new(), [0]);
        while !shown.ends_with(needle.as_bytes()) {
            let read = self.master.read(&mut byte);
            let shows = || String::from_utf8_lossy(&shown).into_owned();
            assert_eq!(read.ok(), Some(1), "{needle:?} never appeared: {:?}", shows());
            shown.push(byte[0]);
        }
    }

    /// Closes it, and waits for the client's end: its exit code, or minus the signal that ended it.
    pub fn close(self) -> i32 {
        drop(self.master);
        self.client.wait()
    }
}

fn pair() -> (File, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
    let master = File::from(master.expect("a terminal can be made"));
    grantpt(&master).expect("the terminal can be used");
    unlockpt(&master).expect("the terminal can be unlocked");
    let name = ptsname(&master, Vec::new()).expect("the terminal has a name");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = File::from(open(&*name, flags, Mode::empty()).expect("the terminal opens"));
    (master, slave)
}

/// Starts `contictl` in a terminal.
fn begin(ctl: Ctl, slave: &File, controlling: bool) -> Running {
    // setsid(1) makes the terminal the controlling one, so that signals arrive, and then becomes contictl under the
    // same pid.
    let inner = ctl.into_command();
    let mut command = Command::new("setsid");
    command.args(controlling.then_some("--ctty"));
    command.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let fd = || Stdio::from(slave.try_clone().expect("an fd can be duplicated"));
    let child = command.stdin(fd()).stdout(fd()).stderr(fd()).spawn();
    Running::new(child.expect("setsid can be started"))
}
