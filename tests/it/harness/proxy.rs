//! Something between a client and a gateway, as `ssh -L` or a proxy is: bytes
//! pass, descriptors do not; late, or slowly.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A line between the two, which passes on what it has read.
#[derive(Clone, Copy, Default)]
pub struct Line {
    /// How long each byte takes, each way.
    pub delay: Duration,
    /// Bytes of one read, and how long the next one waits; 0: as many as like.
    pub piece: usize,
    pub pause: Duration,
}

/// The relay's listener. Its threads end with the test.
pub struct Proxy {
    _folder: tempfile::TempDir,
    /// Where clients connect to.
    pub address: String,
}

trait Ends: Read + Write + Send + Sized + 'static {
    fn copy(&self) -> Self;
    fn end(&self);
}

impl Ends for UnixStream {
    fn copy(&self) -> Self {
        self.try_clone().unwrap()
    }
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Ends for TcpStream {
    fn copy(&self) -> Self {
        self.try_clone().unwrap()
    }
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Proxy {
    /// From a UNIX socket to a gateway's.
    pub fn unix(gateway: &str, line: Line) -> Self {
        let folder = tempfile::Builder::new().prefix("fp").tempdir_in("/tmp").unwrap();
        let address = folder.path().join("proxy").display().to_string();
        let listener = UnixListener::bind(&address).unwrap();
        let gateway = gateway.to_owned();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // As ssh has it: at once, whatever comes later.
                connect(client, UnixStream::connect(&gateway), line);
            }
        });
        Self { _folder: folder, address }
    }

    /// From TCP to a gateway's UNIX socket.
    pub fn of_tcp(gateway: &str, line: Line) -> Self {
        let folder = tempfile::Builder::new().prefix("fp").tempdir_in("/tmp").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let gateway = gateway.to_owned();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                connect(client, UnixStream::connect(&gateway), line);
            }
        });
        Self { _folder: folder, address }
    }

    /// From a UNIX socket to a gateway's TCP address.
    pub fn to_tcp(gateway: &str, line: Line) -> Self {
        let folder = tempfile::Builder::new().prefix("fp").tempdir_in("/tmp").unwrap();
        let address = folder.path().join("proxy").display().to_string();
        let listener = UnixListener::bind(&address).unwrap();
        let gateway = gateway.to_owned();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                connect(client, TcpStream::connect(&gateway), line);
            }
        });
        Self { _folder: folder, address }
    }
}

fn connect<A: Ends, B: Ends>(client: A, gateway: std::io::Result<B>, line: Line) {
    let Ok(gateway) = gateway else { return };
    passes_on(client.copy(), gateway.copy(), line);
    passes_on(gateway, client, line);
}

fn passes_on<A: Ends, B: Ends>(mut from: A, mut to: B, line: Line) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let size = if line.piece > 0 { line.piece } else { 65_536 };
        let mut buffer = vec![0; size];
        loop {
            let count = from.read(&mut buffer).unwrap_or(0);
            if sender.send((Instant::now() + line.delay, buffer[..count].to_vec())).is_err() {
                return;
            }
            if count == 0 {
                return;
            }
            thread::sleep(line.pause);
        }
    });
    thread::spawn(move || {
        for (at, bytes) in receiver {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if bytes.is_empty() || to.write_all(&bytes).is_err() {
                break;
            }
        }
        to.end();
    });
}
