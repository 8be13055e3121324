//! Starts the program of a session; see spawn.c for what happens between
//! clone(2) and execve(2).

mod program;

use std::cell::UnsafeCell;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::child::Pid;
use nix::fcntl::OFlag;
use nix::sys::mman::MapFlags;

use super::memfd::{Mapping, READ_WRITE};
use super::pty::Slave;
use crate::error::{Context, Result};

use super::spawn::program::name;
pub use super::spawn::program::{ExecEnvironment, Program, ProgramUser, with_variables};

/// The program to start, as spawn.c has it.
#[repr(C)]
struct Plan {
    paths: *const *const libc::c_char,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
    streams: [libc::c_int; 3],
    highest: libc::c_int,
    has_terminal: libc::c_int,
    is_job: libc::c_int,
    nofile: libc::c_ulong,
    not_default: libc::c_ulong,
    folder: *const libc::c_char,
    as_user: libc::c_int,
    uid: libc::c_uint,
    gid: libc::c_uint,
    count: libc::c_ulong,
    groups: *const libc::c_uint,
}

/// The state of a start, as spawn.c has it.
#[repr(C)]
struct Slot {
    in_use: libc::c_int,
    apart: libc::c_int,
    error: libc::c_int,
    shares: libc::c_int,
    plan: Plan,
}

unsafe extern "C" {
    fn forkpty_spawn(
        slot: *mut Slot,
        stack: *mut libc::c_void,
        patience: libc::c_long,
        noted: *mut libc::pid_t,
    ) -> libc::pid_t;
    fn forkpty_wait(slot: *mut Slot);
}

/// Bytes of a child's stack, of which it uses a few hundred.
const STACK: usize = 8 * 1024;

/// Rooms that are kept for later programs.
const MAX_SPARE: usize = 2;

/// How long one program may take to be executed before others are not kept
/// waiting for it, in microseconds; after that nobody waits for a while.
const PATIENCE: libc::c_long = 5000;
const IMPATIENT: Duration = Duration::from_secs(1);

/// Descriptors 0, 1 and 2 of a program.
pub enum Streams<'a> {
    /// All three a terminal, which becomes the program's controlling one.
    Terminal(&'a Slave),
    /// Three descriptors; the program has no controlling terminal.
    Apart([BorrowedFd<'a>; 3]),
}

/// Result of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// The process runs, or is about to be executed: see [`Spawner::failure`].
    Running(Pid),
    /// The program cannot be executed: the errno.
    NotExecuted(i32),
}

/// Memory that one child needs until it has executed its program.
struct ChildSlot {
    slot: UnsafeCell<Slot>,
    paths: Vec<*const libc::c_char>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    more: Vec<CString>,
    program: Option<Arc<Program>>,
    /// The child's stack, in pages of its own: they are given back at once.
    stack: Mapping,
    /// The child, until it is known whether it was executed.
    leader: Option<Pid>,
}

impl ChildSlot {
    fn new() -> Result<Box<Self>> {
        // SAFETY: numbers and pointers, which may be zero; the child is given others.
        let slot = UnsafeCell::new(unsafe { std::mem::zeroed() });
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_STACK;
        Ok(Box::new(Self {
            slot,
            paths: Vec::new(),
            argv: Vec::new(),
            envp: Vec::new(),
            more: Vec::new(),
            program: None,
            stack: Mapping::new::<OwnedFd>(None, STACK, READ_WRITE, flags)
                .context("cannot start a process")?,
            leader: None,
        }))
    }

    fn is_in_use(&self) -> bool {
        // SAFETY: one word of a slot that lives, which the kernel clears: it is read as an
        // atomic, and by C, too.
        unsafe { AtomicI32::from_ptr(&raw mut (*self.slot.get()).in_use) }.load(Ordering::SeqCst)
            != 0
    }

    /// The errno of what failed; 0: nothing. Only once it is not in use.
    fn error(&self) -> i32 {
        // SAFETY: the child has left our memory.
        unsafe { (*self.slot.get()).error }
    }

    /// Whether the next program can have this slot: the last one was executed, or its
    /// failure was asked for.
    fn is_free(&self) -> bool {
        !self.is_in_use() && (self.leader.is_none() || self.error() == 0)
    }

    fn wait(&self) {
        // SAFETY: a slot that lives.
        unsafe { forkpty_wait(self.slot.get()) };
    }
}

/// Starts programs, and keeps what those need that are about to be executed.
pub struct Spawner {
    /// Boxed: each child has a pointer to its own.
    #[allow(clippy::vec_box)]
    rooms: Vec<Box<ChildSlot>>,
    /// Low numbers are kept for the streams of the next program: a child
    /// copies the descriptors up to them, and not those of all sessions.
    low: [OwnedFd; 3],
    nothing: OwnedFd,
    impatient_until: Option<Instant>,
    noted: Option<&'static AtomicU64>,
}

impl Spawner {
    /// Takes four descriptors.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn new() -> Result<Self> {
        let nothing = File::options().read(true).write(true).open("/dev/null");
        let nothing: OwnedFd = nothing.context("cannot open /dev/null")?.into();
        // From 3 on, as all that std copies.
        let one = || nothing.try_clone().context("cannot keep a descriptor");
        let low = [one()?, one()?, one()?];
        Ok(Self { rooms: Vec::new(), low, nothing, impatient_until: None, noted: None })
    }

    /// Starts a program as the leader of a new session (see
    /// [`Program::as_foreground_job`] for the exception), with descriptors 0, 1 and 2 as
    /// said and no others, every signal at its default and none blocked.
    /// Variables in `more` take the place of those of the same name. When this
    /// returns it has its own copies of the descriptors, and most often has
    /// been executed.
    ///
    /// # Errors
    /// There can be no more processes.
    pub fn spawn(
        &mut self,
        program: &Arc<Program>,
        streams: Streams<'_>,
        more: Vec<CString>,
    ) -> Result<Started> {
        let mut room = self.room()?;
        point_to(&program.paths, &mut room.paths);
        point_to(&program.argv, &mut room.argv);
        let ExecEnvironment { environment, descriptor_limit, folder, user } =
            &*program.surroundings;
        let kept = environment.iter();
        let kept = kept.filter(|pair| !more.iter().any(|new| name(pair) == name(new)));
        point_to(kept.chain(&more), &mut room.envp);
        room.more = more;
        room.program = Some(Arc::clone(program));
        room.leader = None;
        let (numbers, used) = self.lower(streams)?;
        let raised_limit = descriptor_limit.filter(|limit| limit.before != limit.now);
        room.slot.get_mut().plan = Plan {
            paths: room.paths.as_ptr(),
            argv: room.argv.as_ptr(),
            envp: room.envp.as_ptr(),
            streams: numbers,
            highest: numbers.into_iter().max().unwrap_or(-1),
            has_terminal: (used == 1).into(),
            is_job: program.job.into(),
            nofile: raised_limit.map_or(0, |limit| limit.before),
            not_default: program.not_default,
            folder: folder.as_ref().map_or(std::ptr::null(), |folder| folder.as_ptr()),
            as_user: user.is_some().into(),
            uid: user.as_ref().map_or(0, |user| user.uid),
            gid: user.as_ref().map_or(0, |user| user.gid),
            count: user.as_ref().map_or(0, |user| user.groups.len() as libc::c_ulong),
            groups: user.as_ref().map_or(std::ptr::null(), |user| user.groups.as_ptr()),
        };
        let now = Instant::now();
        let patience =
            if self.impatient_until.is_some_and(|until| now < until) { 0 } else { PATIENCE };
        let noted = self.noted.map_or(std::ptr::null_mut(), |word| word.as_ptr().cast());
        let top = room.stack.at(STACK, 0).cast();
        // SAFETY: the room, in a box, with all strings that the plan points
        // to, is kept until the child has left our memory. The stack is the
        // child's alone until then, and grows down from its end. The word that
        // the kernel writes to is there for good, and is an atomic.
        let pid = unsafe { forkpty_spawn(room.slot.get(), top, patience, noted) };
        let raised = self.raise(used);
        if patience > 0 {
            self.impatient_until = room.is_in_use().then(|| now + IMPATIENT);
        }
        room.leader = Pid::new(pid);
        let (leader, done) = (room.leader, !room.is_in_use());
        self.rooms.push(room);
        let Some(leader) = leader else {
            return Err(io::Error::from_raw_os_error(-pid)).context("cannot start a process");
        };
        raised?;
        Ok(match self.failure(leader).filter(|_| done) {
            Some((_, errno)) => {
                leader.reap();
                Started::NotExecuted(errno)
            }
            None => Started::Running(leader),
        })
    }

    /// The number of each program is to stand in the first half of this word, in
    /// memory that outlives us, before it runs (CLONE_PARENT_SETTID, clone(2)).
    pub fn note_in(&mut self, word: Option<&'static AtomicU64>) {
        self.noted = word;
    }

    /// A room that is free.
    fn room(&mut self) -> Result<Box<ChildSlot>> {
        match self.rooms.iter().position(|room| room.is_free()) {
            Some(index) => Ok(self.rooms.swap_remove(index)),
            None => ChildSlot::new(),
        }
    }

    /// Gives back what no child needs any more. Returns whether there is more
    /// to be given back later.
    pub fn tidy(&mut self) -> bool {
        if self.rooms.len() > MAX_SPARE {
            let mut free = 0;
            self.rooms.retain(|room| {
                free += usize::from(room.is_free());
                !room.is_free() || free <= MAX_SPARE
            });
        }
        self.rooms.len() > MAX_SPARE
    }

    /// Puts copies of a program's streams under low numbers: which, and how
    /// many of these.
    fn lower(&mut self, streams: Streams<'_>) -> Result<([libc::c_int; 3], usize)> {
        let low = self.low.each_ref().map(AsRawFd::as_raw_fd);
        match streams {
            Streams::Terminal(slave) => {
                put(slave, &mut self.low[0])?;
                Ok(([low[0]; 3], 1))
            }
            Streams::Apart(streams) => {
                streams.iter().zip(&mut self.low).try_for_each(|(it, low)| put(it, low))?;
                Ok((low, 3))
            }
        }
    }

    /// Takes the copies back.
    fn raise(&mut self, used: usize) -> Result<()> {
        self.low[..used].iter_mut().try_for_each(|low| put(&self.nothing, low))
    }

    /// Whether a program has been executed, and is neither about to be nor
    /// about to end because it could not be.
    pub fn has_executed(&self, leader: Pid) -> bool {
        self.rooms.iter().filter(|room| room.leader == Some(leader)).all(|room| room.is_free())
    }

    /// Whether a process that has ended never was the program: which, and the
    /// errno of what failed. To be asked once, when it was reaped.
    pub fn failure(&mut self, leader: Pid) -> Option<(Arc<Program>, i32)> {
        let of_leader =
            |room: &&mut Box<ChildSlot>| room.leader == Some(leader) && !room.is_in_use();
        let room = self.rooms.iter_mut().find(of_leader)?;
        room.leader = None;
        let errno = room.error();
        room.program.clone().filter(|_| errno != 0).map(|program| (program, errno))
    }

    /// Waits until a program has been executed.
    ///
    /// # Errors
    /// The program could not be executed: the errno; the process was reaped.
    pub fn wait(&mut self, leader: Pid) -> std::result::Result<(), i32> {
        if let Some(room) = self.rooms.iter().find(|room| room.leader == Some(leader)) {
            room.wait();
        }
        match self.failure(leader) {
            None => Ok(()),
            Some((_, errno)) => {
                leader.reap();
                Err(errno)
            }
        }
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        for room in &self.rooms {
            room.wait();
        }
    }
}

/// Puts a copy of a descriptor under a number that is kept for it.
fn put(fd: impl AsFd, low: &mut OwnedFd) -> Result<()> {
    nix::unistd::dup3(fd, low, OFlag::O_CLOEXEC).context("cannot pass the streams on")
}

/// Fills an array for execve(2), in the memory that it has: what is allocated
/// anew for each session lies about between what they keep.
fn point_to<'a>(
    strings: impl IntoIterator<Item = &'a CString>,
    array: &mut Vec<*const libc::c_char>,
) {
    array.clear();
    array.extend(strings.into_iter().map(|string| string.as_ptr()));
    array.push(std::ptr::null());
}
