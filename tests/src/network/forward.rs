//! Carries the connections of one place to another, byte by byte.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::{
        fd::AsFd as _,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Hosts, Side};

/// Where the far end of the way listens.
const PORT: u16 = 7443;
const PIECE: usize = 256 << 10;

impl Hosts {
    /// Lets a client on the near host reach a socket of the far host: returns the path of a socket
    /// whose connections go over the network to `socket`.
    pub fn carry(&self, socket: PathBuf, near: PathBuf) -> PathBuf {
        let address = (Side::Far.address(), PORT);
        self.within(Side::Far, move || {
            let listener = TcpListener::bind(address).expect("an address of the host");
            move || {
                for connection in listener.incoming().flatten() {
                    let socket = socket.clone();
                    let open = move || UnixStream::connect(socket);
                    thread::spawn(move || join(connection, open));
                }
            }
        });
        let path = near.clone();
        self.within(Side::Near, move || {
            let listener = UnixListener::bind(near).expect("a path for a socket");
            move || {
                for connection in listener.incoming().flatten() {
                    let open = move || TcpStream::connect(address);
                    thread::spawn(move || join(connection, open));
                }
            }
        });
        path
    }

    /// Runs something on a thread inside a host; returns when it has begun.
    fn within<F: FnOnce()>(&self, side: Side, begin: impl FnOnce() -> F + Send + 'static) {
        let namespace = File::open(self.namespace(side).path()).expect("the namespace is there");
        let (ready, begun) = std::sync::mpsc::channel();
        thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("a thread may change its network namespace");
            let go_on = begin();
            let _ = ready.send(());
            go_on();
        });
        begun.recv().expect("it has begun");
    }
}

/// A connection of either kind.
trait Connection: Read + Write + Send + Sized + 'static {
    fn twin(&self) -> io::Result<Self>;
    fn close(&self, how: Shutdown);
}

impl Connection for TcpStream {
    fn twin(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn close(&self, how: Shutdown) {
        let _ = self.shutdown(how);
    }
}

impl Connection for UnixStream {
    fn twin(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn close(&self, how: Shutdown) {
        let _ = self.shutdown(how);
    }
}

/// Joins a connection to another one. Where either breaks, both do.
fn join<A: Connection, B: Connection>(one: A, open: impl FnOnce() -> io::Result<B>) {
    let (Ok(other), Ok(one_twin)) = (open(), one.twin()) else { return };
    let Ok(other_twin) = other.twin() else { return };
    let back = thread::spawn(move || copy(other_twin, one_twin));
    copy(one, other);
    let _ = back.join();
}

fn copy<A: Connection, B: Connection>(mut from: A, mut to: B) {
    let mut piece = vec![0; PIECE];
    let whole = loop {
        match from.read(&mut piece) {
            Ok(0) => break true,
            Ok(n) if to.write_all(&piece[..n]).is_ok() => {}
            _ => break false,
        }
    };
    to.close(if whole { Shutdown::Write } else { Shutdown::Both });
    if !whole {
        from.close(Shutdown::Both);
    }
}
