//! Sessions are detached and attached again, by the protocol of the extended mode.

use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::harness::attach_client::{AttachClient, comes_to_be_kept};
use crate::harness::{Flavor, Server, Setup, in_process, on_one_server, process, wait_until};

#[track_caller]
fn server(flavor: &Flavor, options: &[(&str, &str)]) -> Server {
    let setup = Setup::new(flavor).option("forkptyrouter-detach", "10");
    let setup = setup.argument("--chmod-socket=666");
    options.iter().fold(setup, |setup, (name, value)| setup.option(name, value)).uwsgi()
}

/// Begins, and has a prompt.
#[track_caller]
fn seated(server: &Server, variables: &[(&str, &str)]) -> AttachClient {
    let client = AttachClient::begins(server, variables).at_the_prompt();
    assert_eq!(client.offer, "mpr");
    client
}

#[test]
fn a_client_detaches_and_attaches_again() {
    in_process(|flavor| {
        let server = server(flavor, &[]);
        let mut client = seated(&server, &[]);
        client.terminal().send("(sleep 0.3; echo la''ter)& echo ye''s\n");
        client.terminal().read_until("yes\r\n");
        let pid = server.programs()[0].pid;
        let ring = client.ring.as_ref().unwrap().try_clone().unwrap();
        let id = client.leaves();
        // Nobody is there, and it is kept all the same.
        comes_to_be_kept(&ring, "later\r\n");
        let mut back = AttachClient::comes(&server, &id[..5], &[]).takes();
        assert_eq!(back.offer, "mpr");
        assert!(back.output.is_empty());
        assert!(back.kept().contains("later\r\n"));
        assert_eq!(server.programs()[0].pid, pid);
        back.terminal().send("echo ba''ck; exit 7\n");
        back.terminal().read_until("back\r\n");
        assert_eq!(back.ended(), (0, 7, String::new()));
        let mut none = AttachClient::comes(&server, &id, &[]);
        assert_eq!(none.ended(), (3, 0, String::from("there is no such session")));
    });
}

#[test]
fn a_lost_client_detaches() {
    on_one_server(|flavor| {
        let server = server(flavor, &[]);
        let client = seated(&server, &[("fpty.name", "build")]);
        let pid = server.programs()[0].pid;
        drop(client);
        let mut back = AttachClient::comes(&server, "build", &[]).takes();
        back.terminal().send("echo t''wo\n");
        back.terminal().read_until("two\r\n");
        drop(back);
        // The one that was left last.
        let mut back = AttachClient::comes(&server, "", &[]).takes();
        assert_eq!(server.programs()[0].pid, pid);
        back.ends_it();
        wait_until("it ends for good", || server.programs().is_empty());
        let mut none = AttachClient::comes(&server, "build", &[]);
        assert_eq!(none.ended().0, 3);
    });
}

#[test]
fn a_detached_program_never_waits_and_its_queries_are_answered() {
    in_process(|flavor| {
        let server = server(flavor, &[("forkptyrouter-detach-buffer", "16384")]);
        let mut client = seated(&server, &[]);
        let script = "sleep 0.2; seq 1 300000; stty raw -echo min 0 time 50; \
            printf '\\033[c'; dd bs=1 count=9 2>/dev/null | od -An -c; stty sane; echo do''ne\n";
        client.terminal().send(script);
        client.terminal().read_until("ne\r\n");
        let ring = client.ring.as_ref().unwrap().try_clone().unwrap();
        let id = client.leaves();
        comes_to_be_kept(&ring, "done\r\n");
        let back = AttachClient::comes(&server, &id, &[]).takes();
        let kept = back.kept();
        assert!(kept.contains("300000\r\n") && kept.contains("033   [   ?   6   2"), "{kept:?}");
    });
}

#[test]
fn the_limit_of_detached_sessions_is_told() {
    in_process(|flavor| {
        let server = server(flavor, &[("forkptyrouter-detach", "1")]);
        let first = seated(&server, &[]);
        first.leaves();
        let mut second = seated(&server, &[]);
        assert!(second.stays().contains("1 sessions are without a client already"));
        second.terminal().send("echo st''ill\n");
        second.terminal().read_until("still\r\n");
        // Lost over the limit it ends, as ever.
        assert_eq!(server.programs().len(), 2);
        drop(second);
        wait_until("the second has ended", || server.programs().len() == 1);
        let mut other = AttachClient::connects(&server, "u", None, &[("fpty.take", "1")]);
        assert!(other.stays().contains("cannot be detached"));
    });
}

#[test]
fn with_the_option_off_a_closed_client_ends_its_session() {
    in_process(|flavor| {
        let server = Setup::new(flavor).uwsgi();
        let mut client = AttachClient::begins(&server, &[("fpty.name", "x")]).takes();
        assert_eq!(client.offer, "mp");
        assert!(client.notices.concat().contains("forkptyrouter-detach"), "{:?}", client.notices);
        assert!(client.stays().contains("not allowed here"));
        let mut back = AttachClient::comes(&server, "x", &[]);
        assert!(back.ended().2.contains("forkptyrouter-detach"));
        drop(client);
        wait_until("it has ended", || server.programs().is_empty());
        // What was handed over was kept, and is no more.
        wait_until("nothing is kept", || {
            let all = server.processes().into_iter();
            let mut open = all
                .filter(|one| one.name == "fpty-supervisor")
                .flat_map(|one| process::descriptors(one.pid).into_iter().map(|(_, path)| path));
            !open.any(|path| path.ends_with("ptmx") || path.ends_with("fpty ring"))
        });
    });
}

#[test]
fn of_an_attached_session_others_are_refused_or_steal_or_view() {
    in_process(|flavor| {
        let server = server(flavor, &[]);
        let mut first = seated(&server, &[("fpty.name", "one")]);
        let mut second = AttachClient::comes(&server, "one", &[]);
        let (kind, _, why) = second.ended();
        assert_eq!(kind, 3);
        assert!(why.starts_with("root ") && why.contains("is attached since 20"), "{why}");
        let mut named = AttachClient::begins(&server, &[("fpty.name", "one")]);
        assert_eq!(named.ended().0, 3, "the name is in use");
        let mut watcher = AttachClient::comes(&server, "one", &[("fpty.readonly", "1")]).takes();
        assert_eq!(watcher.offer, "r");
        // Whoever reads the terminal writes the ring: this test does not.
        let mut thief = AttachClient::comes(&server, "one", &[("fpty.steal", "1")]);
        assert_eq!(first.ended().0, 9);
        assert!(first.ended().1 != 0 && first.ended().2.contains("has taken the session"));
        drop(first);
        thief = thief.takes();
        thief.terminal().send("echo mi''ne\n");
        thief.terminal().read_until("mine\r\n");
        let id = thief.leaves();
        let ring = watcher.ring.as_ref().unwrap().try_clone().unwrap();
        let mut back = AttachClient::comes(&server, &id, &[]).takes();
        back.terminal().send("(sleep 0.2; echo wa''tch)&\n");
        back.terminal().read_until("$ ");
        back.leaves();
        comes_to_be_kept(&ring, "watch\r\n");
        watcher.sees("watch\r\n");
        let mut last = AttachClient::comes(&server, &id, &[]).takes();
        last.terminal().send("exit 3\n");
        assert_eq!(last.ended().1, 3);
        assert_eq!(watcher.ended(), (0, 3, String::new()));
    });
}

/// A client that does not go when it is told to.
#[test]
fn a_client_that_ignores_a_steal_is_dropped() {
    in_process(|flavor| {
        let server = server(flavor, &[]);
        let first = seated(&server, &[("fpty.name", "one")]);
        let mut thief = AttachClient::comes(&server, "one", &[("fpty.steal", "1")]).takes();
        thief.terminal().send("echo mi''ne\n");
        thief.terminal().read_until("mine\r\n");
        drop(first);
        // One that takes nothing does not keep it for ever.
        thief.leaves();
        let _silent = AttachClient::comes(&server, "one", &[]);
        wait_until("it is free again", || {
            let mut client = AttachClient::comes(&server, "one", &[]);
            client.gets_an_answer();
            client.end.is_none()
        });
    });
}

#[test]
fn an_end_while_detached_is_told_once() {
    in_process(|flavor| {
        let server = server(flavor, &[]);
        for (line, kind, value) in [("exit 5", 0, 5), ("kill -9 $$", 1, 9)] {
            let mut client = seated(&server, &[("fpty.name", "gone")]);
            client.terminal().send(format!("sleep 0.2; echo la''st; {line}\n"));
            client.terminal().read_until(line);
            let id = client.leaves();
            wait_until("it has ended", || server.programs().is_empty());
            // The name is free, and means the new one.
            let mut back = AttachClient::comes(&server, &id, &[]).takes();
            assert_eq!(back.offer, "r");
            assert!(back.kept().contains("last\r\n"));
            let (was, with, _) = back.ended();
            assert_eq!((was, with), (kind, value));
            wait_until("it was told", || AttachClient::comes(&server, &id, &[]).ended().0 == 3);
        }
    });
}

#[test]
fn attach_or_begin_does_either() {
    in_process(|flavor| {
        let server = server(flavor, &[]);
        let either = [("fpty.begin", "1"), ("fpty.name", "work")];
        let mut client = AttachClient::comes(&server, "work", &either).takes();
        client.terminal().send("A=5\n");
        client.terminal().read_until("$ ");
        let id = client.leaves();
        let mut back = AttachClient::comes(&server, "work", &either).takes();
        back.terminal().send("echo =$A=; exit\n");
        back.terminal().read_until("=5=\r\n");
        back.ended();
        drop(back);
        let mut anew = AttachClient::comes(&server, "work", &either).takes();
        anew.terminal().send("echo =$A=\n");
        anew.terminal().read_until("==\r\n");
        assert_ne!(anew.leaves(), id);
    });
}

/// Runs something as another user: the right to a session is that of the
/// connection.
fn as_user<T: Send>(uid: u32, body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: three numbers. The bare call is about this thread alone.
            let set = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
            assert_eq!(set, 0, "tests run as root");
            body()
        });
        thread.join().unwrap()
    })
}

#[test]
fn sessions_of_other_users_do_not_exist() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    in_process(|flavor| {
        let server = server(flavor, &[]);
        let id = as_user(4001, || seated(&server, &[("fpty.name", "own")]).leaves());
        let refused = |which: &str, variables: &[(&str, &str)]| {
            as_user(4002, || AttachClient::comes(&server, which, variables).ended())
        };
        let none = refused("nonsuch1", &[]);
        for which in [id.as_str(), &id[..3], "own", ""] {
            for variables in [&[][..], &[("fpty.steal", "1")], &[("fpty.readonly", "1")]] {
                assert_eq!(refused(which, variables), none, "{which}");
            }
        }
        // The name is one's own: another may have it, too.
        as_user(4002, || seated(&server, &[("fpty.name", "own")]).leaves());
        as_user(4001, || AttachClient::comes(&server, "own", &[]).takes().leaves());
        // Root may all.
        AttachClient::comes(&server, &id, &[]).takes().leaves();
    });
}

#[test]
fn without_handover_output_is_relayed_and_kept() {
    in_process(|flavor| {
        let server = server(flavor, &[("forkptyrouter-handover", "false")]);
        let mut client = AttachClient::begins(&server, &[]).takes();
        assert_eq!(client.offer, "r");
        client.types("(sleep 0.3; echo la''ter)& seq 1 9999; echo en''d\n");
        client.sees("end\r\n");
        let before = u64::from_le_bytes(client.go.clone().unwrap().try_into().unwrap());
        assert!(client.output.len() as u64 > before);
        let ring = client.ring.as_ref().unwrap().try_clone().unwrap();
        // The prompt may be on its way.
        client.waits("all that is kept", |it| it.kept() == String::from_utf8_lossy(&it.output));
        let id = client.leaves();
        comes_to_be_kept(&ring, "later\r\n");
        let mut back = AttachClient::comes(&server, &id, &[]).takes();
        assert!(back.output.is_empty());
        let before = u64::from_le_bytes(back.go.clone().unwrap().try_into().unwrap());
        assert_eq!(back.kept().len() as u64, before);
        back.types("echo ba''ck; exit 2\n");
        back.sees("back\r\n");
        assert_eq!(back.ended().1, 2);
    });
}

#[test]
fn each_socket_has_its_own_sessions() {
    in_process(|flavor| {
        let setup = Setup::new(flavor)
            .option("forkpty-urouter2", "addr={dir}/u,detach=1,detach_buffer=20000")
            .option("forkpty-urouter2", "addr={dir}/v,detach=1")
            .option("forkpty-urouter", "{dir}/w");
        let server = setup.start();
        let mut client = AttachClient::begins(&server, &[("fpty.name", "own")]).takes();
        let ring = std::fs::File::from(client.ring.take().expect("a ring"));
        assert_eq!(ring.metadata().expect("a file").len(), 16384 + 20000);
        let id = client.leaves();
        for (socket, why) in [("v", "there is no such session"), ("w", "forkptyrouter-detach")] {
            for which in [id.as_str(), "own", ""] {
                let mut other = AttachClient::connects(&server, socket, Some(which), &[]);
                let (kind, _, text) = other.ended();
                assert!(kind == 3 && text.contains(why), "{socket} {which} {text}");
            }
        }
        AttachClient::comes(&server, "own", &[]).takes().leaves();
    });
}

#[test]
fn a_detached_session_ends_after_detach_time() {
    in_process(|flavor| {
        let server = server(flavor, &[("forkptyrouter-detach-time", "1")]);
        seated(&server, &[]).leaves();
        wait_until("it has ended", || server.programs().is_empty());
    });
}

/// A client that clears O_NONBLOCK delays nobody.
#[test]
fn a_client_that_makes_the_terminal_blocking_holds_up_nobody() {
    in_process(|flavor| {
        let server = server(flavor, &[]);
        let mut client = seated(&server, &[]);
        client.terminal().send("while :; do echo; done\n");
        let copy = client.terminal().fd().try_clone().unwrap();
        let file = std::fs::File::from(client.ring.as_ref().unwrap().try_clone().unwrap());
        client.leaves();
        // It takes what was to be read, and makes a read of nothing wait.
        let reader = copy.try_clone().unwrap();
        let cat = Command::new("cat").stdin(reader).stdout(Stdio::null()).spawn();
        let mut cat = cat.expect("cat runs");
        let end = Instant::now() + Duration::from_secs(2);
        let mut seed = 1u64;
        while Instant::now() < end {
            fcntl(&copy, FcntlArg::F_SETFL(OFlag::O_RDWR)).expect("a terminal");
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            file.write_at(&seed.to_le_bytes(), 16 + (seed >> 33) % 20_000).expect("a ring");
        }
        let mut other = server.connect("u");
        other.resize(24, 80);
        other.input("echo al''ive\n");
        other.read_until("alive\r\n");
        let _ = AttachClient::comes(&server, "", &[]);
        let mut other = server.connect("u");
        other.resize(24, 80);
        other.input("echo al''ive\n");
        other.read_until("alive\r\n");
        cat.kill().expect("a child");
        cat.wait().expect("a child");
    });
}
