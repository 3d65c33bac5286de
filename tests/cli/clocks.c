/* The clocks of a program, moved while it runs. Preloaded: the file that MOVED_CLOCKS names holds two numbers of 64 bits,
 * which are added to CLOCK_BOOTTIME and CLOCK_REALTIME, in seconds. CLOCK_MONOTONIC goes on as it does: it does not count
 * the time for which a machine sleeps. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *moved;

__attribute__((constructor)) static void find(void) {
    const char *path = getenv("MOVED_CLOCKS");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *there = mmap(NULL, 2 * sizeof *moved, PROT_READ, MAP_SHARED, file, 0);
    if (there == MAP_FAILED)
        abort();
    close(file);
    moved = there;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int outcome = (int)syscall(SYS_clock_gettime, clock, now);
    if (outcome == 0 && moved && clock == CLOCK_BOOTTIME)
        now->tv_sec += moved[0];
    if (outcome == 0 && moved && clock == CLOCK_REALTIME)
        now->tv_sec += moved[1];
    return outcome;
}
