//! The API as another user of this machine.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustix::{process::Uid, thread::set_thread_res_uid};
use tempfile::TempDir;
use tokio::{
    net::{UnixStream, unix::pipe},
    task::spawn_blocking,
};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::agent::binary;

/// A directory that all users reach, with a socket in it and contictl.
#[derive(Debug)]
pub struct Common {
    dir: TempDir,
}

impl Default for Common {
    fn default() -> Self {
        let dir = tempfile::Builder::new().prefix("conti-test-").tempdir().expect("a directory");
        let all = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path(), all.clone()).expect("a mode");
        fs::copy(binary("contictl"), dir.path().join("contictl")).expect("a copy");
        fs::set_permissions(dir.path().join("contictl"), all).expect("a mode");
        Common { dir }
    }
}

impl Common {
    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("contid.sock")
    }

    /// Connects as the user with this uid.
    pub async fn connect(&self, id: u32) -> io::Result<UnixStream> {
        let socket = self.socket();
        let connect = move || {
            let user = Uid::from_raw(id);
            // Of this thread alone, which ends with that.
            set_thread_res_uid(user, user, user)?;
            std::os::unix::net::UnixStream::connect(socket)
        };
        let joined = spawn_blocking(|| thread::spawn(connect).join()).await;
        let stream = joined.expect("no panic").expect("no panic")?;
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)
    }

    /// The API, as a user with this uid and gid. It is `contictl proxy` that runs as the user: the kernel
    /// asks who has connected, not who sends.
    pub async fn channel(&self, id: u32) -> Result<Channel, tonic::transport::Error> {
        let (program, socket) = (self.dir.path().join("contictl"), self.socket());
        let connector = service_fn(move |_: Uri| {
            let proxy = Proxy::start(&program, &socket, id);
            async move { proxy.map(TokioIo::new) }
        });
        Endpoint::from_static("http://localhost").connect_with_connector(connector).await
    }
}

/// A proxy, as what bytes come and go over. It is killed when that is dropped.
struct Proxy {
    pipes: tokio::io::Join<pipe::Receiver, pipe::Sender>,
    _process: Arc<Killed>,
}

struct Killed(Mutex<Child>);

impl Drop for Killed {
    fn drop(&mut self) {
        let mut child = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Proxy {
    fn start(program: &Path, socket: &Path, id: u32) -> io::Result<Proxy> {
        let mut child = Command::new("setpriv")
            .args([format!("--reuid={id}"), format!("--regid={id}"), "--clear-groups".to_owned()])
            .arg(program)
            .args(["proxy", "--host"])
            .arg(format!("unix://{}", socket.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let reader = child.stdout.take().map(OwnedFd::from).expect("a pipe");
        let writer = child.stdin.take().map(OwnedFd::from).expect("a pipe");
        let pipes = tokio::io::join(
            pipe::Receiver::from_owned_fd(reader)?,
            pipe::Sender::from_owned_fd(writer)?,
        );
        Ok(Proxy { pipes, _process: Arc::new(Killed(Mutex::new(child))) })
    }
}

impl tokio::io::AsyncRead for Proxy {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.pipes).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for Proxy {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.pipes).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.pipes).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.pipes).poll_shutdown(context)
    }
}
