//! Detachable sessions survive killed gateways and reloads of the instance, and end
//! with it.

use nix::sys::signal::Signal;

use crate::harness::attach_client::{AttachClient, comes_to_be_kept};
use crate::harness::{
    Flavor, Server, Setup, in_process, on_every_server, on_one_server, process, side_by_side,
    wait_until,
};

#[track_caller]
fn server(flavor: &Flavor, options: &[(&str, &str)]) -> Server {
    let setup = Setup::new(flavor).option("forkptyrouter-detach", "300");
    options.iter().fold(setup, |setup, (name, value)| setup.option(name, value)).uwsgi()
}

#[track_caller]
fn seated(server: &Server, variables: &[(&str, &str)]) -> AttachClient {
    AttachClient::begins(server, variables).at_the_prompt()
}

fn holders(server: &Server) -> usize {
    server.processes().iter().filter(|process| process.name == "fpty-supervisor").count()
}

#[test]
fn a_detached_session_survives_a_killed_gateway_and_a_reload() {
    on_every_server(|flavor| {
        let server = server(flavor, &[]);
        for (way, line, value) in
            [("kill", "exit 9", 9), ("reload", "exit 0", 0), ("both", "exit 4", 4)]
        {
            let mut client = seated(&server, &[("fpty.name", "job")]);
            client.terminal().send("A=7; (sleep 0.5; echo la''ter)&\n");
            client.terminal().read_until("$ ");
            let id = client.leaves();
            if way == "both" {
                server.replace_gateway("kill");
                server.replace_gateway("reload");
                server.replace_gateway("kill");
            } else {
                server.replace_gateway(way);
            }
            // The next gateway may have it in other memory.
            let watcher = AttachClient::comes(&server, "job", &[("fpty.readonly", "1")]).takes();
            comes_to_be_kept(watcher.ring.as_ref().unwrap(), "later\r\n");
            drop(watcher);
            let mut back = AttachClient::comes(&server, "job", &[]).takes();
            assert!(back.kept().contains("later\r\n"));
            back.terminal().send("echo =$A=\n");
            back.terminal().read_until("=7=\r\n");
            assert_eq!(back.leaves(), id);
            let mut back = AttachClient::comes(&server, &id, &[]).takes();
            back.terminal().send(format!("{line}\n"));
            // The true status, of a program that is not the gateway's child.
            assert_eq!(back.ended(), (0, value, String::new()), "{way}");
        }
        assert_eq!(holders(&server), 1);
    });
}

#[test]
fn an_attached_session_goes_on_over_a_killed_gateway_and_a_reload() {
    on_one_server(|flavor| {
        let server = server(flavor, &[]);
        for way in ["kill", "reload"] {
            let mut client = seated(&server, &[("fpty.name", "job")]);
            wait_until("it is handed over", || client.master.is_some());
            server.replace_gateway(way);
            client.terminal().send("echo o''ne\n");
            client.terminal().read_until("one\r\n");
            let mut other = AttachClient::comes(&server, "job", &[]);
            assert!(other.ended().2.contains("is attached since"));
            // The connection is the same.
            let id = client.leaves();
            let mut back = AttachClient::comes(&server, &id, &[]).takes();
            server.replace_gateway(way);
            drop(other);
            back.terminal().send("exit 6\n");
            assert_eq!(back.ended(), (0, 6, String::new()));
        }
    });
}

/// Lost while there is no gateway.
#[test]
fn a_client_lost_with_its_gateway_has_detached() {
    in_process(|flavor| {
        side_by_side([&[][..], &[("forkptyrouter-handover", "false")]], |options| {
            let server = server(flavor, options);
            let mut client = AttachClient::begins(&server, &[("fpty.name", "job")]).takes();
            client.types("A=7\n");
            let gateway = server.gateway();
            process::signal(gateway, Signal::SIGKILL);
            drop(client);
            wait_until("there is another gateway", || server.gateway() != gateway);
            wait_until("it was left", || {
                let mut back = AttachClient::comes(&server, "job", &[]);
                back.gets_an_answer();
                back.end.is_none()
            });
        });
    });
}

/// A server that has given up root executes itself again as that user.
#[test]
fn a_detached_session_survives_without_root() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    on_one_server(|flavor| {
        let setup = Setup::new(flavor).option("forkptyrouter-detach", "3");
        let folder = setup.bytes_path(b"");
        std::os::unix::fs::chown(folder, Some(4003), Some(4003)).expect("tests run as root");
        let server = setup.option("uid", "4003").option("gid", "4003").uwsgi();
        let mut client = seated(&server, &[("fpty.name", "job")]);
        client.terminal().send("A=7\n");
        client.terminal().read_until("$ ");
        client.leaves();
        server.replace_gateway("kill");
        server.replace_gateway("reload");
        let mut back = AttachClient::comes(&server, "job", &[]).takes();
        back.terminal().send("echo =$A=; id -u; exit 5\n");
        back.terminal().read_until("=7=\r\n4003\r\n");
        assert_eq!(back.ended(), (0, 5, String::new()));
    });
}

#[test]
fn the_next_gateway_tells_the_end_of_a_detached_session() {
    on_one_server(|flavor| {
        let server = server(flavor, &[]);
        let mut client = seated(&server, &[]);
        client.terminal().send("sleep 0.2; echo la''st; exit 5\n");
        client.terminal().read_until("exit 5");
        let id = client.leaves();
        wait_until("it has ended", || server.programs().is_empty());
        server.replace_gateway("reload");
        let mut back = AttachClient::comes(&server, &id, &[]).takes();
        assert!(back.kept().contains("last\r\n"));
        assert_eq!(back.ended(), (0, 5, String::new()));
        // One that ends while there is no gateway, or as nobody's child.
        let mut client = seated(&server, &[]);
        client.terminal().send("sleep 0.4; echo la''st; exit 6\n");
        client.terminal().read_until("exit 6");
        let id = client.leaves();
        server.replace_gateway("kill");
        let mut end = (3, 0, String::new());
        wait_until("it has ended", || {
            let mut back = AttachClient::comes(&server, &id, &[]);
            back.gets_an_answer();
            let is_over = back.offer == "r";
            if is_over {
                let mut back = back.takes();
                assert!(back.kept().contains("last\r\n"));
                end = back.ended();
            }
            is_over
        });
        assert_eq!(end, (0, 6, String::new()));
    });
}

/// The supervisor is killed, and then the gateway.
#[test]
fn a_killed_supervisor_is_replaced() {
    in_process(|flavor| {
        let server = server(flavor, &[]);
        let client = seated(&server, &[("fpty.name", "job")]);
        client.leaves();
        let before = server.supervisor().expect("something keeps it");
        process::signal(before, Signal::SIGKILL);
        wait_until("there is another", || server.supervisor().is_some_and(|now| now != before));
        let mut none = AttachClient::comes(&server, "nonesuch", &[]);
        assert_eq!(none.ended().0, 3);
        server.replace_gateway("kill");
        let mut back = AttachClient::comes(&server, "job", &[]).takes();
        back.terminal().send("exit 3\n");
        assert_eq!(back.ended().1, 3);
    });
}

/// Thousands have room in one process: nobody who is attached to none of them needs
/// more than their terminals and something to find the rest by.
#[test]
fn a_detached_session_takes_two_descriptors() {
    const COUNT: usize = 8;
    on_one_server(|flavor| {
        let server = server(flavor, &[]);
        let of_sessions = |pid: i32| {
            let open = process::descriptors(pid).into_iter().map(|(_, path)| path);
            let is_one = |path: &std::path::PathBuf| {
                let path = path.to_string_lossy();
                ["ptmx", "pidfd", "fpty ring"].iter().any(|of| path.contains(of))
            };
            open.filter(is_one).count()
        };
        let names: Vec<String> = (0..COUNT).map(|number| format!("n{number}")).collect();
        let all_rest = |before: usize| {
            wait_until("each has two", || {
                let processes = [Some(server.gateway()), server.supervisor()];
                let open = processes.map(|pid| pid.map_or(0, of_sessions));
                // One at least is its terminal.
                open.iter().all(|open| (COUNT..=2 * COUNT + before).contains(open))
            });
        };
        server.wait_for_log("sessions at once");
        // What each has of its own: the supervisor the master, at least.
        let before = of_sessions(server.gateway()) + 1;
        for name in &names {
            let mut client = seated(&server, &[("fpty.name", name)]);
            client.terminal().send(format!("A={name}; (sleep 0.2; echo $A$A)&\n"));
            client.terminal().read_until("$ ");
            let ring = client.ring.as_ref().unwrap().try_clone().unwrap();
            client.leaves();
            comes_to_be_kept(&ring, &format!("{name}{name}\r\n"));
        }
        all_rest(before);
        for (round, way) in ["kill", "supervisor", "reload", "kill"].into_iter().enumerate() {
            match way {
                "supervisor" => {
                    let old = server.supervisor().expect("something keeps them");
                    process::signal(old, Signal::SIGKILL);
                    wait_until("there is another", || {
                        server.supervisor().is_some_and(|new| new != old)
                    });
                }
                _ => server.replace_gateway(way),
            }
            all_rest(before);
            // Whoever watches sees more, also of what another one saw before.
            let name = &names[round];
            let one = AttachClient::comes(&server, name, &[("fpty.readonly", "1")]).takes();
            let two = AttachClient::comes(&server, name, &[("fpty.readonly", "1")]).takes();
            let mut back = AttachClient::comes(&server, name, &[]).takes();
            assert!(back.kept().contains(&format!("{name}{name}\r\n")), "{way}: {}", back.kept());
            back.terminal().send(format!("(sleep 0.2; echo {round}-$A)&\n"));
            back.terminal().read_until("$ ");
            back.leaves();
            for watcher in [one, two] {
                let ring = watcher.ring.as_ref().unwrap();
                comes_to_be_kept(ring, &format!("{round}-{name}\r\n"));
            }
            all_rest(before);
        }
        for (round, name) in names.iter().enumerate() {
            let mut back = AttachClient::comes(&server, name, &[]).takes();
            let (kept, known) = (back.kept(), format!("{round}-{name}\r\n"));
            assert!(
                kept.contains(&format!("{name}{name}\r\n")) && (round > 3 || kept.contains(&known))
            );
            back.terminal().send("exit 5\n");
            assert_eq!(back.ended(), (0, 5, String::new()));
        }
    });
}

#[test]
fn a_stop_ends_detached_sessions() {
    on_every_server(|flavor| {
        let mut server = server(flavor, &[("forkptyrouter-hangup-grace", "1")]);
        let mut attached = seated(&server, &[]);
        let mut left = seated(&server, &[]);
        left.terminal().send("trap '' HUP; echo tr''apped\n");
        left.terminal().read_until("trapped");
        left.leaves();
        server.replace_gateway("kill");
        seated(&server, &[]).leaves();
        server.stop();
        assert_eq!(attached.ended().0, 6);
        wait_until("nothing is left", || server.processes().is_empty());
    });
}

/// No client could attach to such a session any more.
#[test]
fn a_reload_without_the_option_ends_detached_sessions() {
    on_every_server(|flavor| {
        let server = Setup::new(flavor).ini("forkptyrouter-detach = 3").uwsgi();
        let client = seated(&server, &[]);
        client.leaves();
        std::fs::write(server.path("server.ini"), "[uwsgi]\n").expect("a file");
        server.replace_gateway("reload");
        wait_until("nothing is left of it", || {
            server.session_processes().iter().all(|process| process.name == "fpty-supervisor")
        });
    });
}

#[test]
fn a_restored_session_is_ended_like_others() {
    in_process(|flavor| {
        let server = server(flavor, &[("forkptyrouter-hangup-grace", "1")]);
        let mut client = seated(&server, &[("fpty.name", "job")]);
        client.terminal().send("trap '' HUP; echo tr''apped\n");
        client.terminal().read_until("trapped");
        server.replace_gateway("kill");
        client.ends_it();
        wait_until("nothing is left of it", || {
            server.session_processes().iter().all(|process| process.name.starts_with("fpty-"))
        });
    });
}

/// Half of them flood.
#[test]
fn many_detached_floods_delay_nobody() {
    in_process(|flavor| {
        let server = server(flavor, &[]);
        for number in 0..40 {
            let mut client = AttachClient::begins(&server, &[]).takes();
            if number % 2 == 0 {
                client.terminal().send("yes\n");
            }
            client.leaves();
        }
        let before = process::Process::of(server.gateway()).unwrap().ticks;
        let begin = std::time::Instant::now();
        let mut other = server.connect("u");
        other.resize(24, 80);
        let mut worst = std::time::Duration::ZERO;
        for number in 0..50 {
            let at = std::time::Instant::now();
            other.input(format!("echo =$(({number}+1000))=\n"));
            other.read_until(&format!("={}=", number + 1000));
            worst = worst.max(at.elapsed());
        }
        let rest = std::time::Duration::from_secs(2).saturating_sub(begin.elapsed());
        std::thread::sleep(rest);
        let used = process::Process::of(server.gateway()).unwrap().ticks - before;
        eprintln!("worst {worst:?}, {used} ticks in {:?}", begin.elapsed());
        assert!(used < 100 * begin.elapsed().as_secs() / 2, "{used} ticks");
    });
}
