//! Messages between processes of one instance, each with its sender's credentials, which
//! the kernel vouches for (SO_PASSCRED, unix(7)).

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{setsockopt, sockopt::PassCred};

use super::recvmsg::{MessageSender, as_uninit, receive};
use super::socket::Stream;
use super::{ReadOutcome, read_outcome};

impl Stream {
    /// A connected pair of sockets, of which the second one's messages come with their
    /// sender's credentials.
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn credentialed_pair() -> std::io::Result<(Self, Self)> {
        let (one, other) = Self::pair()?;
        setsockopt(&other, PassCred, &true)?;
        Ok((one, other))
    }

    /// Reads a message, with the descriptors that come along, as many as there are
    /// numbers for, and who has sent it: `None` where the kernel was not asked, or
    /// cannot say.
    pub fn read_credentialed(
        &self,
        buffer: &mut [u8],
        descriptors: &mut Vec<OwnedFd>,
    ) -> (ReadOutcome, Option<MessageSender>) {
        let mut sender = None;
        let read = receive(self.as_fd(), as_uninit(buffer)).map(|received| {
            descriptors.extend(received.descriptors);
            sender = received.sender;
            received.count
        });
        (read_outcome(read), sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_who_sends() {
        let (one, other) = Stream::credentialed_pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        one.write(b"plain");
        one.write_with_descriptors(b"more", &[null.as_fd(), null.as_fd()]);
        let we =
            MessageSender { pid: std::process::id() as i32, uid: nix::unistd::geteuid().as_raw() };
        let mut descriptors = Vec::new();
        let mut buffer = [0; 16];
        let (read, sender) = other.read_credentialed(&mut buffer, &mut descriptors);
        assert_eq!((read, sender, descriptors.len()), (ReadOutcome::Bytes(5), Some(we), 0));
        let (read, sender) = other.read_credentialed(&mut buffer, &mut descriptors);
        assert_eq!((read, sender, descriptors.len()), (ReadOutcome::Bytes(4), Some(we), 2));
        let (read, sender) = other.read_credentialed(&mut buffer, &mut descriptors);
        assert_eq!((read, sender), (ReadOutcome::WouldBlock, None));
    }

    /// There are numbers for some of the descriptors alone: they are ours to close.
    #[test]
    fn what_came_with_a_cut_message_is_owned() {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        use std::os::fd::AsRawFd;
        // The limit is a whole process's: it is another one's, which tests nothing
        // else.
        const ALONE: &str = "FPTY_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let name = concat!(module_path!(), "::what_came_with_a_cut_message_is_owned");
            let (_, name) = name.split_once("::").unwrap();
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1");
            let output = alone.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
            return;
        }
        let (one, other) = Stream::credentialed_pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        one.write_with_descriptors(b"x", &[null.as_fd(); 20]);
        let before = open();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let next = null.try_clone().unwrap().as_raw_fd();
        setrlimit(Resource::RLIMIT_NOFILE, next as u64 + 5, hard).unwrap();
        let mut descriptors = Vec::new();
        let (read, sender) = other.read_credentialed(&mut [0; 16], &mut descriptors);
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        assert_eq!(read, ReadOutcome::Bytes(1));
        assert!(sender.is_some() && (1..=5).contains(&descriptors.len()), "{descriptors:?}");
        assert_eq!(open(), before + descriptors.len());
        drop(descriptors);
        assert_eq!(open(), before);
    }
}
