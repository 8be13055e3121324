//! Every kind of session with every kind of end: its client, the audit, the list, the
//! statistics, the numbers for Prometheus and the table of processes tell the same, and
//! its permit of a limit is given back.

use crate::harness::instance::{ClientReport, End, Instance, LiveSession, Mode, Plan};
use crate::harness::reports::ExpectedEnd;
use crate::harness::users::{can_be_others, connecting_as};
use crate::harness::{Wire, servers, side_by_side};

/// Kinds of sockets: with no rules at all, with room for one session, and with rules for
/// who may connect, how many of each user, and as whom programs run.
pub const KINDS: [&str; 3] = ["plain", "limited", "ruled"];

fn rules(kind: &str) -> &'static str {
    match kind {
        "limited" => "max=1",
        "ruled" if can_be_others() => {
            "allow_user=root,deny_user=4001,max_user=1,uid=65534,gid=65534,env=A=b"
        }
        "ruled" => "deny_user=4001,max_user=1,env=A=b",
        _ => "",
    }
}

pub fn door(kind: &str, mode: Mode) -> String {
    format!("{kind}-{mode:?}")
}

/// Each mode at each kind of socket.
fn all(kinds: &[&'static str], modes: &[Mode]) -> Vec<(&'static str, Mode)> {
    let of = |kind: &&'static str| modes.iter().map(|mode| (*kind, *mode)).collect::<Vec<_>>();
    kinds.iter().flat_map(of).collect()
}

/// An instance with a socket of each kind for each mode, with these rules more, and
/// with room for one session at each.
pub fn plan(gateways: usize, modes: &[Mode], more: &dyn Fn(Mode) -> &'static str) -> Plan {
    // Those with a limit of their own count for themselves.
    let most = (2 * modes.len()).to_string();
    let plan = Plan::new(servers::any()).gateways(gateways);
    let plan = plan.option("forkptyrouter-max-sessions", &most);
    all(&KINDS, modes).into_iter().fold(plan, |plan, (kind, mode)| {
        let all = [rules(kind), more(mode)];
        let all: Vec<&str> = all.into_iter().filter(|some| !some.is_empty()).collect();
        plan.door(&door(kind, mode), mode, &all.join(","))
    })
}

/// Begins one of each.
#[track_caller]
pub fn begin(house: &Instance, kinds: &[&'static str], modes: &[Mode]) -> Vec<LiveSession> {
    all(kinds, modes).iter().map(|(kind, mode)| house.begin(&door(kind, *mode))).collect()
}

/// No further client gets in at all.
#[track_caller]
fn assert_full(house: &Instance, lives: &[LiveSession]) {
    assert_permits_taken(house, lives);
    let told = house.refused_client(&door("plain", lives[0].mode));
    assert!(is_a_refusal(&told), "{told:?}");
    if can_be_others() {
        let address = house.server.path(&door("ruled", lives[0].mode));
        let mut stranger = connecting_as(4001, || Wire::connect(&address));
        let told = stranger.text_to_end();
        assert_eq!(told, "forkptyrouter: session refused: not permitted\r\n");
    }
}

/// No further client gets in at sockets with a limit of sessions.
#[track_caller]
pub fn assert_permits_taken(house: &Instance, lives: &[LiveSession]) {
    for life in lives.iter().filter(|life| !life.what.contains("plain")) {
        let told = house.refused_client(&door(kind_of(life), life.mode));
        assert!(is_a_refusal(&told), "{}: {told:?}", life.what);
    }
}

fn kind_of(life: &LiveSession) -> &'static str {
    KINDS.into_iter().find(|kind| life.what.contains(kind)).expect("a kind")
}

fn is_a_refusal(told: &ClientReport) -> bool {
    match told.status {
        Some(status) => status == 255 && told.json["kind"] == "refused",
        None => told.output.contains("session refused"),
    }
}

/// The end of the session that has to be reported; `None`: it goes on.
pub fn fate(life: &LiveSession, end: End) -> Option<ExpectedEnd> {
    let mode = life.mode;
    let told = |status: i32, kind: &'static str| Some((status, kind));
    // Raw mode does not tell how the program ended.
    let client = |status: i32, kind: &'static str| match mode {
        Mode::Raw => told(0, "exit"),
        _ => told(status, kind),
    };
    let lost =
        || ExpectedEnd { reason: "lost", client: told(254, "lost"), ..ExpectedEnd::default() };
    let fate = match end {
        End::Exit => {
            ExpectedEnd { reason: "exit", status: Some(7), client: client(7, "exit"), signal: None }
        }
        End::Signal => ExpectedEnd {
            reason: "signal",
            status: None,
            client: client(137, "signal"),
            signal: Some(9),
        },
        // A command's client is left by the second signal.
        End::Leave => {
            let status = if mode.has_terminal() { 0 } else { 128 + 15 };
            ExpectedEnd { reason: "hangup", client: told(status, "left"), ..ExpectedEnd::default() }
        }
        End::Lose => ExpectedEnd { reason: "hangup", ..ExpectedEnd::default() },
        End::Operator => ExpectedEnd {
            reason: "operator",
            client: client(254, "operator"),
            ..ExpectedEnd::default()
        },
        End::Limit => ExpectedEnd {
            reason: "limit",
            client: client(254, "timeout"),
            ..ExpectedEnd::default()
        },
        End::Stop if mode == Mode::Raw => lost(),
        End::Stop => {
            ExpectedEnd { reason: "lost", client: told(254, "stopped"), ..ExpectedEnd::default() }
        }
        End::KillSupervisor => return None,
        End::KillBoth => lost(),
        End::KillGateway | End::KillSupervisorThenGateway | End::Reload => {
            match life.is_handed_over {
                true => return None,
                false => lost(),
            }
        }
    };
    Some(fate)
}

/// Ends all of these, and compares.
#[track_caller]
pub fn ends(
    house: &Instance,
    mut lives: Vec<LiveSession>,
    end: End,
    fate: &dyn Fn(&LiveSession) -> Option<ExpectedEnd>,
) {
    let when = format!("{end:?}");
    let dying: Vec<String> =
        lives.iter().filter(|life| fate(life).is_some()).map(|life| life.id.clone()).collect();
    end.comes(house, &mut lives, &dying);
    let (over, mut others): (Vec<_>, Vec<_>) =
        lives.into_iter().partition(|life| fate(life).is_some());
    for life in over {
        let (what, id) = (format!("{when}: {}", life.what), life.id.clone());
        let fate = fate(&life).expect("it has one");
        house.tells(&what, &id, Some(&life.told()), &fate);
    }
    if end == End::Stop {
        return house.assert_all_over(&when);
    }
    house.assert_lists(&format!("after {when}"), &others);
    // Sessions that go on still have their permits.
    others.iter_mut().for_each(LiveSession::answers);
    assert_permits_taken(house, &others);
    house.assert_lists(&format!("after {when}, and some refusals"), &others);
    if !others.is_empty() {
        let exits = |life: &LiveSession| self::fate(life, End::Exit);
        ends(house, others, End::Exit, &exits);
    }
}

/// One row of the square: whatever began ends in one way.
#[track_caller]
fn row(end: End) {
    side_by_side([1, 4], |gateways| {
        let mut plan = plan(gateways, &Mode::ALL, &|_| "");
        // The master writes the log for all then.
        if gateways > 1 {
            plan = plan.switch("log-master");
        }
        let house = plan.start();
        let lives = begin(&house, &KINDS, &Mode::ALL);
        assert_full(&house, &lives);
        house.assert_lists("begun, and some refused", &lives);
        ends(&house, lives, end, &|life| fate(life, end));
        if end == End::Stop {
            return;
        }
        // Each has given back what it had.
        let next = begin(&house, &KINDS, &Mode::ALL);
        house.assert_lists("begun again", &next);
        ends(&house, next, End::Stop, &|life| fate(life, End::Stop));
    });
}

/// Whatever begins is ended by a limit, in its time.
#[track_caller]
fn limit(modes: &[Mode], more: &dyn Fn(Mode) -> &'static str, reason: &'static str) {
    let house = plan(1, modes, more).start();
    for _ in 0..2 {
        let lives = begin(&house, &KINDS, modes);
        ends(&house, lives, End::Limit, &|life| {
            fate(life, End::Limit).map(|fate| ExpectedEnd { reason, ..fate })
        });
    }
}

/// A session that outlives its gateway ends afterwards as it would have before: first
/// comes one thing, then the other.
#[track_caller]
fn after(first: End) {
    let modes = [Mode::HandedOver];
    let seconds = [
        End::Signal,
        End::Leave,
        End::Lose,
        End::Operator,
        End::KillGateway,
        End::KillSupervisor,
        End::KillSupervisorThenGateway,
        End::KillBoth,
        End::Reload,
        End::Stop,
    ];
    side_by_side(seconds.chunks(5), |seconds| {
        let house = plan(1, &modes, &|_| "").start();
        for &second in seconds {
            let mut lives = begin(&house, &KINDS, &modes);
            house.wait_until_kept(lives.len());
            first.comes(&house, &mut lives, &[]);
            house.wait_until_kept(lives.len());
            assert_permits_taken(&house, &lives);
            house.assert_lists(&format!("{first:?} before {second:?}"), &lives);
            ends(&house, lives, second, &|life| fate(life, second));
        }
    });
}

#[test]
fn every_session_ends_by_exit() {
    row(End::Exit);
}

#[test]
fn every_session_ends_by_a_signal() {
    row(End::Signal);
}

#[test]
fn every_session_ends_by_a_left_client() {
    row(End::Leave);
}

#[test]
fn every_session_ends_by_a_killed_client() {
    row(End::Lose);
}

#[test]
fn every_session_ends_by_an_operator() {
    row(End::Operator);
}

#[test]
fn every_session_ends_by_its_time_limit() {
    limit(&Mode::ALL, &|_| "max_time=2", "limit");
}

#[test]
fn every_session_ends_by_its_idle_timeout() {
    let modes = [Mode::Raw, Mode::Uwsgi, Mode::Relayed, Mode::Streams];
    let rule = |mode: Mode| if mode.has_terminal() { "idle=2" } else { "idle_commands=2" };
    limit(&modes, &rule, "idle");
}

#[test]
fn handed_over_sessions_survive_a_killed_gateway_and_others_end() {
    row(End::KillGateway);
}

#[test]
fn every_session_survives_a_killed_supervisor() {
    row(End::KillSupervisor);
}

#[test]
fn handed_over_sessions_survive_the_supervisor_and_then_the_gateway_killed() {
    row(End::KillSupervisorThenGateway);
}

#[test]
fn every_session_ends_with_killed_supervisor_and_gateway() {
    row(End::KillBoth);
}

#[test]
fn handed_over_sessions_survive_a_reload_and_others_end() {
    row(End::Reload);
}

#[test]
fn every_session_ends_by_a_stop() {
    row(End::Stop);
}

#[test]
fn a_handed_over_session_ends_as_ever_after_a_killed_gateway() {
    after(End::KillGateway);
}

#[test]
fn a_handed_over_session_ends_as_ever_after_a_killed_supervisor() {
    after(End::KillSupervisor);
}

#[test]
fn a_handed_over_session_ends_as_ever_after_supervisor_and_gateway_were_killed() {
    after(End::KillSupervisorThenGateway);
}

#[test]
fn a_handed_over_session_ends_as_ever_after_a_reload() {
    after(End::Reload);
}

/// The process that has the session reports its end; the next gateway counts it, and has
/// its permit free.
#[test]
fn an_end_without_a_gateway_is_told_and_its_permit_is_free() {
    let modes = [Mode::HandedOver];
    let house = plan(1, &modes, &|_| "").start();
    for end in [End::Exit, End::Signal, End::Leave, End::Lose] {
        let mut lives = begin(&house, &KINDS, &modes);
        house.wait_until_kept(lives.len());
        let dying: Vec<String> = lives.iter().map(|life| life.id.clone()).collect();
        house.without_gateways(|| end.comes(&house, &mut lives, &dying));
        ends(&house, lives, End::Limit, &|life| fate(life, end));
    }
}

/// One thing after the other on one instance, over TCP, all that has a terminal recorded.
#[test]
fn recorded_sessions_over_tcp_end_in_every_way() {
    let plan = Plan::new(servers::any()).recorded().over_tcp();
    let plan = Mode::ALL
        .into_iter()
        .fold(plan, |plan, mode| plan.door(&door("limited", mode), mode, "max=1"));
    let house = plan.start();
    for end in [
        End::Exit,
        End::Signal,
        End::Leave,
        End::Lose,
        End::Operator,
        End::KillGateway,
        End::Reload,
        End::Stop,
    ] {
        let lives = begin(&house, &["limited"], &Mode::ALL);
        house.assert_lists(&format!("before {end:?}"), &lives);
        ends(&house, lives, end, &|life| {
            let fate = fate(life, end)?;
            // A raw client over TCP does not know a killed gateway from an end.
            let knows = life.mode != Mode::Raw || fate.reason != "lost";
            Some(ExpectedEnd { client: fate.client.filter(|_| knows), ..fate })
        });
    }
}
