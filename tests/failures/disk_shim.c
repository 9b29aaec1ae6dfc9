/* A disk that stands still or fails, for files whose path says so. Loaded with LD_PRELOAD by disk_shim.py.

   held-open      opening waits while the file named by DISK_SHIM_HOLD exists, 30 s at most
   held-read      reading does
   held-from-N-   reading does from byte N, and succeeds before it
   eio-open       opening fails
   eio-read-N-    reading succeeds before byte N and fails from there
   no-sendfile    there is no sendfile for it, as on some file systems

   What is held or fails is not in memory: where nothing may wait for a disk (RESOLVE_CACHED, RWF_NOWAIT), it
   is EAGAIN. Of a file that fails nothing is in memory. With DISK_SHIM_NO_OPENAT2 set there is no openat2, as
   on an old kernel or behind a strict filter. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 8
#endif

#define RESOLVE_CACHED_FLAG 0x20

static int is_held(void)
{
    const char *hold = getenv("DISK_SHIM_HOLD");
    int saved = errno;
    int held = hold != NULL && access(hold, F_OK) == 0;
    errno = saved;
    return held;
}

static void wait_while_held(void)
{
    const struct timespec pause = {0, 5000000};
    int saved = errno;
    for (int i = 0; i < 6000 && is_held(); i++)
        nanosleep(&pause, NULL);
    errno = saved;
}

/* Whether the file may be opened now; -1 with errno when not. */
static int check_open(const char *path, int may_wait)
{
    if (path == NULL)
        return 0;
    int waits = strstr(path, "held-open") != NULL;
    int fails = strstr(path, "eio-open") != NULL;
    if (!may_wait && (fails || (waits && is_held()))) {
        errno = EAGAIN;
        return -1;
    }
    if (waits)
        wait_while_held();
    if (fails) {
        errno = EIO;
        return -1;
    }
    return 0;
}

/* The number behind mark in path; -1 when it is not there. */
static off_t find_number(const char *path, const char *mark)
{
    const char *found = strstr(path, mark);
    return found == NULL ? -1 : (off_t)atoll(found + strlen(mark));
}

/* Where descriptor leads to; 0 when the system does not say. */
static int find_path(int descriptor, char path[PATH_MAX + 1])
{
    char link[64];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX);
    errno = saved;
    if (length < 0)
        return 0;
    path[length] = 0;
    return 1;
}

/* How many of size bytes from offset may be read now; -1 with errno when none. */
static ssize_t check_read(int descriptor, size_t size, off_t offset, int may_wait)
{
    char path[PATH_MAX + 1];
    if (!find_path(descriptor, path))
        return (ssize_t)size;
    off_t held = strstr(path, "held-read") != NULL ? 0 : find_number(path, "held-from-");
    off_t failing = find_number(path, "eio-read-");
    if (held < 0 && failing < 0)
        return (ssize_t)size;
    if (offset < 0)
        offset = lseek(descriptor, 0, SEEK_CUR);
    if (held >= 0 && is_held()) {
        if (offset < held) {
            if ((off_t)size > held - offset)
                size = (size_t)(held - offset);
        } else if (may_wait) {
            wait_while_held();
        } else {
            errno = EAGAIN;
            return -1;
        }
    }
    if (failing >= 0) {
        if (!may_wait || offset >= failing) {
            errno = may_wait ? EIO : EAGAIN;
            return -1;
        }
        if ((off_t)size > failing - offset)
            size = (size_t)(failing - offset);
    }
    return (ssize_t)size;
}

static int is_without_sendfile(int descriptor)
{
    char path[PATH_MAX + 1];
    return find_path(descriptor, path) && strstr(path, "no-sendfile") != NULL;
}

#define OPEN(name)                                                                                          \
    int name(const char *path, int flags, ...)                                                              \
    {                                                                                                       \
        va_list more;                                                                                       \
        va_start(more, flags);                                                                              \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;                             \
        va_end(more);                                                                                       \
        return check_open(path, 1) ? -1 : NEXT(name)(path, flags, mode);                                       \
    }

#define OPENAT(name)                                                                                        \
    int name(int folder, const char *path, int flags, ...)                                                  \
    {                                                                                                       \
        va_list more;                                                                                       \
        va_start(more, flags);                                                                              \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;                             \
        va_end(more);                                                                                       \
        return check_open(path, 1) ? -1 : NEXT(name)(folder, path, flags, mode);                               \
    }

#define PREAD(name, offset_type)                                                                            \
    ssize_t name(int descriptor, void *buffer, size_t size, offset_type offset)                             \
    {                                                                                                       \
        ssize_t good = check_read(descriptor, size, offset, 1);                                             \
        return good < 0 ? -1 : NEXT(name)(descriptor, buffer, (size_t)good, offset);                        \
    }

/* Of several buffers only the first is filled: a short read, which every caller has to bear. */
#define PREADV(name, offset_type)                                                                           \
    ssize_t name(int descriptor, const struct iovec *buffers, int count, offset_type offset)                \
    {                                                                                                       \
        if (count < 1)                                                                                      \
            return NEXT(name)(descriptor, buffers, count, offset);                                          \
        struct iovec first = buffers[0];                                                                    \
        ssize_t good = check_read(descriptor, first.iov_len, offset, 1);                                    \
        if (good < 0)                                                                                       \
            return -1;                                                                                      \
        first.iov_len = (size_t)good;                                                                       \
        return NEXT(name)(descriptor, &first, 1, offset);                                                   \
    }

#define PREADV2(name, offset_type)                                                                          \
    ssize_t name(int descriptor, const struct iovec *buffers, int count, offset_type offset, int flags)     \
    {                                                                                                       \
        if (count < 1)                                                                                      \
            return NEXT(name)(descriptor, buffers, count, offset, flags);                                   \
        struct iovec first = buffers[0];                                                                    \
        ssize_t good = check_read(descriptor, first.iov_len, offset, !(flags & RWF_NOWAIT));                \
        if (good < 0)                                                                                       \
            return -1;                                                                                      \
        first.iov_len = (size_t)good;                                                                       \
        return NEXT(name)(descriptor, &first, 1, offset, flags);                                            \
    }

#define SENDFILE(name, offset_type)                                                                         \
    ssize_t name(int to, int from, offset_type *offset, size_t size)                                        \
    {                                                                                                       \
        if (is_without_sendfile(from)) {                                                                    \
            errno = EINVAL;                                                                                 \
            return -1;                                                                                      \
        }                                                                                                   \
        ssize_t good = check_read(from, size, offset != NULL ? (off_t)*offset : -1, 1);                     \
        return good < 0 ? -1 : NEXT(name)(to, from, offset, (size_t)good);                                  \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
PREAD(pread, off_t)
PREAD(pread64, off64_t)
PREADV(preadv, off_t)
PREADV(preadv64, off64_t)
PREADV2(preadv2, off_t)
PREADV2(preadv64v2, off64_t)
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

ssize_t read(int descriptor, void *buffer, size_t size)
{
    ssize_t good = check_read(descriptor, size, -1, 1);
    return good < 0 ? -1 : NEXT(read)(descriptor, buffer, (size_t)good);
}

/* ctypes comes to openat2 through here. */
long syscall(long number, ...)
{
    long a[6];
    va_list more;
    va_start(more, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(more, long);
    va_end(more);
    if (number == SYS_openat2) {
        if (getenv("DISK_SHIM_NO_OPENAT2") != NULL) {
            errno = ENOSYS;
            return -1;
        }
        /* struct open_how: flags, mode, resolve. */
        uint64_t resolve = ((const uint64_t *)a[2])[2];
        if (check_open((const char *)a[1], !(resolve & RESOLVE_CACHED_FLAG)))
            return -1;
    }
    return NEXT(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
