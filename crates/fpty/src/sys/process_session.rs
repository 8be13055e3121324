//! Sessions of processes (setsid(2)): who leads one, and how all of one is
//! killed.
//!
//! A number means a process only until that is reaped, and a session only as
//! long as somebody is in it. So nothing is signalled that was not proved a
//! moment before to be what is meant.

use std::collections::{HashMap, HashSet};

use super::child::Pid;
use super::pidfd::{self, PidFd};
use super::process_identity::ProcessIdentity;
use super::procfs::{self, ProcessList};

/// A session's leader, and no other process that gets its number later.
#[derive(Debug)]
pub struct SessionLeader {
    pid: Pid,
    proof: Proof,
}

/// Proof that a process is still the noted leader.
#[derive(Debug)]
enum Proof {
    /// A child of this process that was not reaped.
    Child,
    Pidfd(PidFd),
    /// The time when it started (starttime of proc(5)'s stat), where no pidfd
    /// can be had: Linux before 5.3, or it is forbidden.
    Started(String),
}

impl SessionLeader {
    /// The one that was noted. `None` where it has ended, whoever has its
    /// number now, or where nothing proves that it is the same.
    pub fn open(noted: ProcessIdentity) -> Option<Self> {
        let pid = noted.pid();
        let proof = match PidFd::open(pid) {
            Some(pidfd) => Proof::Pidfd(pidfd),
            None => Proof::Started(procfs::stat(pid, 22)?),
        };
        let leader = Self { pid, proof };
        let is_it = match &leader.proof {
            Proof::Pidfd(pidfd) => noted.is(pidfd),
            _ => noted.has_begun(),
        };
        (is_it && session_of(pid) == Some(pid) && !leader.has_ended()).then_some(leader)
    }

    /// A child that leads a session and was not reaped; see
    /// [`SessionKiller::forget`].
    pub fn child(pid: Pid) -> Self {
        Self { pid, proof: Proof::Child }
    }

    /// The process id, as long as the leader was not reaped.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether the leader has ended, or is about to.
    pub fn has_ended(&self) -> bool {
        match &self.proof {
            Proof::Pidfd(pidfd) => pidfd.has_ended(),
            Proof::Child | Proof::Started(_) => self.is_over(),
        }
    }

    /// Whether the leader's number may be another process's by now.
    fn is_over(&self) -> bool {
        match &self.proof {
            Proof::Child => false,
            Proof::Pidfd(pidfd) => pidfd.is_over(),
            Proof::Started(at) => {
                procfs::stat(self.pid, 3).is_none_or(|state| state == "Z")
                    || procfs::stat(self.pid, 22).as_ref() != Some(at)
            }
        }
    }

    /// Whether the leader has a controlling terminal (proc(5), `tty_nr`), or that cannot be
    /// told.
    pub fn has_terminal(&self) -> bool {
        procfs::stat(self.pid, 7).is_none_or(|terminal| terminal != "0")
    }

    /// Sends SIGHUP and SIGCONT to the process group that the leader leads.
    pub fn hang_up(&self) {
        for number in [libc::SIGHUP, libc::SIGCONT] {
            let is_sent = match &self.proof {
                Proof::Pidfd(pidfd) => pidfd.signal_group(number),
                Proof::Child | Proof::Started(_) => false,
            };
            if !is_sent && !self.is_over() {
                super::child::signal_group(self.pid, number);
            }
        }
    }

    fn signal(&self, number: i32) {
        match &self.proof {
            Proof::Pidfd(pidfd) => pidfd.signal(number),
            Proof::Child | Proof::Started(_) => {
                if !self.is_over() {
                    let _ = self.pid.signal(number);
                }
            }
        }
    }
}

impl From<PidFd> for SessionLeader {
    fn from(pidfd: PidFd) -> Self {
        Self { pid: pidfd.pid(), proof: Proof::Pidfd(pidfd) }
    }
}

/// The session of a process (getsid(2)); `None` where there is no such one.
pub(super) fn session_of(pid: Pid) -> Option<Pid> {
    nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid.as_raw())))
        .ok()
        .and_then(|session| Pid::new(session.as_raw()))
}

/// Members of sessions that are held by a descriptor.
const MAX_HELD: usize = 16;

/// Kills every process of some sessions, step by step.
///
/// All sessions at once, because members are found by looking at all
/// processes, and a network that breaks leaves hundreds behind in the same
/// moment; in steps, because that takes a while on a large machine.
#[derive(Default)]
pub struct SessionKiller {
    leaders: HashMap<Pid, SessionLeader>,
    /// The listing that is under way.
    processes: Option<ProcessList>,
    members: HashSet<Pid>,
    /// Some members, each with its session, by pidfd: they are known whatever becomes
    /// of their leader.
    held: Vec<(Pid, PidFd)>,
    /// How many of them the listings before had found, and how many those are.
    before: usize,
    listings: u8,
}

impl SessionKiller {
    /// Stops the leaders.
    pub fn new(leaders: impl IntoIterator<Item = SessionLeader>) -> Self {
        let leaders: HashMap<Pid, SessionLeader> =
            leaders.into_iter().map(|leader| (leader.pid, leader)).collect();
        // All are stopped before any is killed: one that runs could start
        // another one in the place of the one just killed.
        for leader in leaders.values() {
            leader.signal(libc::SIGSTOP);
        }
        Self { leaders, ..Self::default() }
    }

    /// A leader was reaped: the number is no longer its own.
    pub fn forget(&mut self, leader: Pid) {
        self.leaders.remove(&leader);
    }

    /// Takes so many steps. Returns whether those were all, and everything is
    /// killed.
    pub fn step(&mut self, count: usize) -> bool {
        for _ in 0..count {
            let listing = self.processes.get_or_insert_with(ProcessList::new);
            let Some(some) = listing.next() else {
                // Until a listing has nobody new: who was stopped too late
                // has had a child in between. One that has them faster than
                // we look is not waited for.
                self.listings += 1;
                if self.members.len() == self.before || self.listings == 16 {
                    self.kill();
                    return true;
                }
                self.before = self.members.len();
                self.processes = None;
                continue;
            };
            for pid in some {
                if !self.members.contains(&pid) && self.session_of_member(pid).is_some() {
                    self.stop_member(pid);
                }
            }
        }
        false
    }

    /// The session, of those that are meant, that a process is in without
    /// leading it.
    fn session_of_member(&self, pid: Pid) -> Option<Pid> {
        let session = session_of(pid).filter(|session| *session != pid)?;
        let leads = self.leaders.get(&session).is_some_and(|leader| !leader.is_over());
        // As long as somebody is in it the number is no other session's.
        let is_meant = || self.held.iter().any(|(of, one)| *of == session && !one.is_over());
        (leads || is_meant()).then_some(session)
    }

    fn stop_member(&mut self, pid: Pid) {
        // First taken hold of, then looked at.
        let pidfd = PidFd::open(pid);
        let Some(session) = self.session_of_member(pid) else {
            return;
        };
        self.members.insert(pid);
        pidfd::signal(pid, pidfd.as_ref(), libc::SIGSTOP);
        self.held
            .extend(pidfd.filter(|_| self.held.len() < MAX_HELD).map(|pidfd| (session, pidfd)));
    }

    /// The leaders last: while one is there, its session keeps its number.
    fn kill(&self) {
        for member in &self.members {
            let pidfd = PidFd::open(*member);
            if self.session_of_member(*member).is_none() {
                continue;
            }
            pidfd::signal(*member, pidfd.as_ref(), libc::SIGKILL);
        }
        for leader in self.leaders.values() {
            leader.signal(libc::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    /// A session of a shell and its job, and the job.
    fn session() -> (Child, Pid) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "trap '' HUP; sleep 1000 & echo $!; wait"]).stdout(Stdio::piped());
        // SAFETY: setsid(2) is async-signal-safe.
        unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(|_| ())?)) };
        let mut shell = command.spawn().expect("a shell");
        let mut line = String::new();
        let output = shell.stdout.take().expect("a pipe");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("text");
        let job = line.trim().parse().ok().and_then(Pid::new).expect("a number");
        (shell, job)
    }

    fn pid(child: &Child) -> Pid {
        Pid::new(child.id() as i32).expect("above 1")
    }

    fn opened(pid: Pid) -> Option<SessionLeader> {
        SessionLeader::open(ProcessIdentity::running(pid)?)
    }

    /// Waits until a process was reaped by the one that inherited it.
    fn ends(pid: Pid) {
        for _ in 0..1000 {
            if session_of(pid).is_none() || procfs::stat(pid, 3).is_none_or(|state| state == "Z") {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("{pid} lives");
    }

    fn killed_by(listing: Option<ProcessList>, leader: impl Fn(Pid) -> SessionLeader) {
        let (mut shell, job) = session();
        let (mut other, other_job) = session();
        let mut killer = SessionKiller::new([leader(pid(&shell))]);
        killer.processes = listing;
        while !killer.step(16) {}
        shell.wait().expect("a child");
        ends(job);
        assert!(other.try_wait().expect("a child").is_none(), "another session lives");
        assert_eq!(session_of(other_job), Some(pid(&other)));
        let _ = SessionKiller::new([SessionLeader::child(pid(&other))]).step(usize::MAX);
        other.wait().expect("a child");
        ends(other_job);
    }

    #[test]
    fn a_session_is_killed_with_its_members_and_no_other() {
        killed_by(None, SessionLeader::child);
        killed_by(None, |pid| opened(pid).expect("a leader"));
        killed_by(None, |pid| {
            let started = procfs::stat(pid, 22).expect("a time");
            SessionLeader { pid, proof: Proof::Started(started) }
        });
    }

    #[test]
    fn members_are_found_by_their_numbers() {
        killed_by(Some(ProcessList::by_number()), SessionLeader::child);
    }

    /// The leader's number could be another process's by now: neither that process nor
    /// its session is signalled.
    #[test]
    fn a_leader_that_has_ended_is_not_mistaken_for_another() {
        let (mut shell, job) = session();
        let number = pid(&shell);
        let not_it = SessionLeader { pid: number, proof: Proof::Started(String::from("1")) };
        assert!(not_it.has_ended());
        assert!(SessionKiller::new([not_it]).step(usize::MAX));
        assert!(shell.try_wait().expect("a child").is_none());
        assert!(session_of(job).is_some());

        let noted = ProcessIdentity::running(number).expect("it runs");
        let leader = SessionLeader::open(noted).expect("a leader");
        shell.kill().expect("a child");
        shell.wait().expect("a child");
        assert!(leader.has_ended());
        assert!(SessionLeader::open(noted).is_none());
        assert!(SessionKiller::new([leader]).step(usize::MAX));
        let still = session_of(job).is_some();
        let _ = job.signal(libc::SIGKILL);
        assert!(still, "without a leader nothing proves whose session it is");
    }

    #[test]
    fn who_leads_no_session_is_no_leader() {
        let (mut shell, job) = session();
        assert!(opened(job).is_none());
        let _ = SessionKiller::new([SessionLeader::child(pid(&shell))]).step(usize::MAX);
        shell.wait().expect("a child");
    }
}
