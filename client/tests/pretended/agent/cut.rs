//! Connections that are cut.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream as Socket,
    sync::{Arc, Mutex},
    thread,
};

/// Copies between two sockets, so many bytes in both directions together, and then closes both.
pub fn relay(client: Socket, agent: Socket, budget: usize) {
    let left = Arc::new(Mutex::new(budget));
    for (from, to) in [(&client, &agent), (&agent, &client)] {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let left = Arc::clone(&left);
        thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                let mut left = left.lock().unwrap();
                let passed = n.min(*left);
                *left -= passed;
                let over = *left == 0;
                drop(left);
                if to.write_all(&buffer[..passed]).is_err() || over {
                    break;
                }
            }
            let _ = from.shutdown(std::net::Shutdown::Both);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    }
}
