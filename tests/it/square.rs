//! The square of how sessions begin and how they end: whatever becomes of one, its
//! client, the audit, the list, the statistics, the numbers for Prometheus and the
//! table of processes tell the same story, and what it has taken of a limit is
//! given back.

use crate::harness::story::{End, House, Life, Mode, Plan, Told};
use crate::harness::tellers::Fate;
use crate::harness::users::{can_be_others, connecting_as};
use crate::harness::{Wire, servers};

/// At which sockets: those with no rules at all, those that let one in, and those
/// with rules for who comes in, how many of him, and as whom programs run.
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
pub fn begin(house: &House, kinds: &[&'static str], modes: &[Mode]) -> Vec<Life> {
    all(kinds, modes).iter().map(|(kind, mode)| house.begin(&door(kind, *mode))).collect()
}

/// Nobody else gets in at all.
#[track_caller]
fn is_full(house: &House, lives: &[Life]) {
    are_full(house, lives);
    let told = house.is_refused(&door("plain", lives[0].mode));
    assert!(is_a_refusal(&told), "{told:?}");
    if can_be_others() {
        let address = house.server.path(&door("ruled", lives[0].mode));
        let mut stranger = connecting_as(4001, || Wire::connect(&address));
        let told = stranger.text_to_end();
        assert_eq!(told, "forkptyrouter: session refused: not permitted\r\n");
    }
}

/// Nobody else gets in where one may.
#[track_caller]
pub fn are_full(house: &House, lives: &[Life]) {
    for life in lives.iter().filter(|life| !life.what.contains("plain")) {
        let told = house.is_refused(&door(kind_of(life), life.mode));
        assert!(is_a_refusal(&told), "{}: {told:?}", life.what);
    }
}

fn kind_of(life: &Life) -> &'static str {
    KINDS.into_iter().find(|kind| life.what.contains(kind)).expect("a kind")
}

fn is_a_refusal(told: &Told) -> bool {
    match told.status {
        Some(status) => status == 255 && told.json["kind"] == "refused",
        None => told.output.contains("session refused"),
    }
}

/// What has to be told of it; `None`: it goes on.
pub fn fate(life: &Life, end: End) -> Option<Fate> {
    let mode = life.mode;
    let told = |status: i32, kind: &'static str| Some((status, kind));
    // Raw mode does not tell how the program ended.
    let client = |status: i32, kind: &'static str| match mode {
        Mode::Raw => told(0, "exit"),
        _ => told(status, kind),
    };
    let lost = || Fate { reason: "lost", client: told(254, "lost"), ..Fate::default() };
    let fate = match end {
        End::Exit => {
            Fate { reason: "exit", status: Some(7), client: client(7, "exit"), signal: None }
        }
        End::Signal => {
            Fate { reason: "signal", status: None, client: client(137, "signal"), signal: Some(9) }
        }
        // A command's client is left by the second signal.
        End::Leave => {
            let status = if mode.has_terminal() { 0 } else { 128 + 15 };
            Fate { reason: "hangup", client: told(status, "left"), ..Fate::default() }
        }
        End::Lose => Fate { reason: "hangup", ..Fate::default() },
        End::Operator => {
            Fate { reason: "operator", client: client(254, "operator"), ..Fate::default() }
        }
        End::Limit => Fate { reason: "limit", client: client(254, "timeout"), ..Fate::default() },
        End::Stop if mode == Mode::Raw => lost(),
        End::Stop => Fate { reason: "lost", client: told(254, "stopped"), ..Fate::default() },
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
pub fn ends(house: &House, mut lives: Vec<Life>, end: End, fate: &dyn Fn(&Life) -> Option<Fate>) {
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
        return house.is_all_over(&when);
    }
    house.has_these(&format!("after {when}"), &others);
    // Who goes on has its seat still.
    others.iter_mut().for_each(Life::answers);
    are_full(house, &others);
    house.has_these(&format!("after {when}, and some refusals"), &others);
    if !others.is_empty() {
        let exits = |life: &Life| self::fate(life, End::Exit);
        ends(house, others, End::Exit, &exits);
    }
}

/// One row of the square: whatever began ends in one way.
#[track_caller]
fn row(end: End) {
    for gateways in [1, 4] {
        let mut plan = plan(gateways, &Mode::ALL, &|_| "");
        // The master writes the log for all then.
        if gateways > 1 {
            plan = plan.switch("log-master");
        }
        let house = plan.start();
        let lives = begin(&house, &KINDS, &Mode::ALL);
        is_full(&house, &lives);
        house.has_these("begun, and some refused", &lives);
        ends(&house, lives, end, &|life| fate(life, end));
        if end == End::Stop {
            continue;
        }
        // Each has given back what it had.
        let next = begin(&house, &KINDS, &Mode::ALL);
        house.has_these("begun again", &next);
        ends(&house, next, End::Stop, &|life| fate(life, End::Stop));
    }
}

/// Whatever begins is ended by a limit, in its time.
#[track_caller]
fn limit(modes: &[Mode], more: &dyn Fn(Mode) -> &'static str, reason: &'static str) {
    let house = plan(1, modes, more).start();
    for _ in 0..2 {
        let lives = begin(&house, &KINDS, modes);
        ends(&house, lives, End::Limit, &|life| {
            fate(life, End::Limit).map(|fate| Fate { reason, ..fate })
        });
    }
}

/// What outlives its gateway ends afterwards as it would have before: first comes one
/// thing, then the other.
#[track_caller]
fn after(first: End) {
    let modes = [Mode::HandedOver];
    let house = plan(1, &modes, &|_| "").start();
    for second in [
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
    ] {
        let mut lives = begin(&house, &KINDS, &modes);
        house.are_kept(lives.len());
        first.comes(&house, &mut lives, &[]);
        house.are_kept(lives.len());
        are_full(&house, &lives);
        house.has_these(&format!("{first:?} before {second:?}"), &lives);
        ends(&house, lives, second, &|life| fate(life, second));
    }
}

#[test]
fn a_program_exits() {
    row(End::Exit);
}

#[test]
fn a_signal_ends_it() {
    row(End::Signal);
}

#[test]
fn its_client_leaves() {
    row(End::Leave);
}

#[test]
fn its_client_is_killed() {
    row(End::Lose);
}

#[test]
fn an_operator_ends_it() {
    row(End::Operator);
}

#[test]
fn its_time_is_over() {
    limit(&Mode::ALL, &|_| "max_time=2", "limit");
}

#[test]
fn it_is_idle() {
    let modes = [Mode::Raw, Mode::Uwsgi, Mode::Relayed, Mode::Streams];
    let rule = |mode: Mode| if mode.has_terminal() { "idle=2" } else { "idle_commands=2" };
    limit(&modes, &rule, "idle");
}

#[test]
fn its_gateway_is_killed() {
    row(End::KillGateway);
}

#[test]
fn the_supervisor_is_killed() {
    row(End::KillSupervisor);
}

#[test]
fn the_supervisor_is_killed_and_then_its_gateway() {
    row(End::KillSupervisorThenGateway);
}

#[test]
fn both_are_killed() {
    row(End::KillBoth);
}

#[test]
fn the_instance_is_reloaded() {
    row(End::Reload);
}

#[test]
fn the_instance_stops() {
    row(End::Stop);
}

#[test]
fn after_its_gateway_was_killed() {
    after(End::KillGateway);
}

#[test]
fn after_the_supervisor_was_killed() {
    after(End::KillSupervisor);
}

#[test]
fn after_both_were_killed_one_by_one() {
    after(End::KillSupervisorThenGateway);
}

#[test]
fn after_a_reload() {
    after(End::Reload);
}

/// Whoever keeps it tells its end; the next gateway counts it, and has its seat free.
#[test]
fn while_there_is_no_gateway() {
    let modes = [Mode::HandedOver];
    let house = plan(1, &modes, &|_| "").start();
    for end in [End::Exit, End::Signal, End::Leave, End::Lose] {
        let mut lives = begin(&house, &KINDS, &modes);
        house.are_kept(lives.len());
        let dying: Vec<String> = lives.iter().map(|life| life.id.clone()).collect();
        house.without_gateways(|| end.comes(&house, &mut lives, &dying));
        ends(&house, lives, End::Limit, &|life| fate(life, end));
    }
}

/// One thing after the other on one instance, over TCP, all that has a terminal recorded.
#[test]
fn over_tcp_and_recorded() {
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
        house.has_these(&format!("before {end:?}"), &lives);
        ends(&house, lives, end, &|life| {
            let fate = fate(life, end)?;
            // A raw client over TCP does not know a killed router from an end.
            let knows = life.mode != Mode::Raw || fate.reason != "lost";
            Some(Fate { client: fate.client.filter(|_| knows), ..fate })
        });
    }
}
