//! Workers, mules, spoolers and daemons inherit no descriptor of the gateways, and a leaked
//! one gives no access.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::attach_client::AttachClient;
use crate::harness::process::{self, Process};
use crate::harness::{Flavor, Server, Setup, comes_true, on_every_server, wait_until};

/// Everything that a server forks.
const ALL: &str = "auto-procname = true\n\
                   socket = {dir}/w\n\
                   processes = 2\n\
                   mules = 1\n\
                   spooler = {dir}/spool\n\
                   fastrouter = {dir}/f\n\
                   attach-daemon = sleep 1000\n";

fn with_all(setup: Setup) -> Setup {
    fs::create_dir(setup.path("spool")).expect("a folder");
    let everybody = fs::Permissions::from_mode(0o777);
    fs::set_permissions(setup.path("spool"), everybody).expect("mode");
    let ini = ALL.replace("{dir}", &setup.path(""));
    setup.ini(&ini).option("exec-as-user-atexit", "ls -l /proc/self/fd >>{dir}/atexit")
}

/// With everything that gateways share.
fn server(flavor: &Flavor) -> Server {
    with_all(Setup::new(flavor))
        .option("forkptyrouter-detach", "5")
        .option("forkptyrouter-record", "{dir}/r")
        .option("forkptyrouter-audit", "json")
        .option("forkptyrouter-max-sessions", "50")
        .option("forkptyrouter-processes", "2")
        .option("forkpty-urouter2", "addr={dir}/unrecorded,record=off")
        .option("forkpty-urouter", "{dir}/u")
        .start()
}

/// The inodes of all SOCK_SEQPACKET sockets.
fn seqpackets() -> Vec<String> {
    let table = fs::read_to_string("/proc/net/unix").expect("a table");
    let fields = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let ours = fields.filter(|fields| fields.get(4) == Some(&"0005"));
    ours.filter_map(|fields| Some(format!("socket:[{}]", fields.get(6)?))).collect()
}

/// The descriptors of a process that are of our making: the server's own
/// connections of that kind do not close with an exec.
fn ours(pid: i32) -> Vec<String> {
    let pairs = seqpackets();
    let is_ours = |number: u32, target: &str| {
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        let closes = flags.is_some_and(|flags| flags & libc::O_CLOEXEC != 0);
        target.starts_with("/memfd:fpty") || (closes && pairs.iter().any(|socket| socket == target))
    };
    let open = process::descriptors(pid).into_iter();
    let open = open.map(|(number, target)| (number, target.display().to_string()));
    open.filter(|(number, target)| is_ours(*number, target)).map(|(_, target)| target).collect()
}

/// How much memory of this kind a process has: shared, without a name or with
/// one of ours.
fn shared_mappings(pid: i32) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let is_shared = |line: &&str| line.contains("/dev/zero (deleted)") || line.contains("fpty-");
    maps.lines().filter(is_shared).count()
}

/// Processes that the master has forked, by their names; and gateways of ours.
fn kinds(server: &Server) -> (BTreeMap<String, i32>, Vec<i32>) {
    let (mut others, mut gateways) = (BTreeMap::new(), Vec::new());
    for Process { pid, .. } in process::children(server.master()) {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let name = String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned();
        match name.contains("forkptyrouter") {
            true => gateways.push(pid),
            false => _ = others.insert(name, pid),
        }
    }
    (others, gateways)
}

fn has_all(server: &Server) -> bool {
    let (others, _) = kinds(server);
    let there = |what: &str| others.keys().any(|name| name.contains(what));
    ["worker 1", "worker 2", "mule 1", "spooler", "sleep"].iter().all(|what| there(what))
}

#[track_caller]
fn check(server: &Server, baseline: &BTreeMap<String, usize>) {
    wait_until("everything is forked", || has_all(server) && kinds(server).1.len() == 2);
    let (others, gateways) = kinds(server);
    for gateway in gateways {
        assert!(ours(gateway).len() > 6, "a gateway has {:?}", ours(gateway));
    }
    let master = ours(server.master());
    assert!(master.len() > 6, "the master has {master:?}");
    for (name, pid) in others {
        // Some begin in the server's own code: they are done in a moment.
        let is_clean = || ours(pid).is_empty();
        assert!(comes_true(Duration::from_secs(5), is_clean), "{name} has {:?}", ours(pid));
        let has = || shared_mappings(pid);
        let wanted = baseline.get(&name).copied().expect(&name);
        assert!(
            comes_true(Duration::from_secs(5), || has() == wanted),
            "{name} shares {} pieces of memory, not {wanted}",
            has()
        );
    }
}

#[test]
fn workers_mules_and_spoolers_have_no_descriptor_of_the_gateways() {
    on_every_server(|flavor| {
        let bare = with_all(Setup::new(flavor).switch("master")).launch();
        wait_until("everything is forked", || has_all(&bare));
        let (others, _) = kinds(&bare);
        let mut baseline = BTreeMap::new();
        for (name, pid) in others {
            baseline.insert(name, shared_mappings(pid));
        }
        drop(bare);
        let server = server(flavor);
        check(&server, &baseline);
        // Those that come later, while all gateways run, or one does not.
        let (others, gateways) = kinds(&server);
        let again = |name: &str| {
            let before = others[name];
            process::signal(before, Signal::SIGKILL);
            wait_until("there is another one", || {
                kinds(&server).0.get(name).is_some_and(|now| *now != before)
            });
        };
        let names: Vec<&String> = others.keys().filter(|name| !name.contains("sleep")).collect();
        names.iter().for_each(|name| again(name));
        check(&server, &baseline);
        process::signal(server.master(), Signal::SIGSTOP);
        let (others, _) = kinds(&server);
        for pid in others.values().chain(&gateways) {
            process::signal(*pid, Signal::SIGKILL);
        }
        process::signal(server.master(), Signal::SIGCONT);
        wait_until("the gateways are others", || {
            kinds(&server).1.iter().all(|pid| !gateways.contains(pid))
        });
        check(&server, &baseline);
        // Whatever the master executes at its end, before it executes itself.
        let serves = server.count_in_log("sessions at once");
        process::signal(server.master(), Signal::SIGHUP);
        wait_until("it has reloaded", || server.count_in_log("sessions at once") >= serves + 2);
        check(&server, &baseline);
        let listed = fs::read_to_string(server.path("atexit")).expect("what was executed");
        let pairs = seqpackets();
        assert!(listed.contains("->"), "{listed}");
        assert!(!listed.contains("memfd"), "{listed}");
        let master = ours(server.master());
        assert!(master.iter().any(|socket| pairs.contains(socket)));
        assert!(!master.iter().any(|socket| listed.contains(socket.as_str())), "{listed}");
    });
}

/// A copy of another process's descriptor.
fn copied(pid: i32, number: u32) -> Option<OwnedFd> {
    // SAFETY: pidfd_open(2) and pidfd_getfd(2) with numbers return a new
    // descriptor or -1.
    unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32;
        if pidfd < 0 {
            return None;
        }
        let pidfd = OwnedFd::from_raw_fd(pidfd);
        let fd = libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) as i32;
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    }
}

fn send(to: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
    let numbers: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let _ = sendmsg::<UnixAddr>(
        to.as_raw_fd(),
        &[std::io::IoSlice::new(bytes)],
        &[ControlMessage::ScmRights(&numbers)],
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        None,
    );
}

fn pair() -> (OwnedFd, OwnedFd) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_NONBLOCK)
        .expect("a pair")
}

/// A queue for the recorder, as a gateway makes it.
fn queue() -> OwnedFd {
    const SEALS: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: memfd_create(2), ftruncate(2) and fcntl(2) of a new descriptor.
    unsafe {
        let fd = libc::memfd_create(c"queue".as_ptr(), libc::MFD_ALLOW_SEALING);
        assert!(fd >= 0 && libc::ftruncate(fd, 4096 + (4 << 20)) == 0);
        assert!(libc::fcntl(fd, libc::F_ADD_SEALS, SEALS) == 0);
        OwnedFd::from_raw_fd(fd)
    }
}

/// A process has all descriptors of the master, and says at each of them what a
/// gateway would.
#[test]
fn a_leaked_descriptor_gives_no_access() {
    on_every_server(|flavor| {
        let server = Setup::new(flavor)
            .option("forkptyrouter-detach", "5")
            .option("forkptyrouter-record", "{dir}/r")
            .option("forkpty-urouter2", "addr={dir}/u,record=off")
            .option("forkpty-router", "{dir}/s")
            .start();
        let left = AttachClient::begins(&server, &[("fpty.name", "job")]).takes();
        left.leaves();
        let open = process::descriptors(server.master());
        let copies: Vec<OwnedFd> =
            open.iter().filter_map(|(number, _)| copied(server.master(), *number)).collect();
        if copies.is_empty() {
            return eprintln!("skipped: no descriptor of another process can be copied here");
        }
        // Nobody serves its sessions, so that they would be given away.
        process::signal(server.master(), Signal::SIGSTOP);
        let gateway = server.gateway();
        process::signal(gateway, Signal::SIGKILL);
        let mut answers = Vec::new();
        for copy in &copies {
            use nix::sys::socket::{SockType, getsockopt, sockopt};
            if getsockopt(copy, sockopt::SockType) != Ok(SockType::SeqPacket) {
                continue;
            }
            let said = [
                br#"{"Hello":{"ordinal":0,"count":1}}"#.as_slice(),
                br#"{"Hello":{"ordinal":0,"count":1,"token":[0,0,0,0]}}"#,
            ];
            for said in said {
                let (ours, theirs) = pair();
                send(copy, said, &[theirs.as_fd()]);
                answers.push(ours);
            }
            let said = [
                br#"{"ordinal":0,"count":1}"#.as_slice(),
                br#"{"ordinal":0,"count":1,"token":[0,0,0,0]}"#,
            ];
            for said in said {
                let (ours, theirs) = pair();
                send(copy, said, &[queue().as_fd(), theirs.as_fd()]);
                answers.push(ours);
            }
        }
        assert!(answers.len() >= 8, "the master has connections");
        for answer in &answers {
            let mut buffer = [0; 9000];
            let mut read = nix::unistd::read(answer, &mut buffer);
            // Closed, or nothing; the end of a whole second is the proof.
            comes_true(Duration::from_millis(100), || {
                read = nix::unistd::read(answer, &mut buffer);
                read != Err(nix::errno::Errno::EAGAIN)
            });
            let said = read.map(|count| String::from_utf8_lossy(&buffer[..count]).into_owned());
            assert!(!said.as_ref().is_ok_and(|said| !said.is_empty()), "{said:?}");
        }
        process::signal(server.master(), Signal::SIGCONT);
        wait_until("there is another gateway", || server.gateway() != gateway);
        wait_until("it serves", || server.count_in_log("sessions at once") == 2);
        let mut back = AttachClient::comes(&server, "job", &[]).takes();
        back.terminal().send("echo it is he''re\n");
        back.terminal().read_until("it is here\r\n");
        // And recordings are made as ever.
        let mut recorded = server.connect("s");
        recorded.send("exit\n");
        recorded.read_to_end();
        wait_until("there is a recording", || {
            fs::read_dir(server.path("r")).is_ok_and(|files| files.count() > 0)
        });
    });
}

/// A master that is executed anew has the user of its workers, as one has that
/// was never root.
#[test]
fn the_master_cannot_be_inspected_and_workers_are_as_before() {
    on_every_server(|flavor| {
        if !nix::unistd::getuid().is_root() {
            return eprintln!("skipped: only root can drop privileges");
        }
        let setup = Setup::new(flavor).option("uid", "nobody").option("gid", "nogroup");
        fs::set_permissions(setup.path(""), fs::Permissions::from_mode(0o777)).expect("mode");
        let server = with_all(setup)
            .option("forkptyrouter-detach", "5")
            .option("forkpty-urouter", "{dir}/u")
            .start();
        server.wait_for_log("sessions at once");
        process::signal(server.master(), Signal::SIGHUP);
        wait_until("it has reloaded", || server.count_in_log("sessions at once") == 2);
        wait_until("everything is forked", || has_all(&server));
        // proc(5): of who cannot be inspected root owns that.
        let owner = |pid: i32| {
            fs::metadata(format!("/proc/{pid}/fd")).map(|folder| folder.uid()).unwrap_or(0)
        };
        assert_eq!(owner(server.master()), 0);
        assert_eq!(owner(server.gateway()), 0);
        for (name, pid) in kinds(&server).0 {
            wait_until(&format!("{name} is as it was"), || owner(pid) == 65534);
        }
        for process in server.processes().iter().filter(|one| one.name.starts_with("fpty-")) {
            assert_eq!(owner(process.pid), 0, "{}", process.name);
        }
        // It reloads and serves again.
        process::signal(server.master(), Signal::SIGHUP);
        wait_until("it has reloaded", || server.count_in_log("sessions at once") == 3);
    });
}
