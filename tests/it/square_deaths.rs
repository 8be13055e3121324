//! Sessions while those die, hang or are stopped who have to do with them: clients,
//! programs, one of several gateways, the supervisor, the master; in each moment.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::process::{self, Process};
use crate::harness::story::{End, Life, Mode};
use crate::harness::tellers::Fate;
use crate::harness::wait_until;
use crate::square::{KINDS, are_full, begin, door, ends, fate, plan};

/// What is no terminal's any more ignores that, and has a job that does: both are gone
/// after the grace.
#[track_caller]
fn ignored(modes: &[Mode], end: End) {
    let house = plan(1, modes, &|_| "").start();
    let mut lives = begin(&house, &["ruled"], modes);
    for life in &mut lives {
        life.runs("trap '' HUP; sleep 1000 & :", "stubborn");
    }
    ends(&house, lives, end, &|life| fate(life, end));
}

/// Its client is stopped when it happens, and hears of it later: nobody waits for that.
#[track_caller]
fn unheard(end: End) {
    let modes = [Mode::Raw, Mode::HandedOver, Mode::Relayed, Mode::Streams, Mode::Passed];
    let house = plan(1, &modes, &|_| "").start();
    let mut lives = begin(&house, &["ruled"], &modes);
    let dies = |life: &Life| fate(life, end).is_some();
    let dying: Vec<String> =
        lives.iter().filter(|life| dies(life)).map(|life| life.id.clone()).collect();
    lives.iter().for_each(|life| life.stops_its_client(true));
    end.comes(&house, &mut lives, &dying);
    if end != End::Stop {
        let others = lives.iter().filter(|life| !dies(life));
        house.has_these(&format!("{end:?}, and its client is stopped"), others);
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
fn its_program_ignores_that_it_is_hung_up() {
    for end in [End::Leave, End::Lose, End::Operator, End::KillBoth, End::Stop] {
        ignored(&Mode::ALL, end);
    }
    let modes = [Mode::Raw, Mode::Uwsgi, Mode::Relayed, Mode::Streams, Mode::Passed];
    for end in [End::KillGateway, End::Reload] {
        ignored(&modes, end);
    }
}

#[test]
fn its_client_is_stopped() {
    for end in [
        End::Signal,
        End::Lose,
        End::Operator,
        End::KillGateway,
        End::KillSupervisor,
        End::KillBoth,
        End::Reload,
        End::Stop,
    ] {
        unheard(end);
    }
}

/// The others know nothing of it.
#[test]
fn one_of_four_gateways_is_killed() {
    let house = plan(4, &Mode::ALL, &|_| "").start();
    for _ in 0..3 {
        let lives = begin(&house, &KINDS, &Mode::ALL);
        let gateways = house.all_gateways();
        let of = |life: &Life| Process::of(life.pid).map(|program| program.parent);
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
fn gateways_are_killed_in_a_row() {
    let modes = [Mode::HandedOver];
    let house = plan(1, &modes, &|_| "").start();
    let lives = begin(&house, &KINDS, &modes);
    house.are_kept(lives.len());
    for round in 0..6 {
        let gateway = house.all_gateways()[0];
        process::signal(gateway, Signal::SIGKILL);
        wait_until("there is another", || house.all_gateways()[0] != gateway);
        std::thread::sleep(Duration::from_millis(round));
    }
    house.has_these("killed", &lives);
    are_full(&house, &lives);
    ends(&house, lives, End::Exit, &|life| fate(life, End::Exit));
}

/// Nobody waits for it.
#[test]
fn the_supervisor_hangs() {
    let house = plan(1, &Mode::ALL, &|_| "").start();
    let mut lives = begin(&house, &KINDS, &Mode::ALL);
    let pid = house.supervisor().expect("it runs");
    process::signal(pid, Signal::SIGSTOP);
    for end in [End::Exit, End::Lose, End::Operator] {
        ends(&house, lives, end, &|life| fate(life, end));
        lives = begin(&house, &KINDS, &Mode::ALL);
    }
    process::signal(pid, Signal::SIGCONT);
    house.has_these("goes on", &lives);
    ends(&house, lives, End::Stop, &|life| fate(life, End::Stop));
}

/// Nobody of the house is left but what keeps sessions, which tells of all.
#[test]
fn the_master_is_killed() {
    for stubborn in [false, true] {
        let house = plan(1, &Mode::ALL, &|_| "").start();
        let mut lives = begin(&house, &["ruled"], &Mode::ALL);
        if stubborn {
            lives.iter_mut().for_each(|life| life.runs("trap '' HUP", "stubborn"));
        }
        house.are_kept(1);
        process::signal(house.server.master(), Signal::SIGKILL);
        for life in lives {
            let (what, id) = (format!("{}, {stubborn}", life.what), life.id.clone());
            // Its client has somebody to hear it from.
            let kind = if life.is_handed_over { "stopped" } else { "lost" };
            let lost = Fate { reason: "lost", client: Some((254, kind)), ..Fate::default() };
            house.tells(&what, &id, Some(&life.told()), &lost);
        }
        house.is_all_over("the master was killed");
    }
}

/// Clients come, and before or after their sessions have begun, somebody is killed.
#[test]
fn somebody_is_killed_while_they_begin() {
    let house = plan(1, &Mode::ALL, &|_| "").start();
    let kept = house.begin(&door("limited", Mode::HandedOver));
    for round in 0..21u32 {
        // Nobody hangs up a command whose gateway is killed before it has noted it.
        let comes = |mode: &&Mode| mode.has_terminal() || round % 3 != 0;
        let all = Mode::ALL.iter().filter(comes);
        let come: Vec<_> = all.map(|mode| house.comes(&door("plain", *mode))).collect();
        // Each time a little later: it is about what is half done.
        std::thread::sleep(round / 3 * Duration::from_millis(1));
        match round % 3 {
            0 => house.kill_gateway(house.all_gateways()[0]),
            1 => process::signal(house.supervisor().expect("it keeps one"), Signal::SIGKILL),
            _ => {}
        }
        drop(come);
        house.has_these(&format!("round {round}"), [&kept]);
    }
}
