//! Every state of a detachable session (attached, detached, viewed, stolen; handed over,
//! recorded, over TCP, with four gateways) with every kind of end. Whatever becomes of one,
//! its clients, the audit, the list, the statistics, the numbers for Prometheus, its
//! recording and the table of processes tell the same. Servers do not differ in that: one
//! is enough.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::instance::{Client, ClientReport, End, Instance, LiveSession, Mode, Plan};
use crate::harness::reports::ExpectedEnd;
use crate::harness::{process, servers, side_by_side, wait_until};

/// Where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At a UNIX socket: the client has the terminal.
    HandedOver,
    /// There, recorded: it is relayed.
    Recorded,
    /// At a TCP socket.
    Tcp,
    /// At a UNIX socket, with four gateways.
    Four,
    /// At a UNIX socket, with four gateways, recorded.
    FourRecorded,
}

pub(super) const PLACES: [Place; 5] =
    [Place::HandedOver, Place::Recorded, Place::Tcp, Place::Four, Place::FourRecorded];

/// State of a session before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Attached,
    Detached,
    Viewed,
    Stolen,
}

/// A session.
pub(super) struct Detachable {
    pub(super) what: String,
    pub(super) state: State,
    pub(super) id: String,
    pub(super) pid: i32,
    /// The attached client.
    pub(super) client: Option<Client>,
    pub(super) viewer: Option<Client>,
    /// Audit events of the session, without those of viewers.
    pub(super) story: Vec<&'static str>,
}

impl Place {
    /// An instance there, with these rules.
    pub(super) fn house(self, rules: &str) -> Instance {
        let plan = Plan::new(servers::any()).option("forkptyrouter-detach", "20");
        let plan = match self {
            Place::HandedOver => plan,
            Place::Recorded => plan.recorded(),
            Place::Tcp => plan.over_tcp(),
            Place::Four => plan.gateways(4),
            Place::FourRecorded => plan.gateways(4).recorded(),
        };
        // As many as begin, for each may begin again.
        let max = format!("max={}", self.states().len());
        let rules: Vec<&str> =
            [max.as_str(), rules].into_iter().filter(|it| !it.is_empty()).collect();
        plan.door("d", Mode::HandedOver, &rules.join(",")).start()
    }

    /// Over TCP one comes back by a word that only its client has.
    pub(super) fn states(self) -> &'static [State] {
        match self {
            Place::Tcp => &[State::Attached, State::Attached],
            _ => &[State::Attached, State::Detached, State::Viewed, State::Stolen],
        }
    }

    /// Whether its client goes on without the gateway.
    pub(super) fn is_handed_over(self) -> bool {
        matches!(self, Place::HandedOver | Place::Four)
    }
}

fn go_of(house: &Instance, id: &str) -> String {
    house.server.path(&format!("go-{id}"))
}

/// Runs a line in the session, now or when its client has reconnected.
#[track_caller]
pub(super) fn answers(client: &mut Client) {
    let mut round = 0;
    wait_until("it answers", || {
        round += 1;
        client.types(&format!("echo an''swer{round}\n"));
        let mark = format!("answer{round}");
        let mut seen = Vec::new();
        for _ in 0..10 {
            seen.extend(client.shown().read_for(Duration::from_millis(100)));
            if String::from_utf8_lossy(&seen).contains(&mark) {
                return true;
            }
        }
        false
    });
}

/// The client detaches.
#[track_caller]
fn leaves(client: Client, what: &str) {
    client.types("\r~d");
    let told = client.told(what);
    assert_eq!((told.status, told.json["kind"].as_str()), (Some(0), Some("detached")), "{told:?}");
}

#[track_caller]
pub(super) fn begin(house: &Instance, place: Place, state: State) -> Detachable {
    let life = house.begin("d");
    let LiveSession { id, pid, client, .. } = life;
    let what = format!("{state:?} at {place:?}");
    let mut one = Detachable {
        what,
        state,
        id,
        pid,
        client: Some(client),
        viewer: None,
        story: vec!["session-start"],
    };
    match state {
        State::Attached => {}
        State::Detached => {
            let go = go_of(house, &one.id);
            let client = one.client.take().expect("just begun");
            client.types(&format!("while ! test -e {go}; do sleep 0.02; done; exit 7\n"));
            leaves(client, &one.what);
            one.story.push("session-detach asked");
        }
        State::Viewed => {
            let mut viewer = house.comes_to("d", &one.id, &["--read-only"]);
            viewer.shown().read_until("ready ");
            one.viewer = Some(viewer);
        }
        State::Stolen => steal(house, &mut one),
    }
    one
}

/// Another client takes the session.
#[track_caller]
fn steal(house: &Instance, one: &mut Detachable) {
    let mut thief = house.comes_to("d", &one.id, &["--steal"]);
    if let Some(before) = one.client.take() {
        let told = before.told(&one.what);
        let wanted = (Some(254), Some("detached"));
        assert_eq!((told.status, told.json["kind"].as_str()), wanted, "{}: {told:?}", one.what);
        one.story.push("session-detach stolen");
        answers(&mut thief);
    } else {
        // Its program waits for something else.
        thief.shown().read_until("ready ");
    }
    one.story.push("session-attach");
    one.client = Some(thief);
}

/// Audit lines of the session, without those of viewers.
fn story(house: &Instance, id: &str) -> Vec<String> {
    let all = house.events(id).into_iter();
    all.filter(|line| !line.contains("watch")).collect()
}

/// All tell that these live, and how each is.
#[track_caller]
pub(super) fn live(house: &Instance, when: &str, all: &[Detachable]) {
    house.agrees(when);
    let alive = || house.list().into_iter().filter(|row| row["ended"] != true);
    // Who looks on comes back by itself, in its time.
    let looking_on = all.iter().filter(|one| one.viewer.is_some()).count();
    wait_until(&format!("{when}: {looking_on} look on"), || {
        alive().filter_map(|row| row["watchers"].as_u64()).sum::<u64>() == looking_on as u64
    });
    let living: Vec<Value> = alive().collect();
    assert_eq!(living.len(), all.len(), "{when}: {living:#?}");
    for one in all {
        let row = living.iter().find(|row| row["id"] == one.id.as_str());
        let row = row.unwrap_or_else(|| panic!("{when}: {} is in no list", one.what));
        assert_eq!(row["attached"], one.client.is_some(), "{when}: {}: {row}", one.what);
        let viewers = usize::from(one.viewer.is_some());
        assert_eq!(row["watchers"], viewers, "{when}: {}: {row}", one.what);
        assert_eq!(story(house, &one.id), one.story, "{when}: {}", one.what);
        assert!(process::Process::of(one.pid).is_some(), "{when}: {}", one.what);
    }
}

/// The session has ended, and all tell of it so.
#[track_caller]
pub(super) fn assert_ended(house: &Instance, when: &str, one: Detachable, fate: &ExpectedEnd) {
    let what = format!("{when}: {}", one.what);
    let told = one.client.map(|client| {
        let told = client.told(&what);
        // It has told that it has come back, before.
        let line = Some(told.line).filter(|line| !line.contains("; reconnecting"));
        ClientReport { line: line.unwrap_or_default(), ..told }
    });
    house.tells(&what, &one.id, told.as_ref(), fate);
    if let Some(viewer) = one.viewer {
        let watched = viewer.told(&what);
        let said = |told: &ClientReport| (told.status, told.json["kind"].clone());
        let told = told.expect("who is watched has a client");
        assert_eq!(said(&watched), said(&told), "{what}: {watched:?}");
    }
    let told = house.events(&one.id);
    let count = |event: &str| told.iter().filter(|line| line.starts_with(event)).count();
    assert_eq!(count("session-watch"), count("session-unwatch"), "{what}: {told:?}");
    let mut wanted: Vec<String> = one.story.iter().map(|line| (*line).to_owned()).collect();
    wanted.push(format!("session-end {}", fate.reason));
    assert_eq!(story(house, &one.id), wanted, "{what}");
}

/// The end of a session whose program exits.
pub(super) fn exit() -> ExpectedEnd {
    ExpectedEnd { reason: "exit", status: Some(7), client: Some((7, "exit")), signal: None }
}

pub(super) fn by(reason: &'static str, status: i32, kind: &'static str) -> ExpectedEnd {
    ExpectedEnd { reason, client: Some((status, kind)), ..ExpectedEnd::default() }
}

/// Each exits.
#[track_caller]
pub(super) fn exits(house: &Instance, one: &Detachable) {
    match &one.client {
        // Detachable that was left waits for this, whoever is there.
        _ if one.state == State::Detached => {
            std::fs::write(go_of(house, &one.id), "").expect("a file");
        }
        Some(client) => client.types("exit 7\n"),
        None => panic!("{}: nobody can end it", one.what),
    }
}

/// All of these end: what is told of each.
#[track_caller]
pub(super) fn all_end(house: &Instance, when: &str, all: Vec<Detachable>, fate: &ExpectedEnd) {
    for one in all {
        assert_ended(house, when, one, fate);
    }
    live(house, when, &[]);
}

/// Begins one of each, has something happen, and then has them go on to their end.
#[track_caller]
pub(super) fn row(
    when: &str,
    rules: &str,
    happens: impl Fn(&Instance, Place, Vec<Detachable>) -> Vec<Detachable> + Sync,
) {
    side_by_side(PLACES, |place| {
        let house = place.house(rules);
        for again in [false, true] {
            let when = format!("{when} at {place:?}{}", if again { ", again" } else { "" });
            let states = place.states();
            let mut all: Vec<Detachable> =
                states.iter().map(|state| begin(&house, place, *state)).collect();
            live(&house, &format!("{when}: begun"), &all);
            house.wait_until_kept(all.len());
            // There is no room for another one.
            let told = house.refused_client("d");
            assert_eq!(told.status, Some(255), "{when}: {told:?}");
            if again {
                // What they had is given back.
                all.iter().for_each(|one| exits(&house, one));
                all_end(&house, &when, all, &exit());
                break;
            }
            all = happens(&house, place, all);
            if all.is_empty() {
                continue;
            }
            live(&house, &format!("{when}: they go on"), &all);
            for one in &mut all {
                if one.client.is_none() && place != Place::Tcp {
                    steal(&house, one);
                }
                if one.state != State::Detached {
                    one.client.as_mut().into_iter().for_each(answers);
                }
            }
            live(&house, &format!("{when}: they are found"), &all);
            all.iter().for_each(|one| exits(&house, one));
            all_end(&house, &when, all, &exit());
        }
    });
}

#[test]
fn detached_and_attached_sessions_end_by_exit() {
    row("exit", "", |house, _, all| {
        all.iter().for_each(|one| exits(house, one));
        all_end(house, "exit", all, &exit());
        Vec::new()
    });
}

#[test]
fn detached_and_attached_sessions_end_by_a_signal() {
    row("signal", "", |house, _, all| {
        all.iter().for_each(|one| process::signal(one.pid, Signal::SIGKILL));
        let fate = ExpectedEnd { signal: Some(9), ..by("signal", 137, "signal") };
        all_end(house, "signal", all, &fate);
        Vec::new()
    });
}

#[test]
fn attached_sessions_detach_when_clients_leave() {
    row("leave", "", |house, place, mut all| {
        for one in &mut all {
            if one.client.is_none() {
                steal(house, one);
            }
            // Over TCP it would need the word to come back.
            if place != Place::Tcp {
                leaves(one.client.take().expect("somebody is there"), &one.what);
                one.story.push("session-detach asked");
            }
        }
        all
    });
}

#[test]
fn attached_sessions_detach_when_clients_are_lost() {
    row("lose", "", |house, place, mut all| {
        for one in &mut all {
            if one.client.is_none() {
                steal(house, one);
            }
            if place == Place::Tcp {
                continue;
            }
            let client = one.client.take().expect("somebody is there");
            let Client::Fpty { pipes, .. } = &client else { panic!("it is fpty") };
            process::signal(pipes.pid(), Signal::SIGKILL);
            drop(client.told(&one.what));
            one.story.push("session-detach lost");
        }
        all
    });
}

#[test]
fn sessions_can_be_attached_and_stolen() {
    row("steal", "", |house, place, mut all| {
        if place != Place::Tcp {
            all.iter_mut().for_each(|one| steal(house, one));
        }
        all
    });
}

#[test]
fn detached_and_attached_sessions_end_by_an_operator() {
    row("operator", "", |house, _, all| {
        for one in &all {
            let killed = house.fpty(&["--kill", &one.id]).output().expect("fpty runs");
            assert!(killed.status.success(), "{}: {killed:?}", one.what);
        }
        all_end(house, "operator", all, &by("operator", 254, "operator"));
        Vec::new()
    });
}

#[test]
fn detached_and_attached_sessions_end_by_their_time_limit() {
    side_by_side(PLACES, |place| {
        let house = place.house("max_time=4");
        let all = place.states().iter().map(|state| begin(&house, place, *state)).collect();
        all_end(&house, "max-time", all, &by("limit", 254, "timeout"));
    });
}

#[test]
fn detached_sessions_end_by_detach_time() {
    side_by_side([Place::HandedOver, Place::Recorded, Place::Four], |place| {
        let house = place.house("detach_time=1");
        let mut all: Vec<Detachable> =
            place.states().iter().map(|state| begin(&house, place, *state)).collect();
        let left = all.iter().position(|one| one.state == State::Detached).expect("one");
        assert_ended(&house, "detach-time", all.remove(left), &by("limit", 254, "timeout"));
        live(&house, "detach-time", &all);
        all.iter().for_each(|one| exits(&house, one));
        all_end(&house, "detach-time", all, &exit());
    });
}

#[test]
fn blocked_sessions_end_in_every_way() {
    side_by_side([Place::Recorded, Place::Tcp, Place::FourRecorded], |place| {
        let house = place.house("idle=3");
        let states = place.states().iter().filter(|state| **state != State::Detached);
        let all = states.map(|state| begin(&house, place, *state)).collect();
        all_end(&house, "idle", all, &by("idle", 254, "timeout"));
    });
}

/// Over TCP nobody comes back without its word: an operator ends it then.
#[test]
fn sessions_over_tcp_detach_when_clients_are_lost() {
    let house = Place::Tcp.house("");
    for way in ["", "kill", "reload"] {
        let mut one = begin(&house, Place::Tcp, State::Attached);
        let client = one.client.take().expect("just begun");
        let Client::Fpty { pipes, .. } = &client else { panic!("it is fpty") };
        process::signal(pipes.pid(), Signal::SIGKILL);
        drop(client.told(&one.what));
        one.story.push("session-detach lost");
        let mut all = vec![one];
        live(&house, "it is lost", &all);
        house.wait_until_kept(1);
        match way {
            "kill" => End::KillGateway.comes(&house, &mut [], &[]),
            "reload" => End::Reload.comes(&house, &mut [], &[]),
            _ => {}
        }
        live(&house, "it goes on", &all);
        let one = all.remove(0);
        let killed = house.fpty(&["--kill", &one.id]).output().expect("fpty runs");
        assert!(killed.status.success(), "{killed:?}");
        assert_ended(&house, way, one, &by("operator", 254, "operator"));
        live(&house, "it has ended", &all);
    }
}

#[test]
fn sessions_end_by_a_stop() {
    side_by_side(PLACES, |place| {
        let house = place.house("");
        let all: Vec<Detachable> =
            place.states().iter().map(|state| begin(&house, place, *state)).collect();
        live(&house, "before the stop", &all);
        End::Stop.comes(&house, &mut [], &[]);
        for one in all {
            assert_ended(&house, "stop", one, &by("lost", 254, "stopped"));
        }
        house.assert_all_over(&format!("stop at {place:?}"));
    });
}
