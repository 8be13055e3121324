//! The square of sessions that can be left: attached, left, watched and stolen ones,
//! handed over, recorded, over TCP, and with four gateways. Whatever becomes of one, its
//! clients, the audit, the list, the statistics, the numbers for Prometheus, its
//! recording and the table of processes tell the same story. Servers do not differ in
//! that: one is enough.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::story::{Client, End, House, Life, Mode, Plan, Told};
use crate::harness::tellers::Fate;
use crate::harness::{process, servers, wait_until};

/// Where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At a UNIX socket: the client has the terminal.
    HandedOver,
    /// There, recorded: it is relayed.
    Recorded,
    /// At a TCP socket.
    Tcp,
    /// At a UNIX socket, with four gateways.
    Four,
    /// The same, recorded.
    FourRecorded,
}

const PLACES: [Place; 5] =
    [Place::HandedOver, Place::Recorded, Place::Tcp, Place::Four, Place::FourRecorded];

/// How it is with a session, before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Attached,
    Left,
    Watched,
    Stolen,
}

/// A session.
struct One {
    what: String,
    state: State,
    id: String,
    pid: i32,
    /// Who is attached.
    client: Option<Client>,
    watcher: Option<Client>,
    /// What the audit has told of it, without those who look on.
    story: Vec<&'static str>,
}

impl Place {
    /// An instance there, with these rules.
    fn house(self, rules: &str) -> House {
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
    fn states(self) -> &'static [State] {
        match self {
            Place::Tcp => &[State::Attached, State::Attached],
            _ => &[State::Attached, State::Left, State::Watched, State::Stolen],
        }
    }

    /// Whether its client goes on without the gateway.
    fn is_handed_over(self) -> bool {
        matches!(self, Place::HandedOver | Place::Four)
    }
}

fn go_of(house: &House, id: &str) -> String {
    house.server.path(&format!("go-{id}"))
}

/// It runs a line, now or when its client has come back.
#[track_caller]
fn answers(client: &mut Client) {
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

/// Its client leaves it.
#[track_caller]
fn leaves(client: Client, what: &str) {
    client.types("\r~d");
    let told = client.told(what);
    assert_eq!((told.status, told.json["kind"].as_str()), (Some(0), Some("detached")), "{told:?}");
}

#[track_caller]
fn begin(house: &House, place: Place, state: State) -> One {
    let life = house.begin("d");
    let Life { id, pid, client, .. } = life;
    let what = format!("{state:?} at {place:?}");
    let mut one = One {
        what,
        state,
        id,
        pid,
        client: Some(client),
        watcher: None,
        story: vec!["session-start"],
    };
    match state {
        State::Attached => {}
        State::Left => {
            let go = go_of(house, &one.id);
            let client = one.client.take().expect("just begun");
            client.types(&format!("while ! test -e {go}; do sleep 0.02; done; exit 7\n"));
            leaves(client, &one.what);
            one.story.push("session-detach asked");
        }
        State::Watched => {
            let mut watcher = house.comes_to("d", &one.id, &["--read-only"]);
            watcher.shown().read_until("ready ");
            one.watcher = Some(watcher);
        }
        State::Stolen => is_stolen(house, &mut one),
    }
    one
}

/// Somebody else takes it.
#[track_caller]
fn is_stolen(house: &House, one: &mut One) {
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

/// What the audit tells of it, without those who look on.
fn story(house: &House, id: &str) -> Vec<String> {
    let all = house.events(id).into_iter();
    all.filter(|line| !line.contains("watch")).collect()
}

/// All tell that these live, and how each is.
#[track_caller]
fn live(house: &House, when: &str, all: &[One]) {
    house.agrees(when);
    let alive = || house.list().into_iter().filter(|row| row["ended"] != true);
    // Who looks on comes back by itself, in its time.
    let looking_on = all.iter().filter(|one| one.watcher.is_some()).count();
    wait_until(&format!("{when}: {looking_on} look on"), || {
        alive().filter_map(|row| row["watchers"].as_u64()).sum::<u64>() == looking_on as u64
    });
    let living: Vec<Value> = alive().collect();
    assert_eq!(living.len(), all.len(), "{when}: {living:#?}");
    for one in all {
        let row = living.iter().find(|row| row["id"] == one.id.as_str());
        let row = row.unwrap_or_else(|| panic!("{when}: {} is in no list", one.what));
        assert_eq!(row["attached"], one.client.is_some(), "{when}: {}: {row}", one.what);
        let watchers = usize::from(one.watcher.is_some());
        assert_eq!(row["watchers"], watchers, "{when}: {}: {row}", one.what);
        assert_eq!(story(house, &one.id), one.story, "{when}: {}", one.what);
        assert!(process::Process::of(one.pid).is_some(), "{when}: {}", one.what);
    }
}

/// It has ended, and all tell of it so.
#[track_caller]
fn has_ended(house: &House, when: &str, one: One, fate: &Fate) {
    let what = format!("{when}: {}", one.what);
    let told = one.client.map(|client| {
        let told = client.told(&what);
        // It has told that it has come back, before.
        let line = Some(told.line).filter(|line| !line.contains("; coming back"));
        Told { line: line.unwrap_or_default(), ..told }
    });
    house.tells(&what, &one.id, told.as_ref(), fate);
    if let Some(watcher) = one.watcher {
        let watched = watcher.told(&what);
        let said = |told: &Told| (told.status, told.json["kind"].clone());
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

/// How it ends by itself.
fn exit() -> Fate {
    Fate { reason: "exit", status: Some(7), client: Some((7, "exit")), signal: None }
}

fn by(reason: &'static str, status: i32, kind: &'static str) -> Fate {
    Fate { reason, client: Some((status, kind)), ..Fate::default() }
}

/// Each exits.
#[track_caller]
fn exits(house: &House, one: &One) {
    match &one.client {
        // One that was left waits for this, whoever is there.
        _ if one.state == State::Left => {
            std::fs::write(go_of(house, &one.id), "").expect("a file");
        }
        Some(client) => client.types("exit 7\n"),
        None => panic!("{}: nobody can end it", one.what),
    }
}

/// All of these end: what is told of each.
#[track_caller]
fn all_end(house: &House, when: &str, all: Vec<One>, fate: &Fate) {
    for one in all {
        has_ended(house, when, one, fate);
    }
    live(house, when, &[]);
}

/// Begins one of each, has something happen, and then has them go on to their end.
#[track_caller]
fn row(when: &str, rules: &str, happens: impl Fn(&House, Place, Vec<One>) -> Vec<One>) {
    for place in PLACES {
        let house = place.house(rules);
        for again in [false, true] {
            let when = format!("{when} at {place:?}{}", if again { ", again" } else { "" });
            let states = place.states();
            let mut all: Vec<One> =
                states.iter().map(|state| begin(&house, place, *state)).collect();
            live(&house, &format!("{when}: begun"), &all);
            house.are_kept(all.len());
            // There is no room for another one.
            let told = house.is_refused("d");
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
                    is_stolen(&house, one);
                }
                if one.state != State::Left {
                    one.client.as_mut().into_iter().for_each(answers);
                }
            }
            live(&house, &format!("{when}: they are found"), &all);
            all.iter().for_each(|one| exits(&house, one));
            all_end(&house, &when, all, &exit());
        }
    }
}

#[test]
fn programs_exit() {
    row("exit", "", |house, _, all| {
        all.iter().for_each(|one| exits(house, one));
        all_end(house, "exit", all, &exit());
        Vec::new()
    });
}

#[test]
fn signals_end_them() {
    row("signal", "", |house, _, all| {
        all.iter().for_each(|one| process::signal(one.pid, Signal::SIGKILL));
        let fate = Fate { signal: Some(9), ..by("signal", 137, "signal") };
        all_end(house, "signal", all, &fate);
        Vec::new()
    });
}

#[test]
fn clients_leave() {
    row("leave", "", |house, place, mut all| {
        for one in &mut all {
            if one.client.is_none() {
                is_stolen(house, one);
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
fn clients_are_lost() {
    row("lose", "", |house, place, mut all| {
        for one in &mut all {
            if one.client.is_none() {
                is_stolen(house, one);
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
fn others_take_them() {
    row("steal", "", |house, place, mut all| {
        if place != Place::Tcp {
            all.iter_mut().for_each(|one| is_stolen(house, one));
        }
        all
    });
}

#[test]
fn an_operator_ends_them() {
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
fn their_time_is_over() {
    for place in PLACES {
        let house = place.house("max_time=4");
        let all = place.states().iter().map(|state| begin(&house, place, *state)).collect();
        all_end(&house, "max-time", all, &by("limit", 254, "timeout"));
    }
}

#[test]
fn nobody_comes_back_in_time() {
    for place in [Place::HandedOver, Place::Recorded, Place::Four] {
        let house = place.house("detach_time=1");
        let mut all: Vec<One> =
            place.states().iter().map(|state| begin(&house, place, *state)).collect();
        let left = all.iter().position(|one| one.state == State::Left).expect("one");
        has_ended(&house, "detach-time", all.remove(left), &by("limit", 254, "timeout"));
        live(&house, "detach-time", &all);
        all.iter().for_each(|one| exits(&house, one));
        all_end(&house, "detach-time", all, &exit());
    }
}

/// Who is relayed is lost, and comes back by itself.
#[track_caller]
fn are_back(house: &House, place: Place, all: &mut [One]) {
    for one in all {
        if let Some(client) = one.client.as_mut().filter(|_| !place.is_handed_over()) {
            answers(client);
            one.story.extend(["session-detach lost", "session-attach"]);
        }
    }
    house.agrees("all are back");
}

/// All of them come through that.
#[track_caller]
fn outlived(what: &str, end: End) {
    row(what, "", |house, place, mut all| {
        end.comes(house, &mut [], &[]);
        are_back(house, place, &mut all);
        all
    });
}

#[test]
fn gateways_are_killed() {
    outlived("kill", End::KillGateway);
}

/// Of one that ends while there is no gateway, the next one, or whoever keeps it, tells.
#[test]
fn programs_exit_without_a_gateway() {
    row("exit without a gateway", "", |house, place, all| {
        house.without_gateways(|| {
            all.iter().for_each(|one| match &one.client {
                Some(Client::Fpty { .. }) if place.is_handed_over() || one.state == State::Left => {
                    exits(house, one);
                }
                // Nobody else can end it there.
                Some(_) => process::signal(one.pid, Signal::SIGKILL),
                None => exits(house, one),
            });
            wait_until("they have ended", || {
                all.iter()
                    .all(|one| process::Process::of(one.pid).is_none_or(|one| one.is_zombie()))
            });
        });
        let mut all = all;
        for one in &mut all {
            // Whoever has it may have been told of the end before.
            if let Some(watcher) = one.watcher.take() {
                let told = watcher.told(&one.what);
                let kind = told.json["kind"].as_str().expect("a kind").to_owned();
                assert!(["exit", "signal", "lost"].contains(&kind.as_str()), "{told:?}");
            }
        }
        // Of those that are recorded the next gateway tells: their clients were lost with
        // the one before.
        let is_recorded = matches!(place, Place::Recorded | Place::FourRecorded);
        let is_relayed = |one: &&mut One| one.client.is_some() && is_recorded;
        all.iter_mut().filter(is_relayed).for_each(|one| one.story.push("session-detach lost"));
        let is_theirs = |one: &One| one.state == State::Left || place.is_handed_over();
        let (exited, killed): (Vec<_>, Vec<_>) = all.into_iter().partition(is_theirs);
        let killed_by = Fate { signal: Some(9), ..by("signal", 137, "signal") };
        exited.into_iter().for_each(|one| has_ended(house, "without", one, &exit()));
        all_end(house, "without", killed, &killed_by);
        Vec::new()
    });
}

/// Those of one gateway go on, whichever that was.
#[test]
fn one_of_four_gateways_is_killed() {
    let house = Place::Four.house("");
    for _ in 0..4 {
        let states = Place::Four.states();
        let all: Vec<One> = states.iter().map(|state| begin(&house, Place::Four, *state)).collect();
        house.are_kept(all.len());
        house.all_gateways().into_iter().for_each(|pid| house.kill_gateway(pid));
        live(&house, "one after the other", &all);
        all.iter().for_each(|one| exits(&house, one));
        all_end(&house, "one after the other", all, &exit());
    }
}

/// Again and again, in any order.
#[test]
fn all_of_that_happens_to_them() {
    row("all of that", "", |house, place, mut all| {
        for end in [End::Reload, End::KillSupervisor, End::Reload, End::KillGateway, End::Reload] {
            end.comes(house, &mut [], &[]);
            match end {
                End::KillSupervisor => {}
                _ => are_back(house, place, &mut all),
            }
            house.are_kept(all.len());
        }
        all
    });
}

#[test]
fn nothing_goes_either_way() {
    for place in [Place::Recorded, Place::Tcp, Place::FourRecorded] {
        let house = place.house("idle=3");
        let states = place.states().iter().filter(|state| **state != State::Left);
        let all = states.map(|state| begin(&house, place, *state)).collect();
        all_end(&house, "idle", all, &by("idle", 254, "timeout"));
    }
}

/// Over TCP nobody comes back without its word: an operator ends it then.
#[test]
fn clients_over_tcp_are_lost() {
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
        house.are_kept(1);
        match way {
            "kill" => End::KillGateway.comes(&house, &mut [], &[]),
            "reload" => End::Reload.comes(&house, &mut [], &[]),
            _ => {}
        }
        live(&house, "it goes on", &all);
        let one = all.remove(0);
        let killed = house.fpty(&["--kill", &one.id]).output().expect("fpty runs");
        assert!(killed.status.success(), "{killed:?}");
        has_ended(&house, way, one, &by("operator", 254, "operator"));
        live(&house, "it has ended", &all);
    }
}

#[test]
fn the_supervisor_is_killed() {
    row("supervisor", "", |house, _, all| {
        End::KillSupervisor.comes(house, &mut [], &[]);
        house.are_kept(all.len());
        all
    });
}

#[test]
fn the_supervisor_and_then_the_gateways() {
    row("one after the other", "", |house, place, mut all| {
        End::KillSupervisor.comes(house, &mut [], &[]);
        house.are_kept(all.len());
        End::KillGateway.comes(house, &mut [], &[]);
        are_back(house, place, &mut all);
        all
    });
}

#[test]
fn both_are_killed() {
    row("both", "", |house, _, all| {
        let ids: Vec<String> = all.iter().map(|one| one.id.clone()).collect();
        End::KillBoth.comes(house, &mut [], &ids);
        all_end(house, "both", all, &by("lost", 254, "lost"));
        Vec::new()
    });
}

#[test]
fn the_instance_is_reloaded() {
    outlived("reload", End::Reload);
}

#[test]
fn the_instance_stops() {
    for place in PLACES {
        let house = place.house("");
        let all: Vec<One> =
            place.states().iter().map(|state| begin(&house, place, *state)).collect();
        live(&house, "before the stop", &all);
        End::Stop.comes(&house, &mut [], &[]);
        for one in all {
            has_ended(&house, "stop", one, &by("lost", 254, "stopped"));
        }
        house.is_all_over(&format!("stop at {place:?}"));
    }
}
