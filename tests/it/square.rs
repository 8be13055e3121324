//! The square of how sessions begin and how they end: whatever becomes of one, its
//! client, the audit, the list, the statistics, the numbers for Prometheus and the
//! table of processes tell the same story, and what it has taken of a limit is
//! given back.

use crate::harness::servers;
use crate::harness::story::{End, House, Life, Mode, Plan, Told};
use crate::harness::tellers::Fate;
use crate::harness::users::can_be_others;

/// At which sockets: those with no rules at all, those that let one in, and those
/// with rules for who comes in, how many of him, and as whom programs run.
const KINDS: [&str; 3] = ["plain", "limited", "ruled"];

fn rules(kind: &str) -> &'static str {
    match kind {
        "limited" => "max=1",
        "ruled" if can_be_others() => {
            "allow_user=root,deny_user=4001,max_user=1,uid=65534,gid=65534,env=A=b"
        }
        "ruled" => "deny_user=root,max_user=1,env=A=b",
        _ => "",
    }
}

fn door(kind: &str, mode: Mode) -> String {
    format!("{kind}-{mode:?}")
}

/// An instance with a socket of each kind for each mode, with these rules more.
fn plan(more: &dyn Fn(Mode) -> &'static str) -> Plan {
    let all = KINDS.into_iter().flat_map(|kind| Mode::ALL.map(|mode| (kind, mode)));
    all.fold(Plan::new(servers::any()), |plan, (kind, mode)| {
        let all = [rules(kind), more(mode)];
        let all: Vec<&str> = all.into_iter().filter(|some| !some.is_empty()).collect();
        plan.door(&door(kind, mode), mode, &all.join(","))
    })
}

/// Begins one of each.
#[track_caller]
fn begin(house: &House) -> Vec<Life> {
    let all = KINDS.into_iter().flat_map(|kind| Mode::ALL.map(|mode| (kind, mode)));
    all.map(|(kind, mode)| house.begin(&door(kind, mode))).collect()
}

/// Nobody else gets in where one may.
#[track_caller]
fn are_full(house: &House, lives: &[Life]) {
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
fn fate(mode: Mode, end: End) -> Option<Fate> {
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
        End::KillGateway | End::KillSupervisorThenGateway | End::Reload => match mode {
            Mode::HandedOver => return None,
            _ => lost(),
        },
    };
    Some(fate)
}

/// Ends all of these, and compares.
#[track_caller]
fn ends(house: &mut House, mut lives: Vec<Life>, end: End, fate: &dyn Fn(Mode) -> Option<Fate>) {
    let when = format!("{end:?}");
    let dying: Vec<String> =
        lives.iter().filter(|life| fate(life.mode).is_some()).map(|life| life.id.clone()).collect();
    end.comes(house, &mut lives, &dying);
    let (over, mut others): (Vec<_>, Vec<_>) =
        lives.into_iter().partition(|life| fate(life.mode).is_some());
    for life in over {
        let (what, id, mode) = (format!("{when}: {}", life.what), life.id.clone(), life.mode);
        let told =
            (end != End::Lose && !(end == End::Leave && mode == Mode::Uwsgi)).then(|| life.told());
        house.tells(&what, &id, told.as_ref(), &fate(mode).expect("it has one"));
    }
    if end == End::Stop {
        return house.is_all_over(&when);
    }
    house.has_these(&format!("after {when}"), &others);
    // Who goes on has its seat still.
    others.iter_mut().for_each(Life::is_alive);
    are_full(house, &others);
    house.has_these(&format!("after {when}, and some refusals"), &others);
    if !others.is_empty() {
        let exits = |mode| self::fate(mode, End::Exit);
        ends(house, others, End::Exit, &exits);
    }
}

/// One row of the square: whatever began ends in one way.
#[track_caller]
fn row(end: End) {
    let mut house = plan(&|_| "").start();
    let lives = begin(&house);
    are_full(&house, &lives);
    house.has_these("begun, and some refused", &lives);
    ends(&mut house, lives, end, &|mode| fate(mode, end));
    if end == End::Stop {
        return;
    }
    // Each has given back what it had.
    let next = begin(&house);
    house.has_these("begun again", &next);
    ends(&mut house, next, End::Stop, &|mode| fate(mode, End::Stop));
}

/// Whatever begins is ended by a limit, in its time.
#[track_caller]
fn limit(more: &dyn Fn(Mode) -> &'static str, reason: &'static str) {
    let mut house = plan(more).start();
    for _ in 0..2 {
        let lives = begin(&house);
        ends(&mut house, lives, End::Limit, &|mode| {
            fate(mode, End::Limit).map(|fate| Fate { reason, ..fate })
        });
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
    limit(&|_| "max_time=2", "limit");
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
