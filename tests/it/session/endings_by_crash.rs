//! Sessions while clients, programs, one of several gateways, the supervisor or the master
//! are killed or stopped.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::instance::{End, LiveSession, Mode};
use crate::harness::process::{self, Process};
use crate::harness::reports::ExpectedEnd;
use crate::harness::{side_by_side, wait_until};
use crate::session::endings::{KINDS, assert_permits_taken, begin, door, ends, fate, plan};

/// A program without a terminal that ignores its hang-up, and has a job that does, too:
/// both are gone after the grace.
#[track_caller]
fn ignored(modes: &[Mode], end: End) {
    let house = plan(1, modes, &|_| "").start();
    let mut lives = begin(&house, &["ruled"], modes);
    for life in &mut lives {
        life.runs("trap '' HUP; sleep 1000 & :", "stubborn");
    }
    ends(&house, lives, end, &|life| fate(life, end));
}

/// The client is stopped when the session ends, and hears of it later: nobody waits for
/// that.
#[track_caller]
fn unheard(end: End) {
    let modes = [Mode::Raw, Mode::HandedOver, Mode::Relayed, Mode::Streams, Mode::Passed];
    let house = plan(1, &modes, &|_| "").start();
    let mut lives = begin(&house, &["ruled"], &modes);
    let dies = |life: &LiveSession| fate(life, end).is_some();
    let dying: Vec<String> =
        lives.iter().filter(|life| dies(life)).map(|life| life.id.clone()).collect();
    lives.iter().for_each(|life| life.stops_its_client(true));
    end.comes(&house, &mut lives, &dying);
    if end != End::Stop {
        let others = lives.iter().filter(|life| !dies(life));
        house.assert_lists(&format!("{end:?}, and its client is stopped"), others);
    }
    lives.iter().for_each(|life| life.stops_its_client(false));
    // It has come already.
    match end {
        End::Stop => lives.into_iter().for_each(|life| {
            let (what, id, fate) = (life.what.clone(), life.id.clone(), fate(&life, end).unwrap());
            house.tells(&what, &id, Some(&life.told()), &fate);
        }),
        _ => ends(&house, lives, End::Limit, &|life| fate(life, end)),
    }
}

#[test]
fn a_program_that_ignores_sighup_ends_in_every_way() {
    let all = [End::Leave, End::Lose, End::Operator, End::KillBoth, End::Stop];
    side_by_side(all, |end| ignored(&Mode::ALL, end));
    let modes = [Mode::Raw, Mode::Uwsgi, Mode::Relayed, Mode::Streams, Mode::Passed];
    side_by_side([End::KillGateway, End::Reload], |end| ignored(&modes, end));
}

#[test]
fn a_session_of_a_stopped_client_ends_in_every_way() {
    let all = [
        End::Signal,
        End::Lose,
        End::Operator,
        End::KillGateway,
        End::KillSupervisor,
        End::KillBoth,
        End::Reload,
        End::Stop,
    ];
    side_by_side(all, unheard);
}

/// The others know nothing of it.
#[test]
fn one_of_four_killed_gateways_ends_no_other_session() {
    let house = plan(4, &Mode::ALL, &|_| "").start();
    for _ in 0..3 {
        let lives = begin(&house, &KINDS, &Mode::ALL);
        let gateways = house.all_gateways();
        let of = |life: &LiveSession| Process::of(life.pid).map(|program| program.parent);
        let killed = of(&lives[0]).expect("it runs");
        let dying: Vec<bool> =
            lives.iter().map(|life| of(life) == Some(killed) && !life.is_handed_over).collect();
        let ids: Vec<String> = lives
            .iter()
            .zip(&dying)
            .filter(|(_, dies)| **dies)
            .map(|(life, _)| life.id.clone())
            .collect();
        house.kill_gateway(killed);
        assert_ne!(house.all_gateways(), gateways);
        ends(&house, lives, End::Limit, &|life| {
            ids.contains(&life.id).then(|| fate(life, End::KillBoth)).flatten()
        });
    }
}

/// One after the other, in the midst of taking up what the one before had.
#[test]
fn gateways_killed_in_a_row_lose_no_handed_over_session() {
    let modes = [Mode::HandedOver];
    let house = plan(1, &modes, &|_| "").start();
    let lives = begin(&house, &KINDS, &modes);
    house.wait_until_kept(lives.len());
    for round in 0..6 {
        let gateway = house.all_gateways()[0];
        process::signal(gateway, Signal::SIGKILL);
        wait_until("there is another", || house.all_gateways()[0] != gateway);
        std::thread::sleep(Duration::from_millis(round));
    }
    house.assert_lists("killed", &lives);
    assert_permits_taken(&house, &lives);
    ends(&house, lives, End::Exit, &|life| fate(life, End::Exit));
}

/// Nobody waits for a supervisor that hangs.
#[test]
fn a_hung_supervisor_delays_no_end() {
    let house = plan(1, &Mode::ALL, &|_| "").start();
    let mut lives = begin(&house, &KINDS, &Mode::ALL);
    let pid = house.supervisor().expect("it runs");
    process::signal(pid, Signal::SIGSTOP);
    for end in [End::Exit, End::Lose, End::Operator] {
        ends(&house, lives, end, &|life| fate(life, end));
        lives = begin(&house, &KINDS, &Mode::ALL);
    }
    process::signal(pid, Signal::SIGCONT);
    house.assert_lists("goes on", &lives);
    ends(&house, lives, End::Stop, &|life| fate(life, End::Stop));
}

/// Nothing of the instance is left but the supervisor, which reports all ends.
#[test]
fn a_killed_master_has_every_end_told() {
    side_by_side([false, true], |stubborn| {
        let house = plan(1, &Mode::ALL, &|_| "").start();
        let mut lives = begin(&house, &["ruled"], &Mode::ALL);
        if stubborn {
            lives.iter_mut().for_each(|life| life.runs("trap '' HUP", "stubborn"));
        }
        house.wait_until_kept(1);
        process::signal(house.server.master(), Signal::SIGKILL);
        for life in lives {
            let (what, id) = (format!("{}, {stubborn}", life.what), life.id.clone());
            // Its client has somebody to hear it from.
            let kind = if life.is_handed_over { "stopped" } else { "lost" };
            let lost =
                ExpectedEnd { reason: "lost", client: Some((254, kind)), ..ExpectedEnd::default() };
            house.tells(&what, &id, Some(&life.told()), &lost);
        }
        house.assert_all_over("the master was killed");
    });
}

/// Clients come, and before or after their sessions have begun, somebody is killed.
#[test]
fn processes_killed_while_sessions_begin_leave_nothing() {
    let house = plan(1, &Mode::ALL, &|_| "").start();
    let kept = house.begin(&door("limited", Mode::HandedOver));
    for round in 0..21u32 {
        let come: Vec<_> =
            Mode::ALL.iter().map(|mode| house.comes(&door("plain", *mode))).collect();
        // Each time a little later: it is about what is half done.
        std::thread::sleep(round / 3 * Duration::from_millis(1));
        match round % 3 {
            0 => house.kill_gateway(house.all_gateways()[0]),
            1 => process::signal(house.supervisor().expect("it keeps one"), Signal::SIGKILL),
            _ => {}
        }
        drop(come);
        house.assert_lists(&format!("round {round}"), [&kept]);
    }
}
