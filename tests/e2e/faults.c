/* Faults of the machine, for a process started with LD_PRELOAD: a full disk, a failed fsync, a clock that jumps.
 *
 * The file named by FAULTS is shared memory: the test writes the numbers below, the process obeys at once. Only
 * SQLite's files (a path with ".sqlite" in it) are hurt.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct faults {
    int64_t full;   /* writes fail with ENOSPC */
    int64_t fsync;  /* fsync fails with EIO */
    int64_t kill;   /* the process is killed in its next fsync: 1 before, 2 after it is done */
    int64_t clock;  /* seconds that the wall clock is off */
};

static volatile struct faults *faults;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS");
    int file = path ? open(path, O_RDWR) : -1;
    if (file >= 0) {
        void *found = mmap(NULL, sizeof(struct faults), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        faults = found == MAP_FAILED ? NULL : found;
        close(file);
    }
}

static int of_a_store(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, ".sqlite") != NULL;
}

static int refuses(int file) {
    if (!faults || !faults->full || !of_a_store(file)) return 0;
    errno = ENOSPC;
    return 1;
}

ssize_t write(int file, const void *bytes, size_t count) {
    return refuses(file) ? -1 : syscall(SYS_write, file, bytes, count);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at) {
    return refuses(file) ? -1 : syscall(SYS_pwrite64, file, bytes, count, at);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) {
    return refuses(file) ? -1 : syscall(SYS_pwrite64, file, bytes, count, at);
}

static int sync_with(long call, int file) {
    if (!faults || !of_a_store(file)) return syscall(call, file);
    if (faults->fsync) {
        errno = EIO;
        return -1;
    }
    if (faults->kill == 1) raise(SIGKILL);
    int done = syscall(call, file);
    if (faults->kill == 2) raise(SIGKILL);
    return done;
}

int fsync(int file) { return sync_with(SYS_fsync, file); }
int fdatasync(int file) { return sync_with(SYS_fdatasync, file); }

int clock_gettime(clockid_t which, struct timespec *now) {
    int done = syscall(SYS_clock_gettime, which, now);
    if (!done && faults && which == CLOCK_REALTIME) now->tv_sec += faults->clock;
    return done;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}
