//! The standard streams of a command: each has a reader of its own, who may close it, and
//! an owner, who may open it once more.

use std::process::{Command, Stdio};

use crate::harness::attach_client::AttachClient;
use crate::harness::client::{Mode, fpty};
use crate::harness::ports::free_address;
use crate::harness::users::can_be_others;
use crate::harness::wire::input;
use crate::harness::{Flavor, Server, Setup, in_process, side_by_side, wait_until};

/// Output and status of a line of bash in which `fpty` is the client for this address.
#[track_caller]
fn bash(address: &str, line: &str) -> (String, String, Option<i32>) {
    let client = fpty(Mode::Uwsgi, address);
    let line = format!("fpty() {{ exec \"$FPTY\" {address} \"$@\"; }}\n{line}");
    let output = Command::new("/bin/bash")
        .args(["-c", &line])
        .env("FPTY", client.get_program())
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(output.stdout), text(output.stderr), output.status.code())
}

/// Streams that are passed, and those that are relayed, by both transports.
fn ways(flavor: &Flavor) -> (Vec<Server>, Vec<String>) {
    let tcp = free_address();
    let passes = Setup::new(flavor)
        .option("forkpty-urouter", "{dir}/u")
        .option("forkpty-urouter", &tcp)
        .option("forkptyrouter-allow-command", "true")
        .start();
    let relays = Setup::new(flavor)
        .option("forkpty-urouter", "{dir}/u")
        .option("forkptyrouter-pass-stdio", "false")
        .option("forkptyrouter-allow-command", "true")
        .start();
    let ways = vec![passes.path("u"), relays.path("u"), tcp];
    (vec![passes, relays], ways)
}

#[test]
fn a_command_goes_on_without_the_reader_of_one_output() {
    in_process(|flavor| {
        let (_servers, ways) = ways(flavor);
        side_by_side(&ways, |address| {
            let line = "fpty 'sleep .5; echo done; exit 5' 2> >(exec true) | cat; \
                        exit ${PIPESTATUS[0]}";
            let (stdout, _, status) = bash(address, line);
            assert_eq!((stdout.as_str(), status), ("done\n", Some(5)), "stderr, {address}");
            let line = "{ fpty 'sleep .5; echo done >&2; exit 5' 2>&3 | true; } 3> >(cat >&2); \
                        status=${PIPESTATUS[0]}; wait $!; exit $status";
            let (_, stderr, status) = bash(address, line);
            assert_eq!((stderr.as_str(), status), ("done\n", Some(5)), "stdout, {address}");
            // More than waits anywhere.
            let line = "fpty 'head -c 3000000 /dev/zero; exit 5' 2> >(exec true) | wc -c; \
                        exit ${PIPESTATUS[0]}";
            let (stdout, _, status) = bash(address, line);
            assert_eq!((stdout.as_str(), status), ("3000000\n", Some(5)), "much, {address}");
        });
    });
}

#[test]
fn a_writer_without_a_reader_gets_sigpipe() {
    in_process(|flavor| {
        let (_servers, ways) = ways(flavor);
        side_by_side(&ways, |address| {
            let line = "fpty 'exec yes' 2> >(cat >&2) | head -n 1; exit ${PIPESTATUS[0]}";
            let (stdout, _, status) = bash(address, line);
            assert_eq!((stdout.as_str(), status), ("y\n", Some(141)), "stdout, {address}");
            let line = "fpty 'sleep .5; exec yes >&2' 2> >(exec true) | cat; exit ${PIPESTATUS[0]}";
            let (_, _, status) = bash(address, line);
            assert_eq!(status, Some(141), "stderr, {address}");
        });
    });
}

#[test]
fn an_output_closed_by_the_program_ends_at_once() {
    in_process(|flavor| {
        let (_servers, ways) = ways(flavor);
        for address in &ways {
            // Its reader ends, and so does what it was to wait for.
            let line = "mkfifo $FIFO; fpty \"echo out; exec >&-; read x < $FIFO; exit 5\" \
                        2> >(exec true) | (cat; echo go > $FIFO); exit ${PIPESTATUS[0]}";
            let folder = tempfile::tempdir().expect("a folder");
            let fifo = folder.path().join("fifo").display().to_string();
            let (stdout, _, status) = bash(address, &line.replace("$FIFO", &fifo));
            assert_eq!((stdout.as_str(), status), ("out\n", Some(5)), "{address}");
        }
    });
}

#[test]
fn a_command_without_readers_of_both_outputs_ends() {
    in_process(|flavor| {
        let (_servers, ways) = ways(flavor);
        side_by_side(&ways, |address| {
            for line in [
                "fpty 'sleep 100' 2>&1 | true",
                "fpty 'sleep 100' 2> >(exec true) | true",
                "fpty 'sleep 100' 2> >(exec true) | sleep .7",
                "fpty 'sleep 100' 2> >(exec sleep .7) | true",
            ] {
                let line = format!("{line}; exit ${{PIPESTATUS[0]}}");
                assert_eq!(bash(address, &line).2, Some(141), "{line}, {address}");
            }
        });
    });
}

const NOBODY: u32 = 48_011;

#[test]
fn a_program_of_another_user_can_reopen_its_streams() {
    if !can_be_others() {
        return;
    }
    in_process(|flavor| {
        let tcp = free_address();
        let rules = format!("uid={NOBODY},gid={NOBODY},allow_command=true,chdir=/");
        let server = Setup::new(flavor)
            .option("forkpty-urouter2", &format!("addr={{dir}}/u,{rules}"))
            .option("forkpty-urouter2", &format!("addr={tcp},{rules}"))
            .start();
        for address in [server.path("u"), tcp] {
            let line = "echo given | fpty 'cat /dev/stdin; echo out > /dev/stdout; \
                        echo x | tee /dev/stderr; echo err > /dev/stderr' 2> >(cat >&2) | cat; wait $!";
            let (stdout, stderr, _) = bash(&address, line);
            assert_eq!(stdout, "given\nout\nx\n", "{address}: {stderr}");
            assert_eq!(stderr, "x\nerr\n", "{address}");
            let line = "fpty 'echo $HOME $USER $LOGNAME $SHELL; id -u' | cat";
            let (stdout, stderr, _) = bash(&address, line);
            let wanted = format!("/ {NOBODY} {NOBODY} /bin/sh\n{NOBODY}\n");
            assert_eq!(stdout, wanted, "{address}: {stderr}");
        }
    });
}

/// Terminals that are handed over, and those that are relayed, by both
/// transports; and those that can be left.
fn terminals(flavor: &Flavor) -> (Vec<Server>, Vec<String>) {
    let tcp = free_address();
    let setup = |handover| {
        Setup::new(flavor)
            .option("forkpty-urouter", "{dir}/u")
            .option("forkptyrouter-handover", handover)
            .option("forkptyrouter-allow-command", "true")
    };
    let hands_over = setup("true").option("forkpty-urouter", &tcp).start();
    let relays = setup("false").start();
    let keeps = setup("true").option("forkptyrouter-detach", "9").start();
    let ways = vec![hands_over.path("u"), relays.path("u"), keeps.path("u"), tcp];
    (vec![hands_over, relays, keeps], ways)
}

#[test]
fn the_end_of_a_pipe_reaches_the_program_at_a_terminal() {
    in_process(|flavor| {
        let (_servers, ways) = terminals(flavor);
        side_by_side(&ways, |address| {
            // Before the terminal changes hands, at that moment, and after it.
            side_by_side(["0", ".03", ".5"], |pause| {
                for (input, command, wanted) in [
                    // More than waits anywhere: the last of it has to wait for room.
                    ("yes $(printf %0100d 0) | head -800", "wc -c", "80800"),
                    ("printf 'a\\n'", "cat; cat; wc -c", "0"),
                    ("printf abc", "cat; echo", "abc"),
                    ("true", "wc -c", "0"),
                ] {
                    let line = format!(
                        "(sleep {pause}; {input}) | timeout 20 \"$FPTY\" -t {address} \
                         'stty -echo; {command}; exit 5'; exit ${{PIPESTATUS[1]}}"
                    );
                    let (stdout, stderr, status) = bash(address, &line);
                    assert_eq!(status, Some(5), "{line}: {stdout} {stderr}");
                    assert!(stdout.contains(&format!("{wanted}\r\n")), "{line}: {stdout:?}");
                }
                let line = format!(
                    "(sleep {pause}; printf 'exit 3\\n') | timeout 20 \"$FPTY\" {address}; \
                     exit ${{PIPESTATUS[1]}}"
                );
                assert_eq!(bash(address, &line).2, Some(3), "{line}");
            });
        });
    });
}

/// Sends a query to the terminal in pieces, with a pause between them, while nobody is
/// attached from the first pause on; returns how often it is answered.
#[track_caller]
fn answers(server: &Server, before: &str, after: &[&str]) -> usize {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (go, done) = (file("go"), file("done"));
    let pieces: String =
        after.iter().map(|piece| format!("printf '{piece}'; sleep .15; ")).collect();
    let line = format!(
        "stty raw -echo; printf 'here{before}'; until [ -e {go} ]; do sleep .02; done; {pieces} \
         sleep .3; stty min 0 time 3; dd bs=99 count=9 2>/dev/null | od -An -v -tx1 | tr -d ' \\n' \
         > {done}.new; mv {done}.new {done}; stty sane; echo\n"
    );
    let mut client = AttachClient::begins(server, &[]).takes();
    match client.offer.as_str() {
        "r" => {
            client.say(&input(&line));
            client.waits("the first piece", |client| {
                String::from_utf8_lossy(&client.output).contains(&format!("here{}", shown(before)))
            });
        }
        _ => {
            client.terminal().send(&line);
            client.terminal().read_until(&format!("here{}", shown(before)));
        }
    }
    let id = client.leaves();
    std::fs::write(&go, "").expect("a file");
    wait_until("it has read its answers", || std::path::Path::new(&done).exists());
    AttachClient::comes(server, &id, &[]).takes().ends_it();
    let read = std::fs::read_to_string(&done).expect("what it has read");
    read.matches("1b5b3f").count()
}

/// Output of printf(1) for a piece.
fn shown(piece: &str) -> String {
    piece.replace("\\033", "\x1b")
}

#[test]
fn a_terminal_query_in_pieces_is_answered_once() {
    in_process(|flavor| {
        side_by_side(["true", "false"], |handover| {
            let server = Setup::new(flavor)
                .option("forkpty-urouter", "{dir}/u")
                .option("forkptyrouter-handover", handover)
                .option("forkptyrouter-detach", "20")
                .start();
            let all: [(&[&str], usize); 11] = [
                (&["\\033[c"], 1),
                (&["\\033[", "c"], 1),
                (&["\\033", "[c"], 1),
                (&["\\033", "[", "c"], 1),
                (&["\\033[0", "c", "more"], 1),
                (&["\\033", "Z"], 1),
                (&["some\\033[", "0", "c\\033", "[1mmore"], 1),
                (&["\\033[1", "c"], 0),
                (&["\\033[>", "c"], 0),
                (&["\\033[", "\\030c"], 0),
                (&["c"], 0),
            ];
            side_by_side(all, |(pieces, wanted)| {
                assert_eq!(answers(&server, "", pieces), wanted, "{handover}: {pieces:?}");
            });
        });
    });
}

#[test]
fn a_terminal_query_is_answered_by_whoever_was_attached_at_its_end() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .option("forkpty-urouter", "{dir}/u")
            .option("forkptyrouter-handover", "false")
            .option("forkptyrouter-detach", "9")
            .start();
        // The client's terminal has answered that, or not.
        let all: [(&str, &[&str], usize); 4] = [
            ("\\033[c", &["more", "and more"], 0),
            ("\\033[c", &["\\033[", "c"], 1),
            ("\\033[", &["c"], 1),
            ("\\033", &["[", "c"], 1),
        ];
        side_by_side(all, |(before, after, wanted)| {
            assert_eq!(answers(&server, before, after), wanted, "{before} {after:?}");
        });
    });
}
