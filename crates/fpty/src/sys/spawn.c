/*
 * From vfork(2) to execve(2), in C: the child runs in its parent's memory, on
 * its parent's stack, and Rust gives no word on what code it emits there.
 *
 * vfork, because fork(2) copies the page tables: from a server of some
 * gigabytes a session would cost a tenth of a second.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

/* The same in spawn.rs. */
struct forkpty_plan {
	const char *path;
	char *const *argv;
	char *const *envp;
	int terminal;
	int own_session; /* or the foreground job of the parent's */
	int death_signal; /* sent when the parent's thread ends; 0: none */
	int restore_nofile; /* whether to set the soft limit below */
	unsigned long nofile;
	unsigned long not_default; /* a bit for each signal to set back */
};

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

/* Close everything from 3 on: the program gets its terminal and nothing else. */
static void close_the_rest(void)
{
	struct rlimit limit;
	int fd, end = 65536;

	if (syscall(SYS_close_range, 3U, ~0U, 0U) == 0)
		return;
	/* Linux before 5.9. */
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < 1u << 20)
		end = (int)limit.rlim_cur;
	for (fd = 3; fd < end; fd++)
		close(fd);
}

/* Returns the errno of what failed; on success it does not return. */
static int become(const struct forkpty_plan *plan)
{
	/* The kernel's struct sigaction; all zero is SIG_DFL. */
	static const unsigned long by_default[8];
	sigset_t none;
	int signal, terminal = plan->terminal;

	/*
	 * The server ignores half of the signals, and an ignored signal stays
	 * ignored across an exec; one that it handles must not be handled here,
	 * in the memory that we share, once it is unblocked. By the system call:
	 * the function keeps two real-time signals to itself.
	 */
	for (signal = 1; signal < NSIG; signal++)
		if (plan->not_default >> (signal & 63) & 1)
			syscall(SYS_rt_sigaction, signal, by_default, NULL, NSIG / 8);

	if (terminal < 3 && (terminal = fcntl(terminal, F_DUPFD, 3)) < 0)
		return errno;
	if (plan->own_session) {
		if (setsid() < 0 || ioctl(terminal, TIOCSCTTY, 0) < 0)
			return errno;
	} else {
		pid_t group = getpid();

		/* SIGTTOU, which this would raise, is blocked. */
		if (setpgid(0, 0) < 0 || ioctl(terminal, TIOCSPGRP, &group) < 0)
			return errno;
	}
	if (plan->death_signal && prctl(PR_SET_PDEATHSIG, plan->death_signal) < 0)
		return errno;
	if (dup2(terminal, 0) < 0 || dup2(terminal, 1) < 0 || dup2(terminal, 2) < 0)
		return errno;
	close_the_rest();
	if (plan->restore_nofile) {
		struct rlimit limit;

		if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
			limit.rlim_cur = plan->nofile;
			setrlimit(RLIMIT_NOFILE, &limit);
		}
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(plan->path, plan->argv, plan->envp);
	return errno;
}

/*
 * Starts the program on plan->terminal: as the leader of a session, or as a
 * job of the parent's.
 * Returns its pid, or -1; *error is 0, or the errno of what failed, and where
 * there is a pid, too, that child is about to end and wants to be reaped.
 */
pid_t forkpty_spawn(const struct forkpty_plan *plan, volatile int *error)
{
	sigset_t all, before;
	pid_t pid;

	*error = 0;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	pid = vfork();
	if (pid == 0) {
		*error = become(plan);
		_exit(127);
	}
	if (pid < 0)
		*error = errno;
	sigprocmask(SIG_SETMASK, &before, NULL);
	return pid;
}
