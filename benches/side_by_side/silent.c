/* A program that says nothing and waits: there are thousands of it. */
#if defined(__x86_64__)
#include <sys/syscall.h>

void _start(void)
{
    for (;;)
        __asm__ volatile("syscall" : : "a"(SYS_pause) : "rcx", "r11", "memory");
}
#else
#include <unistd.h>

int main(void)
{
    for (;;)
        pause();
}
#endif
