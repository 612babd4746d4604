/* Attacks, each tried by its name: attacks NAME ARGUMENTS. The exit code tells what came of it; anything else than these
 * is a broken test. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/vm_sockets.h>
#include <mqueue.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/quota.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { REFUSED = 0, SUCCEEDED = 42, ABSENT = 77, BROKEN = 99 };

struct attack {
    const char *name;
    int (*run)(int argc, char **argv);
};

/* argv[0] is the attack's first argument. */
#define ATTACK(id, label)                                                                                              \
    static int id(int argc, char **argv);                                                                              \
    static const struct attack id##_attack = {label, id};                                                              \
    static const struct attack *const id##_entry __attribute__((section("attacks"), used)) = &id##_attack;             \
    static int id(int argc __attribute__((unused)), char **argv __attribute__((unused)))

static void note(const char *call) { fprintf(stderr, "%s: %s\n", call, strerror(errno)); }

static int not_there(void) {
    return errno == ENOSYS || errno == EAFNOSUPPORT || errno == EPROTONOSUPPORT || errno == ESOCKTNOSUPPORT;
}

/* The call does what it should. */
static int worked(long result, const char *call) {
    if (result >= 0) return SUCCEEDED;
    note(call);
    return not_there() ? ABSENT : REFUSED;
}

/* The call has arguments that the kernel refuses, but only after it has allowed the caller to make it. */
static int permitted(long result, const char *call) {
    if (result >= 0) return SUCCEEDED;
    note(call);
    if (errno == EPERM || errno == EACCES) return REFUSED;
    return errno == ENOSYS ? ABSENT : SUCCEEDED;
}

/* Of several ways one is enough. */
static int any(int before, int now) {
    if (before == SUCCEEDED || now == SUCCEEDED) return SUCCEEDED;
    return before == REFUSED || now == REFUSED ? REFUSED : ABSENT;
}

static int broken(const char *call) {
    note(call);
    return BROKEN;
}

/* A process by its number. 1 is the sandbox's, and never the machine's own: in a PID namespace one's own number is low. */
static int target(const char *text) {
    int pid = atoi(text);
    if (pid == 1 && getpid() > 50) _exit(BROKEN);
    return pid;
}

/* Says that it stands, and holds until stdin ends. */
static void hold(void) {
    char byte;
    if (write(1, "ready\n", 6) != 6) _exit(BROKEN);
    while (read(0, &byte, 1) > 0) {
    }
}

/* Waits for one line. */
static void turn(void) {
    char byte = 0;
    if (write(1, "ready\n", 6) != 6) _exit(BROKEN);
    while (byte != '\n' && read(0, &byte, 1) > 0) {
    }
}

/* Whether a file begins with a text. */
static int holds(const char *path, const char *text) {
    char found[256] = {0};
    int fd = open(path, O_RDONLY);
    if (fd < 0) return 0;
    ssize_t n = read(fd, found, sizeof found - 1);
    close(fd);
    return n > 0 && strncmp(found, text, strlen(text)) == 0;
}

/* Whether a text is anywhere in a file, which may have NULs in it. */
static int contains(const char *path, const char *text) {
    static char found[1 << 20];
    int fd = open(path, O_RDONLY);
    if (fd < 0) return 0;
    size_t length = 0;
    for (ssize_t n; length < sizeof found && (n = read(fd, found + length, sizeof found - length)) > 0;) length += (size_t)n;
    close(fd);
    return memmem(found, length, text, strlen(text)) != NULL;
}

/* Runs something for every process but this one. */
static int each_process(int (*look)(int pid, const char *text), const char *text) {
    DIR *proc = opendir("/proc");
    if (!proc) return worked(-1, "/proc");
    int result = REFUSED;
    for (struct dirent *entry; (entry = readdir(proc));) {
        int pid = atoi(entry->d_name);
        if (pid > 0 && pid != getpid() && look(pid, text)) result = SUCCEEDED;
    }
    closedir(proc);
    return result;
}

/* Runs something in a child; a filter may kill it. */
static int apart(int (*run)(void)) {
    int status;
    pid_t child = fork();
    if (child < 0) return broken("fork");
    if (child == 0) _exit(run());
    if (waitpid(child, &status, 0) != child) return broken("waitpid");
    if (WIFEXITED(status)) return WEXITSTATUS(status);
    fprintf(stderr, "ended by signal %d\n", WTERMSIG(status));
    if (WTERMSIG(status) == SIGSYS) return REFUSED;
    return WTERMSIG(status) == SIGSEGV ? ABSENT : BROKEN;
}
