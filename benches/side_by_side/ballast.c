/*
 * Preloaded into a server: makes it as large as one that has an application
 * in it. Private memory, in small pages: what fork(2) copies the tables of.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>

__attribute__((constructor)) static void take_memory(void)
{
	const char *megabytes = getenv("BALLAST_MEGABYTES");
	const size_t size = megabytes ? (size_t)atol(megabytes) << 20 : 0;
	size_t at;
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	/* Not for the programs of the sessions. */
	unsetenv("LD_PRELOAD");
	unsetenv("BALLAST_MEGABYTES");
	if (memory == MAP_FAILED)
		abort();
	madvise(memory, size, MADV_NOHUGEPAGE);
	for (at = 0; at < size; at += 4096)
		memory[at] = 1;
}
