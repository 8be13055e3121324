/*
 * From clone(2) to execve(2), in C: the child runs in its parent's memory, and
 * Rust gives no word on what code it emits there.
 *
 * The memory is shared, because fork(2) copies the page tables: from a server
 * of some gigabytes a session would cost a tenth of a second. So is, at first,
 * the table of descriptors: among thousands of sessions a copy of it, and
 * closing what is in it, would cost more than all the rest.
 *
 * The parent waits until the program is executed, as with vfork(2), but not for
 * long: that may take seconds where a file system hangs. From then on both run,
 * in one memory: so the child has a stack of its own, calls nothing of the C
 * library, whose errno is the parent's, and writes nowhere but into its slot.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2U
#endif

/* The same in spawn.rs. */
struct forkpty_plan {
	char *const *paths; /* the first one that there is is executed */
	char *const *argv;
	char *const *envp;
	int streams[3]; /* what becomes 0, 1 and 2: low numbers, from 3 on */
	int highest; /* of these */
	int has_terminal; /* it is the first of them, and the others, too */
	int is_job; /* the foreground job of the parent's session, not a session */
	unsigned long nofile; /* the soft limit of descriptors; 0: the parent's */
	unsigned long not_default; /* a bit for each signal to set back */
	const char *folder; /* where it runs; NULL: where the parent is */
	int as_user; /* whether to become another */
	unsigned int uid;
	unsigned int gid;
	unsigned long count; /* of the groups below */
	const unsigned int *groups;
};

/* The same in spawn.rs. */
struct forkpty_slot {
	int in_use; /* the kernel clears it when the child leaves our memory */
	int apart; /* the child has descriptors of its own */
	int error; /* the errno of what failed, and above it at which step */
	int shares; /* it begins with the parent's descriptors, and no copy */
	struct forkpty_plan plan;
};

/* A system call that leaves errno alone: minus the errno of what failed. */
static inline long call(long number, long a, long b, long c, long d)
{
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;

	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3)
			 : "memory");
	return x0;
#else
	/* Here a parent may, at worst, say a wrong errno of its own. */
	long result = syscall(number, a, b, c, d);

	return result < 0 ? -errno : result;
#endif
}

/* The signals that are ignored or handled in this process, a bit for each. */
unsigned long forkpty_signals_not_default(void)
{
	/* The kernel's struct sigaction, which begins with the handler. */
	unsigned long action[8], signals = 0;
	int signal;

	for (signal = 1; signal < NSIG; signal++)
		if (syscall(SYS_rt_sigaction, signal, NULL, action, NSIG / 8) == 0 &&
		    action[0] != (unsigned long)SIG_DFL)
			signals |= 1UL << (signal & 63);
	return signals;
}

/* Close everything from 3 on: the program gets its streams and nothing else. */
static void close_the_rest(void)
{
	struct rlimit limit;
	long fd, end = 65536;

	if (call(SYS_close_range, 3, ~0U, 0, 0) == 0)
		return;
	/* Linux before 5.9, or it is forbidden. */
	if (call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, (long)&limit) == 0 && limit.rlim_cur < 1u << 20)
		end = (long)limit.rlim_cur;
	for (fd = 3; fd < end; fd++)
		call(SYS_close, fd, 0, 0, 0);
}

/* A table of descriptors of our own, with what is needed of the parent's. */
static long part_from_the_parents(int highest)
{
	if (call(SYS_close_range, highest + 1, ~0U, CLOSE_RANGE_UNSHARE, 0) == 0)
		return 0;
	return call(SYS_unshare, CLONE_FILES, 0, 0, 0);
}

/*
 * Executes the first of the paths that there is, as a shell looks for a
 * program (POSIX XCU 2.9.1.4): minus the errno of what failed. Of a file that
 * is there and may not be executed it says so, if no later one will do.
 */
static long execute(const struct forkpty_plan *plan)
{
	char *const *path;
	long failed = -ENOENT, forbidden = 0;

	for (path = plan->paths; *path; path++) {
		failed = call(SYS_execve, (long)*path, (long)plan->argv, (long)plan->envp, 0);
		if (failed == -EACCES)
			forbidden = failed;
		else if (failed != -ENOENT && failed != -ENOTDIR)
			return failed;
	}
	return forbidden ? forbidden : failed;
}

/* What failed, above the errno: 0, to execute it. */
enum { STEP_USER = 1 << 16, STEP_FOLDER = 2 << 16 };

/*
 * Becomes another user: the groups first and the user last, who may not change
 * them any more, nor do what else a parent may that is not root (its ambient
 * capabilities would outlive this, and the exec). Minus what failed. (The kernel's numbers: the C library would
 * change all threads of the parent's.)
 */
static long become_user(const struct forkpty_plan *plan)
{
	static const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3];
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	long failed;

	if ((failed = call(SYS_setgroups, plan->count, (long)plan->groups, 0, 0)) < 0 ||
	    (failed = call(SYS_setresgid, plan->gid, plan->gid, plan->gid, 0)) < 0 ||
	    (failed = call(SYS_setresuid, plan->uid, plan->uid, plan->uid, 0)) < 0)
		return failed - STEP_USER;
	/* What cannot be inherited is not ambient. */
	if (plan->uid != 0 && (failed = call(SYS_capset, (long)&header, (long)none, 0, 0)) < 0)
		return failed - STEP_USER;
	return 0;
}

/* Returns the errno of what failed; on success it does not return. */
static long become(struct forkpty_slot *slot)
{
	/* The kernel's struct sigaction; all zero is SIG_DFL. */
	static const unsigned long by_default[8];
	static const unsigned long none;
	const struct forkpty_plan *plan = &slot->plan;
	long signal, number, failed = 0, terminal = plan->streams[0];

	if (slot->shares && (failed = part_from_the_parents(plan->highest)) < 0)
		return -failed;
	__atomic_store_n(&slot->apart, 1, __ATOMIC_SEQ_CST);

	/*
	 * The server ignores half of the signals, and an ignored signal stays
	 * ignored across an exec; one that it handles must not be handled here,
	 * in the memory that we share, once it is unblocked.
	 */
	for (signal = 1; signal < NSIG; signal++)
		if (plan->not_default >> (signal & 63) & 1)
			call(SYS_rt_sigaction, signal, (long)by_default, 0, NSIG / 8);

	if (!plan->is_job) {
		if ((failed = call(SYS_setsid, 0, 0, 0, 0)) < 0)
			return -failed;
		if (plan->has_terminal &&
		    (failed = call(SYS_ioctl, terminal, TIOCSCTTY, 0, 0)) < 0)
			return -failed;
	} else {
		int group = (int)call(SYS_getpid, 0, 0, 0, 0);

		/* SIGTTOU, which this would raise, is blocked. */
		if ((failed = call(SYS_setpgid, 0, 0, 0, 0)) < 0 ||
		    (failed = call(SYS_ioctl, terminal, TIOCSPGRP, (long)&group, 0)) < 0 ||
		    (failed = call(SYS_prctl, PR_SET_PDEATHSIG, SIGHUP, 0, 0)) < 0)
			return -failed;
	}
	for (number = 0; number < 3; number++)
		if ((failed = call(SYS_dup3, plan->streams[number], number, 0, 0)) < 0)
			return -failed;
	close_the_rest();
	if (plan->nofile) {
		struct rlimit limit;

		if (call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, (long)&limit) == 0) {
			limit.rlim_cur = plan->nofile;
			call(SYS_prlimit64, 0, RLIMIT_NOFILE, (long)&limit, 0);
		}
	}
	if (plan->as_user && (failed = become_user(plan)) < 0)
		return -failed;
	if (plan->folder && (failed = call(SYS_chdir, (long)plan->folder, 0, 0, 0)) < 0)
		return STEP_FOLDER - failed;
	call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, NSIG / 8);
	return -execute(plan);
}

static int child(void *argument)
{
	struct forkpty_slot *slot = argument;

	slot->error = (int)become(slot);
	call(SYS_exit, 127, 0, 0, 0);
	return 0;
}

static int load(int *word)
{
	return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

/* Waits until the child has left our memory, at most for so many microseconds. */
static void wait_for(struct forkpty_slot *slot, long microseconds)
{
	struct timespec wait = { 0, microseconds * 1000 };
	int in_use = load(&slot->in_use);

	/* Not a private one: the kernel's wake is for the address as such. */
	if (in_use)
		syscall(SYS_futex, &slot->in_use, FUTEX_WAIT, in_use, &wait, NULL, 0);
}

/*
 * Starts the slot's program on its streams, as the leader of a session or as a
 * job of the parent's, on a stack that grows down from `stack`. Returns when the
 * streams may be closed here, and not before the program is executed, unless
 * that takes longer than so many microseconds: its pid, or minus an errno. The
 * slot, the stack and all that the plan points to must stay as they are until
 * `in_use` is 0; then `error` is the errno of what failed, or 0: it was executed.
 * In `noted`, unless it is NULL, the kernel writes the pid before the child runs:
 * whoever is killed now leaves no child that nobody knows of.
 */
pid_t forkpty_spawn(struct forkpty_slot *slot, void *stack, long patience, pid_t *noted)
{
	/* Linux before 5.9, and profiles that forbid it, cannot part again. */
	static int cannot_share;
	const int flags = CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD |
			  (noted ? CLONE_PARENT_SETTID : 0);
	const long moment = 200;
	sigset_t all, before;
	pid_t pid;

again:
	slot->apart = 0;
	slot->error = 0;
	slot->in_use = 1;
	slot->shares = !cannot_share;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	pid = clone(child, stack, flags | (slot->shares ? CLONE_FILES : 0), slot, noted, NULL,
		    &slot->in_use);
	if (pid < 0) {
		pid = -errno;
		slot->in_use = 0;
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (patience > 0)
		wait_for(slot, patience);
	while (load(&slot->in_use) && !load(&slot->apart))
		wait_for(slot, moment);
	if (pid > 0 && slot->shares && !load(&slot->apart) && slot->error != 0) {
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
		cannot_share = 1;
		goto again;
	}
	return pid;
}

/* Waits until the child has left our memory. */
void forkpty_wait(struct forkpty_slot *slot)
{
	while (load(&slot->in_use))
		wait_for(slot, 100 * 1000);
}
