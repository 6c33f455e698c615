/* Injects faults into what a process does to the files of one folder.

   Preloaded (LD_PRELOAD), it sees the calls of Python, HDF5 and any other library. The
   calls that change files are counted from `faults_arm` on; at one of them the fault
   happens: see `enum mode`. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode {
    COUNT,   /* Nothing happens. */
    KILL,    /* The process is killed before the call. */
    TORN,    /* It is killed in the middle of a write, or after another call. */
    DATA,    /* The power fails after the call: data not yet synced is lost. */
    NAMES,   /* The power fails after it: renames not yet synced never happened. */
    FAILURE, /* The call fails with an error. */
};

static char folder[4096];
static size_t folder_length;
static long at = -1, counted;
static enum mode mode;
static int failure;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

#define REAL(type, name, ...)                                                          \
    static type (*real)(__VA_ARGS__);                                                  \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* --- What is not on the disk yet --- */

/* By names, which are changed along: a copy of a handle would keep its locks. */
struct dirty { dev_t device; ino_t inode; off_t synced; char path[4096]; };
struct renamed { char from[4096], to[4096], saved[4096]; };
static struct dirty dirty[512];
static struct renamed renamed[64];
static int num_dirty, num_renamed, num_saved;

static const char *path_of(int fd, char *buffer) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, buffer, 4095);
    buffer[length < 0 ? 0 : length] = 0;
    return buffer;
}

static void note_write(int fd, int truncated) {
    struct stat found;
    if (fstat(fd, &found) || !S_ISREG(found.st_mode)) return;
    for (int i = 0; i < num_dirty; i++)
        if (dirty[i].device == found.st_dev && dirty[i].inode == found.st_ino) {
            if (truncated) dirty[i].synced = 0;
            return;
        }
    if (num_dirty == 512) return;
    struct dirty *one = &dirty[num_dirty++];
    one->device = found.st_dev, one->inode = found.st_ino;
    one->synced = truncated ? 0 : found.st_size;
    path_of(fd, one->path);
}

static void note_sync(int fd) {
    struct stat found;
    if (fstat(fd, &found)) return;
    if (S_ISDIR(found.st_mode)) num_renamed = 0;
    for (int i = 0; i < num_dirty; i++)
        if (dirty[i].device == found.st_dev && dirty[i].inode == found.st_ino) {
            dirty[i] = dirty[--num_dirty];
            return;
        }
}

static void note_renamed(const char *from, const char *to) {
    size_t length = strlen(from);
    for (int i = 0; i < num_dirty; i++) {
        char *path = dirty[i].path, rest[4096];
        if (strncmp(path, from, length) || (path[length] && path[length] != '/'))
            continue;
        snprintf(rest, sizeof rest, "%s", path + length);
        snprintf(path, sizeof dirty[i].path, "%.2000s%.2000s", to, rest);
    }
}

static void note_rename(const char *from, const char *to) {
    if (num_renamed == 64) return;
    struct renamed *one = &renamed[num_renamed++];
    snprintf(one->from, sizeof one->from, "%s", from);
    snprintf(one->to, sizeof one->to, "%s", to);
    snprintf(one->saved, sizeof one->saved, "%.4000s.saved-%d", folder, num_saved++);
    if (link(to, one->saved)) one->saved[0] = 0;
}

static void lose(void) {
    int (*rename_)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    if (mode == DATA)
        for (int i = 0; i < num_dirty; i++)
            if (truncate(dirty[i].path, dirty[i].synced)) continue;
    if (mode == NAMES)
        while (num_renamed--) {
            struct renamed *one = &renamed[num_renamed];
            rename_(one->to, one->from);
            if (one->saved[0]) rename_(one->saved, one->to);
        }
}

/* --- Which calls count --- */

void faults_arm(const char *path, long when, int what, int error) {
    snprintf(folder, sizeof folder, "%s", path);
    folder_length = strlen(folder);
    mode = what, failure = error, counted = 0, at = when;
}

long faults_counted(void) { return counted; }

static int inside(const char *path) {
    return folder_length && !strncmp(path, folder, folder_length) &&
           (path[folder_length] == '/' || !path[folder_length]);
}

static const char *path_at(int fd, const char *path, char *buffer) {
    if (path[0] == '/' || fd == AT_FDCWD) return path;
    char parent[4096];
    snprintf(buffer, 8192, "%s/%s", path_of(fd, parent), path);
    return buffer;
}

static void end(void) {
    lose();
    kill(getpid(), SIGKILL);
    pause();
}

/* Before a call that counts: whether it fails, or whether this is the one. */
static int begin(void) {
    pthread_mutex_lock(&mutex);
    int now = at >= 0 && counted++ == at;
    pthread_mutex_unlock(&mutex);
    if (now && mode == KILL) end();
    return now;
}

#define CALL(type, is_inside, call, note)                                              \
    do {                                                                               \
        if (!(is_inside)) return call;                                                 \
        int now = begin();                                                             \
        if (now && mode == FAILURE) { errno = failure; return (type)-1; }              \
        type result = call;                                                            \
        if (result != (type)-1) { note; }                                              \
        int kept = errno;                                                              \
        if (now && mode != COUNT) end();                                               \
        errno = kept;                                                                  \
        return result;                                                                 \
    } while (0)

/* --- The calls --- */

#define WRITES (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)
#define OPENED if (flags & O_TRUNC) note_write(result, 1)

int open(const char *path, int flags, ...) {
    REAL(int, open, const char *, int, ...);
    va_list more; va_start(more, flags); mode_t bits = va_arg(more, mode_t); va_end(more);
    CALL(int, (flags & WRITES) && inside(path), real(path, flags, bits), OPENED);
}

int open64(const char *path, int flags, ...) {
    REAL(int, open64, const char *, int, ...);
    va_list more; va_start(more, flags); mode_t bits = va_arg(more, mode_t); va_end(more);
    CALL(int, (flags & WRITES) && inside(path), real(path, flags, bits), OPENED);
}

int openat(int fd, const char *path, int flags, ...) {
    REAL(int, openat, int, const char *, int, ...);
    char buffer[8192];
    va_list more; va_start(more, flags); mode_t bits = va_arg(more, mode_t); va_end(more);
    CALL(int, (flags & WRITES) && inside(path_at(fd, path, buffer)),
         real(fd, path, flags, bits), OPENED);
}

int openat64(int fd, const char *path, int flags, ...) {
    REAL(int, openat64, int, const char *, int, ...);
    char buffer[8192];
    va_list more; va_start(more, flags); mode_t bits = va_arg(more, mode_t); va_end(more);
    CALL(int, (flags & WRITES) && inside(path_at(fd, path, buffer)),
         real(fd, path, flags, bits), OPENED);
}

#define HALF(call)                                                                     \
    char buffer[4096];                                                                 \
    if (fd < 3 || !folder_length || !inside(path_of(fd, buffer))) return call(size);   \
    int now = begin();                                                                 \
    if (now && mode == FAILURE) { errno = failure; return -1; }                        \
    note_write(fd, 0);                                                                 \
    ssize_t result = call(now && mode == TORN ? size / 2 : size);                      \
    if (now && mode != COUNT) end();                                                   \
    return result

ssize_t write(int fd, const void *content, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
#define WRITE(n) real(fd, content, n)
    HALF(WRITE);
}

ssize_t pwrite(int fd, const void *content, size_t size, off_t offset) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
#define PWRITE(n) real(fd, content, n, offset)
    HALF(PWRITE);
}

ssize_t pwrite64(int fd, const void *content, size_t size, off_t offset) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off_t);
    HALF(PWRITE);
}

ssize_t writev(int fd, const struct iovec *parts, int size) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
#define WRITEV(n) real(fd, parts, n)
    HALF(WRITEV);
}

#define ON_HANDLE(name, note)                                                          \
    int name(int fd) {                                                                 \
        REAL(int, name, int);                                                          \
        char buffer[4096];                                                             \
        CALL(int, folder_length && inside(path_of(fd, buffer)), real(fd), note);       \
    }
ON_HANDLE(fsync, note_sync(fd))
ON_HANDLE(fdatasync, note_sync(fd))

int ftruncate64(int fd, off64_t size) {
    REAL(int, ftruncate64, int, off64_t);
    char buffer[4096];
    CALL(int, folder_length && inside(path_of(fd, buffer)), real(fd, size), );
}

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    if (inside(to) && mode == NAMES) note_rename(from, to);
    CALL(int, inside(to), real(from, to), note_renamed(from, to));
}

int renameat(int fd, const char *from, int other, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    char buffer[8192];
    CALL(int, inside(path_at(other, to, buffer)), real(fd, from, other, to), );
}

#define ON_PATH(name)                                                                  \
    int name(const char *path) {                                                       \
        REAL(int, name, const char *);                                                 \
        CALL(int, inside(path), real(path), );                                         \
    }
ON_PATH(unlink)
ON_PATH(rmdir)
ON_PATH(remove)

int unlinkat(int fd, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    char buffer[8192];
    CALL(int, inside(path_at(fd, path, buffer)), real(fd, path, flags), );
}

int mkdir(const char *path, mode_t bits) {
    REAL(int, mkdir, const char *, mode_t);
    CALL(int, inside(path), real(path, bits), );
}
