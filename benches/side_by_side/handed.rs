//! A client in extended mode: it takes the terminal that is offered, or reads
//! packets to the end.

use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};

use super::Result;
use super::contestant::Session;

/// The hello, a variable and the word that this was all.
pub const CAN_TAKE: &[u8] = b"\0\x01\0\x66\0\x0e\0\x67\x09\0fpty.take\x01\x001\0\0\0\x67";
/// The hello and the end of a request, of a client that takes no terminal.
pub const PLAIN: &[u8] = b"\0\x01\0\x66\0\0\0\x67";

const TAKEN: [u8; 4] = [0, 0, 0, 108];
const OFFER: u8 = 112;
const GO: u8 = 113;

/// Takes the terminal.
pub fn take(mut stream: UnixStream) -> Result<Session> {
    stream.write_all(CAN_TAKE)?;
    let (mut bytes, mut said, mut master) = (Vec::new(), Vec::new(), None);
    loop {
        let mut buffer = [0; 4096];
        let mut space = nix::cmsg_space!([i32; 4]);
        let mut pieces = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message =
            recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut pieces, Some(&mut space), flags)?;
        if message.bytes == 0 {
            return Err("no terminal was handed over".into());
        }
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                // SAFETY: just made for this process; the first is the master.
                let owned = numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
                master = owned.take(1).next().or(master);
            }
        }
        let count = message.bytes;
        bytes.extend_from_slice(&buffer[..count]);
        while let Some((kind, payload)) = next(&mut bytes) {
            match kind {
                0 => said.extend(payload),
                OFFER => stream.write_all(&TAKEN)?,
                GO => {
                    let master = master.ok_or("nothing was offered")?;
                    // Its description is ours alone by now.
                    let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_RDWR);
                    nix::fcntl::fcntl(&master, flags)?;
                    return Ok(Session::handed(File::from(master), stream, said));
                }
                _ => {}
            }
        }
    }
}

/// Takes a whole packet off the front.
pub fn next(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let &[_, low, high, kind] = bytes.first_chunk()?;
    let size = match kind {
        0 | 103.. => usize::from(u16::from_le_bytes([low, high])),
        _ => 0,
    };
    let payload = bytes.get(4..4 + size)?.to_vec();
    bytes.drain(..4 + size);
    Some((kind, payload))
}
