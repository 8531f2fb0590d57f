/* Preloaded into a process: makes every flush slower by so many microseconds, and counts it.
 *
 * SLOWSYNC names a file of two 64-bit numbers that whoever measures reads and writes while we run: flushes so far, and microseconds for
 * each. Without it nothing happens.
 *
 * Flushes are fsync, fdatasync, sync_file_range, syncfs and msync(MS_SYNC). Writes to files that were opened with O_SYNC or O_DSYNC are not
 * seen: PostgreSQL is to be run with wal_sync_method=fdatasync, MariaDB with innodb_flush_method=fsync, and who measures checks that the
 * count goes up. io_setup(2) fails, so that our own store syncs by fdatasync in a thread and not in the kernel, where nobody could slow it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile uint64_t *shared;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("SLOWSYNC");
    if (path == NULL)
        return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *at = mmap(NULL, 2 * sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED)
        shared = at;
}

static void *next(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static void flush_begins(void)
{
    if (shared == NULL)
        return;
    __atomic_fetch_add(&shared[0], 1, __ATOMIC_RELAXED);
    uint64_t us = shared[1];
    struct timespec left = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
    while (us && nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

int fsync(int fd)
{
    static int (*genuine)(int);
    if (genuine == NULL)
        genuine = (int (*)(int))next("fsync");
    flush_begins();
    return genuine(fd);
}

int fdatasync(int fd)
{
    static int (*genuine)(int);
    if (genuine == NULL)
        genuine = (int (*)(int))next("fdatasync");
    flush_begins();
    return genuine(fd);
}

int syncfs(int fd)
{
    static int (*genuine)(int);
    if (genuine == NULL)
        genuine = (int (*)(int))next("syncfs");
    flush_begins();
    return genuine(fd);
}

int sync_file_range(int fd, off64_t offset, off64_t size, unsigned int flags)
{
    static int (*genuine)(int, off64_t, off64_t, unsigned int);
    if (genuine == NULL)
        genuine = (int (*)(int, off64_t, off64_t, unsigned int))next("sync_file_range");
    /* to begin the writing is no flush: nobody waits */
    if (flags & (SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WAIT_AFTER))
        flush_begins();
    return genuine(fd, offset, size, flags);
}

int msync(void *at, size_t size, int flags)
{
    static int (*genuine)(void *, size_t, int);
    if (genuine == NULL)
        genuine = (int (*)(void *, size_t, int))next("msync");
    if (flags & MS_SYNC)
        flush_begins();
    return genuine(at, size, flags);
}

long syscall(long number, ...)
{
    static long (*genuine)(long, ...);
    va_list list;
    long words[6];
    if (genuine == NULL)
        genuine = (long (*)(long, ...))next("syscall");
    if (number == SYS_io_setup && shared != NULL) {
        errno = ENOSYS;
        return -1;
    }
    va_start(list, number);
    for (int index = 0; index < 6; index++)
        words[index] = va_arg(list, long);
    va_end(list);
    return genuine(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}
