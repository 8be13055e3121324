//! The registry in small: it does what the machine says, with numbers for
//! descriptors, in every order of what can happen.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

struct Numbers;

/// There is one for each session; it is moved, and never copied.
#[derive(Debug, PartialEq, Eq)]
struct Terminal;

#[derive(Debug, PartialEq, Eq)]
struct Pending(u32);

impl AttachTypes for Numbers {
    type Program = ();
    type Client = u32;
    type Terminal = Terminal;
    type Exited = ();
    type Pending = Pending;
}

/// Result of an attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    Session,
    TheEnd,
    IsTaken,
    Overtaken,
    HasEnded,
    NoSuch,
    /// The session's gateway was killed, and the client sees that.
    Closed,
}

/// Event of a session.
#[derive(Clone, Copy, Debug)]
enum Op {
    Comes { steal: bool },
    Answers,
    AsksToLeave { memory: bool },
    IsLost { memory: bool },
    Exits { is_told: bool },
    Kill,
    GatewayKilled { handed_over: bool },
    Passes(u64),
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => any::<bool>().prop_map(|steal| Op::Comes { steal }),
        2 => Just(Op::Answers),
        2 => any::<bool>().prop_map(|memory| Op::AsksToLeave { memory }),
        2 => any::<bool>().prop_map(|memory| Op::IsLost { memory }),
        1 => any::<bool>().prop_map(|is_told| Op::Exits { is_told }),
        1 => Just(Op::Kill),
        1 => any::<bool>().prop_map(|handed_over| Op::GatewayKilled { handed_over }),
        4 => (0_u64..4000).prop_map(Op::Passes),
        1 => (0_u64..2_000_000).prop_map(Op::Passes),
    ]
}

const TIME_LIMITS: TimeLimits = TimeLimits { detached: Duration::from_secs(1000), end: None };

struct World {
    now: Timestamp,
    /// `None`: there is no such session any more.
    state: Option<AttachState<Numbers>>,
    /// The client that is there, and has the terminal.
    live: Option<(u32, Terminal)>,
    was_told_to_go: bool,
    got: BTreeMap<u32, Got>,
    came: u32,
    terminals_hung_up: u32,
}

impl World {
    fn new() -> Self {
        let now = Timestamp::from((0, 1_000_000_000));
        Self {
            now,
            state: Some(AttachState::attached((), 0, now)),
            live: Some((0, Terminal)),
            was_told_to_go: false,
            got: BTreeMap::from([(0, Got::Session)]),
            came: 1,
            terminals_hung_up: 0,
        }
    }

    fn gets(&mut self, Pending(principal): Pending, what: Got) {
        assert_eq!(self.got.insert(principal, what), None, "{principal} is answered twice");
    }

    fn matches_prefix(&mut self, terminal: Terminal, pending: Pending) {
        assert!(self.live.is_none(), "two are attached");
        self.live = Some((pending.0, terminal));
        self.was_told_to_go = false;
        self.gets(pending, Got::Session);
    }

    /// The client is not there any more; whether it could leave the session.
    fn parts(&mut self, memory: bool) -> bool {
        let Some(state) = self.state.as_mut().filter(|_| memory) else {
            self.ends();
            return false;
        };
        let Some((_, terminal)) = self.live.take() else {
            return false;
        };
        match state.detach(terminal, |pending| pending.0, self.now) {
            DetachResult::Detached => assert_eq!(state.rank(), 2),
            DetachResult::PassedOn(terminal, pending) => self.matches_prefix(terminal, pending),
            DetachResult::NotAttached(_) => {
                panic!("a client leaves that the machine does not know")
            }
        }
        true
    }

    fn ends(&mut self) {
        if let Some(state) = self.state.take() {
            let ReleasedSession { terminal, pending, .. } = state.release();
            if let Some(pending) = pending {
                self.gets(pending, Got::HasEnded);
            }
            assert!(terminal.is_none() || self.live.is_none(), "two have the terminal");
            self.terminals_hung_up += u32::from(terminal.is_some());
        }
        self.terminals_hung_up += u32::from(self.live.take().is_some());
    }

    fn program_ends(&mut self, is_told: bool) {
        let Some(state) = &mut self.state else {
            return;
        };
        if state.has_exited() {
            return;
        }
        // Its client has seen how it ended, and nobody waits: that was all.
        let has_seen = is_told && self.live.is_some() && !self.was_told_to_go;
        if has_seen && state.pending().is_none() {
            return self.ends();
        }
        let waited = state.exit((), self.now);
        self.terminals_hung_up += 1;
        self.live = None;
        if let Some(pending) = waited {
            self.gets(pending, Got::TheEnd);
        }
    }

    fn overdue(&mut self) {
        while let Some(state) = &self.state {
            match state.overdue(TIME_LIMITS, self.now.boot) {
                Some(ExpiredDeadline::DropClient(client)) => {
                    assert_eq!(self.live.as_ref().map(|(it, _)| *it), Some(client));
                    self.parts(true);
                }
                Some(ExpiredDeadline::Expired) => self.ends(),
                None => return,
            }
        }
    }

    fn happens(&mut self, op: Op) {
        match op {
            Op::Comes { steal } => {
                let pending = Pending(self.came);
                self.came += 1;
                let Some(state) = &mut self.state else {
                    return self.gets(pending, Got::NoSuch);
                };
                match state.request_attach(pending, steal, |pending| pending.0, self.now) {
                    AttachDecision::Granted(terminal, pending) => {
                        self.matches_prefix(terminal, pending)
                    }
                    AttachDecision::ShowExited(pending) => self.gets(pending, Got::TheEnd),
                    AttachDecision::InUse(pending) => {
                        assert!(!steal && self.live.is_some());
                        self.gets(pending, Got::IsTaken);
                    }
                    AttachDecision::Wait { must_notify, displaced } => {
                        assert!(steal && self.live.is_some());
                        assert_eq!(must_notify, !self.was_told_to_go, "it is told once");
                        self.was_told_to_go = true;
                        if let Some(displaced) = displaced {
                            self.gets(displaced, Got::Overtaken);
                        }
                    }
                }
            }
            Op::Answers => {
                if let (Some(state), Some(_)) = (&mut self.state, &self.live) {
                    state.confirm_attach();
                }
            }
            // Where there is no memory it stays, and was told nothing else.
            Op::AsksToLeave { memory } => {
                if memory && self.live.is_some() {
                    assert!(self.parts(true), "one that was told that it can come back cannot");
                }
            }
            Op::IsLost { memory } => {
                if self.live.is_some() {
                    self.parts(memory);
                }
            }
            Op::Exits { is_told } => self.program_ends(is_told),
            Op::Kill => self.ends(),
            Op::GatewayKilled { handed_over } => self.gateway_is_killed(handed_over),
            Op::Passes(millis) => {
                let now = self.now.boot + Duration::from_millis(millis);
                self.now = Timestamp::from((0, now.as_nanos()));
                self.overdue();
            }
        }
    }

    fn gateway_is_killed(&mut self, handed_over: bool) {
        let Some(state) = self.state.take() else {
            return;
        };
        let (since, has_exited) = (state.since(), state.has_exited());
        let ReleasedSession { terminal, pending: waited, .. } = state.release();
        if let Some(pending) = waited {
            self.gets(pending, Got::Closed);
        }
        self.was_told_to_go = false;
        self.state = Some(match (self.live.take(), terminal) {
            _ if has_exited => AttachState::Exited((), since),
            (Some((client, terminal)), _) if handed_over => {
                self.live = Some((client, terminal));
                AttachState::attached((), client, self.now)
            }
            (Some((_, terminal)), _) => AttachState::detached((), terminal, self.now),
            (None, Some(terminal)) => AttachState::detached((), terminal, since),
            (None, None) => panic!("nobody has the terminal"),
        });
        self.overdue();
    }

    fn is_sane(&self) {
        let state = self.state.as_ref();
        let client = state.and_then(AttachState::client);
        assert_eq!(client, self.live.as_ref().map(|(client, _)| *client), "who is attached");
        let detached = u32::from(state.is_some_and(|state| state.terminal().is_some()));
        let terminals = u32::from(self.live.is_some()) + detached + self.terminals_hung_up;
        assert_eq!(terminals, 1, "who has the terminal");
        let waits = state.and_then(AttachState::pending).map(|pending| pending.0);
        for principal in 0..self.came {
            assert_ne!(
                self.got.contains_key(&principal),
                waits == Some(principal),
                "what {principal} got"
            );
        }
        let due = state.and_then(|state| state.due(TIME_LIMITS));
        if waits.is_some() {
            assert!(due.is_some_and(|due| due <= self.now.boot + DETACH_TIMEOUT), "somebody waits");
            assert!(self.was_told_to_go);
        }
        // It ends by itself but where somebody is there.
        assert!(due.is_some() || state.is_none() || self.live.is_some());
    }
}

proptest! {
    #[test]
    fn whatever_happens_one_has_the_terminal_and_everybody_hears(
        ops in proptest::collection::vec(ops(), 0..60),
    ) {
        let mut world = World::new();
        for op in ops {
            world.happens(op);
            world.is_sane();
        }
        // In the end nobody comes.
        world.happens(Op::IsLost { memory: true });
        world.is_sane();
        for _ in 0..8 {
            world.happens(Op::Passes(1_000_000));
            world.is_sane();
            if world.live.is_some() {
                world.happens(Op::IsLost { memory: true });
            }
        }
        prop_assert!(world.state.is_none(), "it is kept for ever");
        prop_assert_eq!(world.got.len(), world.came as usize);
    }
}

#[test]
fn who_waits_and_is_overtaken_hears_it_and_the_time_runs_on() {
    let mut world = World::new();
    world.happens(Op::Comes { steal: true });
    world.happens(Op::Passes(900));
    world.happens(Op::Comes { steal: true });
    assert_eq!(world.got.get(&1), Some(&Got::Overtaken));
    assert_eq!(world.live.as_ref().map(|(client, _)| *client), Some(0));
    world.happens(Op::Passes(100));
    assert_eq!(world.live.as_ref().map(|(client, _)| *client), Some(2));
}

#[test]
fn who_comes_and_does_not_answer_leaves_it_to_the_next() {
    let mut world = World::new();
    world.happens(Op::AsksToLeave { memory: true });
    world.happens(Op::Comes { steal: false });
    world.happens(Op::Comes { steal: false });
    assert_eq!(world.got.get(&2), Some(&Got::IsTaken));
    world.happens(Op::Passes(1999));
    assert!(world.live.is_some());
    world.happens(Op::Passes(1));
    assert!(world.live.is_none());
    world.happens(Op::Comes { steal: false });
    world.happens(Op::Answers);
    world.happens(Op::Passes(3_000_000));
    assert_eq!(world.live.as_ref().map(|(client, _)| *client), Some(3));
}

#[test]
fn who_waits_for_one_that_ends_sees_the_end() {
    let mut world = World::new();
    world.happens(Op::Comes { steal: true });
    world.happens(Op::Exits { is_told: true });
    assert_eq!(world.got.get(&1), Some(&Got::TheEnd));
    world.happens(Op::Passes(599_000));
    world.happens(Op::Comes { steal: false });
    assert_eq!(world.got.get(&2), Some(&Got::TheEnd));
    world.happens(Op::Passes(1_000));
    world.happens(Op::Comes { steal: false });
    assert_eq!(world.got.get(&3), Some(&Got::NoSuch));
}

#[test]
fn a_limit_ends_what_nobody_is_attached_to_and_no_other() {
    let end = BootInstant::from_nanos(0) + Duration::from_secs(10);
    let times = TimeLimits { end: Some(end), ..TIME_LIMITS };
    let now = Timestamp::from((0, 0));
    let mut state = AttachState::<Numbers>::attached((), 0, now);
    assert_eq!(state.overdue(times, end), None);
    assert!(matches!(state.detach(Terminal, |_| 1, now), DetachResult::Detached));
    assert_eq!(state.overdue(times, end), Some(ExpiredDeadline::Expired));
    assert_eq!(state.overdue(TIME_LIMITS, end), None);
    // A client that is not known leaves nothing.
    assert!(matches!(state.detach(Terminal, |_| 1, now), DetachResult::NotAttached(Terminal)));
}
