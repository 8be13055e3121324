//! Detachable sessions where gateway or supervisor is killed, or the instance reloaded.
//! Servers do not differ in that: one is enough.

use nix::sys::signal::Signal;

use super::endings::{
    Detachable, Place, State, all_end, answers, assert_ended, begin, by, exit, exits, live, row,
};
use crate::harness::instance::{Client, End, Instance};
use crate::harness::reports::ExpectedEnd;
use crate::harness::{process, wait_until};

/// A relayed session loses its connection, and its client reconnects by itself.
#[track_caller]
fn wait_until_reconnected(house: &Instance, place: Place, all: &mut [Detachable]) {
    for one in all {
        if let Some(client) = one.client.as_mut().filter(|_| !place.is_handed_over()) {
            answers(client);
            one.story.extend(["session-detach lost", "session-attach"]);
        }
    }
    house.agrees("all are back");
}

/// All sessions come through a crash.
#[track_caller]
fn outlived(what: &str, end: End) {
    row(what, "", |house, place, mut all| {
        end.comes(house, &mut [], &[]);
        wait_until_reconnected(house, place, &mut all);
        all
    });
}

#[test]
fn sessions_survive_killed_gateways() {
    outlived("kill", End::KillGateway);
}

/// The end of a session that ends while there is no gateway is reported by the next
/// gateway, or by the supervisor.
#[test]
fn sessions_that_end_without_a_gateway_are_told() {
    row("exit without a gateway", "", |house, place, all| {
        house.without_gateways(|| {
            all.iter().for_each(|one| match &one.client {
                Some(Client::Fpty { .. })
                    if place.is_handed_over() || one.state == State::Detached =>
                {
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
            if let Some(viewer) = one.viewer.take() {
                let told = viewer.told(&one.what);
                let kind = told.json["kind"].as_str().expect("a kind").to_owned();
                assert!(["exit", "signal", "lost"].contains(&kind.as_str()), "{told:?}");
            }
        }
        // Of those that are recorded the next gateway tells: their clients were lost with
        // the one before.
        let is_recorded = matches!(place, Place::Recorded | Place::FourRecorded);
        let is_relayed = |one: &&mut Detachable| one.client.is_some() && is_recorded;
        all.iter_mut().filter(is_relayed).for_each(|one| one.story.push("session-detach lost"));
        let is_theirs = |one: &Detachable| one.state == State::Detached || place.is_handed_over();
        let (exited, killed): (Vec<_>, Vec<_>) = all.into_iter().partition(is_theirs);
        let killed_by = ExpectedEnd { signal: Some(9), ..by("signal", 137, "signal") };
        exited.into_iter().for_each(|one| assert_ended(house, "without", one, &exit()));
        all_end(house, "without", killed, &killed_by);
        Vec::new()
    });
}

/// Sessions of one of several gateways go on, whichever that was.
#[test]
fn sessions_survive_one_of_four_gateways_killed() {
    let house = Place::Four.house("");
    for _ in 0..4 {
        let states = Place::Four.states();
        let all: Vec<Detachable> =
            states.iter().map(|state| begin(&house, Place::Four, *state)).collect();
        house.wait_until_kept(all.len());
        house.all_gateways().into_iter().for_each(|pid| house.kill_gateway(pid));
        live(&house, "one after the other", &all);
        all.iter().for_each(|one| exits(&house, one));
        all_end(&house, "one after the other", all, &exit());
    }
}

/// Again and again, in any order.
#[test]
fn sessions_survive_every_event_in_any_order() {
    row("all of that", "", |house, place, mut all| {
        for end in [End::Reload, End::KillSupervisor, End::Reload, End::KillGateway, End::Reload] {
            end.comes(house, &mut [], &[]);
            match end {
                End::KillSupervisor => {}
                _ => wait_until_reconnected(house, place, &mut all),
            }
            house.wait_until_kept(all.len());
        }
        all
    });
}

#[test]
fn sessions_survive_a_killed_supervisor() {
    row("supervisor", "", |house, _, all| {
        End::KillSupervisor.comes(house, &mut [], &[]);
        house.wait_until_kept(all.len());
        all
    });
}

#[test]
fn sessions_survive_the_supervisor_and_then_the_gateways_killed() {
    row("one after the other", "", |house, place, mut all| {
        End::KillSupervisor.comes(house, &mut [], &[]);
        house.wait_until_kept(all.len());
        End::KillGateway.comes(house, &mut [], &[]);
        wait_until_reconnected(house, place, &mut all);
        all
    });
}

#[test]
fn sessions_end_with_killed_supervisor_and_gateway() {
    row("both", "", |house, _, all| {
        let ids: Vec<String> = all.iter().map(|one| one.id.clone()).collect();
        End::KillBoth.comes(house, &mut [], &ids);
        all_end(house, "both", all, &by("lost", 254, "lost"));
        Vec::new()
    });
}

#[test]
fn sessions_survive_a_reload() {
    outlived("reload", End::Reload);
}
