// Prints what holds for this process, a fact a line, and waits for the end of its input.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void answer(const char *what, long result) {
    if (result < 0)
        printf("%s: errno %d\n", what, errno);
    else
        printf("%s: done\n", what);
}

// Lines of a file that begin with one of the words; all, without words.
static void lines(const char *path, const char *const *words) {
    FILE *file = fopen(path, "r");
    if (!file) {
        printf("%s: errno %d\n", path, errno);
        return;
    }
    char line[4096];
    while (fgets(line, sizeof line, file)) {
        int wanted = !words;
        // The hierarchies that a machine has come and go; what is not entered is no fact.
        if (!strcmp(path, "/proc/self/cgroup") && strstr(line, ":/\n"))
            wanted = 0;
        for (const char *const *word = words; word && *word; word++)
            wanted |= !strncmp(line, *word, strlen(*word));
        if (wanted)
            printf("%s: %s", path, line);
    }
    fclose(file);
}

static void size(const char *path) {
    char bytes[65536];
    int fd = open(path, O_RDONLY);
    long len = fd < 0 ? -1 : read(fd, bytes, sizeof bytes);
    printf("%s: %s\n", path, len < 0 ? "unreadable" : len == 0 ? "empty" : "something");
    if (fd >= 0)
        close(fd);
}

// Without what differs from one sandbox to the next: numbers of mounts, devices, peer groups.
static void mounts(void) {
    FILE *file = fopen("/proc/self/mountinfo", "r");
    char line[4096];
    while (file && fgets(line, sizeof line, file)) {
        char *words[64];
        int count = 0;
        for (char *word = strtok(line, " \n"); word && count < 64; word = strtok(NULL, " \n"))
            words[count++] = word;
        printf("mount:");
        for (int i = 3; i < count; i++) {
            char *colon = strchr(words[i], ':');
            if (colon && (!strncmp(words[i], "shared:", 7) || !strncmp(words[i], "master:", 7) || !strncmp(words[i], "propagate_from:", 15)))
                *colon = 0;
            printf(" %s", words[i]);
        }
        printf("\n");
    }
    if (file)
        fclose(file);
}

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void directory(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) {
        printf("in %s: errno %d\n", path, errno);
        return;
    }
    char *names[512];
    int count = 0;
    for (struct dirent *entry; count < 512 && (entry = readdir(dir));) {
        struct stat stat;
        char text[512];
        if (fstatat(dirfd(dir), entry->d_name, &stat, AT_SYMLINK_NOFOLLOW))
            continue;
        if (!strcmp(path, "/proc/self/fd")) {
            char target[256] = "";
            if (atoi(entry->d_name) == dirfd(dir) || entry->d_name[0] == '.')
                continue;
            if (readlinkat(dirfd(dir), entry->d_name, target, sizeof target - 1) < 0)
                continue;
            char *number = strchr(target, '[');
            if (number && target[0] != '/')
                *number = 0;
            snprintf(text, sizeof text, "%s %s", entry->d_name, target);
        } else {
            snprintf(text, sizeof text, "%s %o %u:%u", entry->d_name, stat.st_mode, stat.st_uid, stat.st_gid);
        }
        names[count++] = strdup(text);
    }
    closedir(dir);
    qsort(names, count, sizeof *names, compare);
    for (int i = 0; i < count; i++)
        printf("in %s: %s\n", path, names[i]);
}

static void network(void) {
    int inet = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    answer("AF_INET", inet);
    if (inet >= 0) {
        struct ifreq request = {.ifr_name = "lo"};
        long found = ioctl(inet, SIOCGIFFLAGS, &request);
        printf("lo: %s\n", found < 0 ? "unknown" : request.ifr_flags & IFF_UP ? "up" : "down");
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        answer("bind a port", bind(inet, (struct sockaddr *)&address, sizeof address));
        close(inet);
    }
    answer("AF_VSOCK", socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
    answer("AF_ALG", socket(38, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    int local = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "\0stockade-facts"};
    answer("abstract socket", connect(local, (struct sockaddr *)&name, offsetof(struct sockaddr_un, sun_path) + 15));
    close(local);
}

static void files(void) {
    const char *places[] = {"/", "/work", "/tmp", "/dev", "/usr", "/proc/sys/kernel"};
    for (unsigned i = 0; i < sizeof places / sizeof *places; i++) {
        char path[64], what[96];
        // Nobody else's, and no run's that was killed before it could remove it.
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        int own = (int)now.tv_nsec ^ getpid();
        snprintf(path, sizeof path, "%s/facts-file-%d", places[i], own);
        int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
        snprintf(what, sizeof what, "make a file in %s", places[i]);
        answer(what, fd);
        if (fd < 0)
            continue;
        close(fd);
        char moved[64];
        snprintf(moved, sizeof moved, "%s/facts-dir-%d", places[i], own);
        mkdir(moved, 0700);
        snprintf(moved, sizeof moved, "%s/facts-dir-%d/facts-file", places[i], own);
        snprintf(what, sizeof what, "move it in %s", places[i]);
        answer(what, rename(path, moved));
        snprintf(what, sizeof what, "a pipe in %s", places[i]);
        answer(what, mknod(path, S_IFIFO | 0600, 0));
        unlink(path);
        unlink(moved);
        snprintf(moved, sizeof moved, "%s/facts-dir-%d", places[i], own);
        rmdir(moved);
    }
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    answer("open /dev/null", null);
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    if (zero >= 0)
        answer("ioctl on a device", ioctl(zero, FIONREAD, &zero));
}

// How many Landlock domains are on it: the kernel allows sixteen.
static void domains(void) {
    struct {
        unsigned long files;
    } attributes = {1};
    int left = 0;
    for (; left < 20; left++) {
        long ruleset = syscall(444, &attributes, sizeof attributes, 0);
        if (ruleset < 0 || syscall(446, ruleset, 0) < 0)
            break;
        close(ruleset);
    }
    printf("room for %d more Landlock domains, then errno %d\n", left, errno);
}

int main(int argc, char **argv) {
    static const char *const status[] = {"Umask",  "Uid",    "Gid",    "Groups", "SigBlk",     "SigIgn",  "SigCgt",  "CapInh",
                                         "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Threads", "Cpus_allowed_list", NULL};
    lines("/proc/self/status", status);
    lines("/proc/self/limits", NULL);
    lines("/proc/self/cgroup", NULL);
    lines("/proc/self/uid_map", NULL);
    lines("/proc/self/gid_map", NULL);
    lines("/proc/self/setgroups", NULL);
    lines("/proc/self/timens_offsets", NULL);
    lines("/proc/sys/user/max_user_namespaces", NULL);
    lines("/proc/sys/user/max_inotify_instances", NULL);
    size("/proc/keys");
    size("/proc/key-users");
    mounts();
    directory("/proc/self/fd");
    directory("/");
    directory("/dev");
    static const char *const spaces[] = {"user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time"};
    for (int i = 0; i < 8; i++) {
        char path[64], target[64] = "";
        snprintf(path, sizeof path, "/proc/self/ns/%s", spaces[i]);
        long len = readlink(path, target, sizeof target - 1);
        printf("ns %s %s\n", spaces[i], len < 0 ? "?" : target);
    }
    struct utsname name;
    uname(&name);
    char cwd[4096];
    printf("names: %s %s\n", name.nodename, name.domainname);
    printf("cwd: %s\n", getcwd(cwd, sizeof cwd) ? cwd : "?");
    printf("session: %s, group: %s, parent: %s\n", getsid(0) == getpid() ? "own" : "another's", getpgid(0) == getpid() ? "own" : "another's",
           getppid() <= 1 ? "init" : "another");
    int death = 0;
    prctl(PR_GET_PDEATHSIG, &death);
    printf("securebits %d, death signal %d, dumpable %d, keepcaps %d\n", prctl(PR_GET_SECUREBITS), death, prctl(PR_GET_DUMPABLE),
           prctl(PR_GET_KEEPCAPS));
    printf("policy %d, nice %d\n", sched_getscheduler(0), getpriority(0, 0));
    long keyring = syscall(SYS_keyctl, 0, -3, 0);
    if (keyring < 0)
        printf("keyring: errno %d\n", errno);
    else
        printf("keyring %ld\n", keyring);
    answer("user namespace", unshare(CLONE_NEWUSER));
    answer("setuid", setuid(0));
    answer("kill the parent, or not", kill(getppid(), 0));
    network();
    files();
    for (int i = 0; i < argc; i++)
        printf("argument: %s\n", argv[i]);
    for (char **entry = environ; *entry; entry++)
        printf("environment: %s\n", *entry);
    domains();
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0) {
    }
    return 0;
}
