/* A preload that writes down, before each write, what the write destroys.
 *
 * UNSYNCED_JOURNAL names the journal, UNSYNCED_FOLDER the folder whose files count. When the
 * process is killed, whoever started it takes back what was not synced (unsynced.rs): that is what
 * a power failure may leave. UNSYNCED_BUFFERED=1 refuses O_DIRECT, so that the process writes
 * through the page cache and syncs. UNSYNCED_LIES names a folder whose disk lies: a sync there makes
 * durable only what came before the LATE-th sync back.
 *
 * A record is seven 64-bit words, {MAGIC, kind, inode, offset, length of the file before, bytes
 * that follow, records that a sync covers}, and the bytes that were at the offset. Records of a
 * file come before the change that they are about, that of a sync comes after it. A write through
 * O_DSYNC is durable when it returns and has no record. New names and removed ones are taken for
 * durable. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CHANGE = 1, SYNC = 2, FRESH = 3, LATE = 4 };
static const uint64_t MAGIC = 0x554e53594e434544;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int journal = -1;
static const char *folder;
static int is_buffered;
static const char *lied_about;
static uint64_t records;
/* The records that the last syncs of the disk that lies should have covered. */
static uint64_t promised[LATE], promises;

static int (*real_openat)(int, const char *, int, ...);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_unlinkat)(int, const char *, int);
static int (*real_rename)(const char *, const char *);

__attribute__((constructor)) static void begin(void) {
    real_openat = dlsym(RTLD_NEXT, "openat");
    real_write = dlsym(RTLD_NEXT, "write");
    real_writev = dlsym(RTLD_NEXT, "writev");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_unlinkat = dlsym(RTLD_NEXT, "unlinkat");
    real_rename = dlsym(RTLD_NEXT, "rename");
    const char *path = getenv("UNSYNCED_JOURNAL");
    folder = getenv("UNSYNCED_FOLDER");
    is_buffered = getenv("UNSYNCED_BUFFERED") != NULL;
    lied_about = getenv("UNSYNCED_LIES");
    if (path == NULL || folder == NULL) return;
    journal = real_openat(AT_FDCWD, path, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    if (journal < 0) abort();
}

/* The caller holds the lock. */
static void note(uint64_t kind, ino_t inode, uint64_t offset, uint64_t length, const void *bytes,
                 uint64_t count, uint64_t covers) {
    uint64_t head[7] = {MAGIC, kind, inode, offset, length, count, covers};
    struct iovec parts[2] = {{head, sizeof head}, {(void *)bytes, count}};
    if (real_writev(journal, parts, 2) != (ssize_t)(sizeof head + count)) abort();
    records++;
}

/* The name under which the system shows an open file. */
static void name_of(int fd, char name[32]) {
    char digits[16];
    int at = 0, n = fd;
    do digits[at++] = '0' + n % 10; while ((n /= 10) > 0);
    strcpy(name, "/proc/self/fd/");
    char *end = name + strlen(name);
    while (at > 0) *end++ = digits[--at];
    *end = 0;
}

/* Is this open file in the folder? */
static int is_below(int fd, const char *above) {
    char name[32], path[PATH_MAX];
    name_of(fd, name);
    size_t want = strlen(above);
    ssize_t length = readlink(name, path, sizeof path);
    return length > (ssize_t)want && path[want] == '/' && memcmp(path, above, want) == 0;
}

/* Is this a file whose changes count? */
static int counts(int fd, struct stat *stat) {
    if (journal < 0 || fd < 3 || fd == journal) return 0;
    if (fstat(fd, stat) != 0 || !S_ISREG(stat->st_mode)) return 0;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (flags & O_DSYNC)) return 0;
    return is_below(fd, folder);
}

/* Notes what stands at `offset`, at most `count` bytes of it. The caller holds the lock. */
static void note_change(int fd, const struct stat *stat, off_t offset, size_t count) {
    size_t there = 0;
    char *bytes = NULL;
    if (offset < stat->st_size) {
        size_t rest = stat->st_size - offset;
        there = count < rest ? count : rest;
        bytes = malloc(there);
        if (bytes == NULL) abort();
        int from = fd;
        ssize_t got = pread(from, bytes, there, offset);
        if (got < 0 && errno == EBADF) {
            char name[32];
            name_of(fd, name);
            from = real_openat(AT_FDCWD, name, O_RDONLY | O_CLOEXEC);
            if (from < 0) abort();
            got = pread(from, bytes, there, offset);
            close(from);
        }
        if (got != (ssize_t)there) abort();
    }
    note(CHANGE, stat->st_ino, offset, stat->st_size, bytes, there, 0);
    free(bytes);
}

static void before_write(int fd, off_t offset, size_t count) {
    struct stat stat;
    int error = errno;
    pthread_mutex_lock(&lock);
    if (counts(fd, &stat)) {
        if (fcntl(fd, F_GETFL) & O_APPEND) offset = stat.st_size;
        note_change(fd, &stat, offset, count);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    if (journal >= 0 && fd >= 3) {
        int error = errno;
        off_t offset = lseek(fd, 0, SEEK_CUR);
        errno = error;
        if (offset >= 0) before_write(fd, offset, count);
    }
    return real_write(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (journal >= 0 && fd >= 3) {
        int error = errno;
        off_t offset = lseek(fd, 0, SEEK_CUR);
        errno = error;
        size_t bytes = 0;
        for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
        if (offset >= 0) before_write(fd, offset, bytes);
    }
    return real_writev(fd, parts, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    before_write(fd, offset, count);
    return real_pwrite(fd, bytes, count, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t offset) {
    return pwrite(fd, bytes, count, offset);
}

int ftruncate(int fd, off_t length) {
    struct stat stat;
    int error = errno;
    pthread_mutex_lock(&lock);
    if (counts(fd, &stat)) note_change(fd, &stat, length, SSIZE_MAX);
    pthread_mutex_unlock(&lock);
    errno = error;
    return real_ftruncate(fd, length);
}

int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }

static int synced(int fd, int (*sync)(int)) {
    struct stat stat;
    int error = errno;
    pthread_mutex_lock(&lock);
    int is_noted = counts(fd, &stat);
    uint64_t covers = records;
    if (is_noted && lied_about != NULL && is_below(fd, lied_about)) {
        uint64_t *oldest = &promised[promises++ % LATE];
        covers = *oldest;
        *oldest = records;
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    int result = sync(fd);
    if (result == 0 && is_noted) {
        pthread_mutex_lock(&lock);
        note(SYNC, stat.st_ino, 0, 0, NULL, 0, covers);
        pthread_mutex_unlock(&lock);
    }
    return result;
}

int fsync(int fd) { return synced(fd, real_fsync); }

int fdatasync(int fd) { return synced(fd, real_fdatasync); }

/* What was noted of a file whose name goes must not be taken for another file's of its number. */
static void forget(int dir, const char *path) {
    struct stat stat;
    if (journal < 0) return;
    int error = errno;
    pthread_mutex_lock(&lock);
    if (fstatat(dir, path, &stat, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(stat.st_mode))
        note(FRESH, stat.st_ino, 0, 0, NULL, 0, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
}

int unlink(const char *path) {
    forget(AT_FDCWD, path);
    return real_unlinkat(AT_FDCWD, path, 0);
}

int unlinkat(int dir, const char *path, int flags) {
    forget(dir, path);
    return real_unlinkat(dir, path, flags);
}

int rename(const char *from, const char *to) {
    forget(AT_FDCWD, to);
    return real_rename(from, to);
}

static int opened(int dir, const char *path, int flags, mode_t mode) {
    if (is_buffered && (flags & O_DIRECT)) {
        errno = EINVAL;
        return -1;
    }
    int cuts = journal >= 0 && (flags & O_TRUNC);
    int fd = real_openat(dir, path, cuts ? flags & ~O_TRUNC : flags, mode);
    if (fd < 0 || journal < 0 || !(flags & (O_CREAT | O_TRUNC))) return fd;
    struct stat stat;
    pthread_mutex_lock(&lock);
    if (counts(fd, &stat) && stat.st_size == 0) note(FRESH, stat.st_ino, 0, 0, NULL, 0, 0);
    pthread_mutex_unlock(&lock);
    if (cuts && (flags & O_ACCMODE) != O_RDONLY && fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode) &&
        stat.st_size > 0)
        ftruncate(fd, 0);
    return fd;
}

#define MODE(flags, last)                          \
    mode_t mode = 0;                               \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {       \
        va_list rest;                              \
        va_start(rest, last);                      \
        mode = va_arg(rest, mode_t);               \
        va_end(rest);                              \
    }

int open(const char *path, int flags, ...) {
    MODE(flags, flags)
    return opened(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags, flags)
    return opened(AT_FDCWD, path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...) {
    MODE(flags, flags)
    return opened(dir, path, flags, mode);
}

int openat64(int dir, const char *path, int flags, ...) {
    MODE(flags, flags)
    return opened(dir, path, flags, mode);
}
