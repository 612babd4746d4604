/* Other processes: those of the host, of another sandbox, and the agent. */

ATTACK(sleeper, "hold") {
    hold();
    return REFUSED;
}

ATTACK(trace, "ptrace") { /* PID */ return worked(ptrace(PTRACE_SEIZE, target(argv[0]), 0, 0), "PTRACE_SEIZE"); }

ATTACK(trace_sibling, "ptrace-sibling") {
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    int result = worked(ptrace(PTRACE_SEIZE, child, 0, 0), "PTRACE_SEIZE");
    kill(child, SIGKILL);
    return result;
}

static int traced(void) { return worked(ptrace(PTRACE_TRACEME, 0, 0, 0), "PTRACE_TRACEME"); }
ATTACK(trace_me, "ptrace-me") { return apart(traced); }

static int reached(long result, const char *call) {
    if (result < 0 && errno == ESRCH) return worked(result, call);
    return permitted(result, call);
}

/* Of an address that is never mapped: what is refused by that was allowed. */
ATTACK(memory_write, "vm-write") { /* PID */
    char byte = 0;
    struct iovec ours = {&byte, 1}, theirs = {(void *)8, 1};
    return reached(process_vm_writev(target(argv[0]), &ours, 1, &theirs, 1, 0), "process_vm_writev");
}

ATTACK(memory_read, "vm-read") { /* PID */
    char byte = 0;
    struct iovec ours = {&byte, 1}, theirs = {(void *)8, 1};
    return reached(process_vm_readv(target(argv[0]), &ours, 1, &theirs, 1, 0), "process_vm_readv");
}

ATTACK(memory_file, "proc-mem") { /* PID */
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/mem", argv[0]);
    return worked(open(path, O_RDWR), path);
}

/* Ways out by the links of procfs. */
ATTACK(links, "proc-links") { /* PID PATH TEXT: a file as that process sees it */
    static const char *const ways[] = {"root", "cwd/../../../../../../../..", "fd/0/../../../../../..", "task/../root"};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "/proc/%s/%s/%s", argv[0], ways[i], argv[1]);
        if (holds(path, argv[2])) return SUCCEEDED;
        note(path);
    }
    return REFUSED;
}

static int has_environment(int pid, const char *text) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    return contains(path, text);
}
ATTACK(environments, "environ") { /* TEXT */ return each_process(has_environment, argv[0]); }

static int has_arguments(int pid, const char *text) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    return contains(path, text);
}
ATTACK(arguments, "find-process") { /* TEXT */ return each_process(has_arguments, argv[0]); }

ATTACK(own_environment, "own-environ") {
    int result = REFUSED;
    for (char **entry = environ; *entry; entry++)
        if (strncmp(*entry, "PATH=", 5) != 0) result = SUCCEEDED;
    return result;
}

static int is_gone(int pid) {
    char path[64], text[512] = {0};
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY);
    if (fd < 0) return 1;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    char *end = n > 0 ? strrchr(text, ')') : NULL;
    return !end || end[2] == 'Z';
}

static int ends(int pid) {
    for (int i = 0; i < 50; i++) {
        if (is_gone(pid)) return SUCCEEDED;
        usleep(10000);
    }
    return REFUSED;
}

ATTACK(signal_kill, "kill") { /* PID */
    int pid = target(argv[0]);
    for (int signal = 1; signal <= 64; signal++)
        if (signal != SIGCHLD && signal != SIGCONT && kill(pid, signal) != 0 && errno != EINVAL) return worked(-1, "kill");
    return ends(pid);
}

ATTACK(signal_pidfd, "pidfd-kill") { /* PID */
    int fd = (int)syscall(SYS_pidfd_open, target(argv[0]), 0);
    if (fd < 0) return worked(-1, "pidfd_open");
    if (syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) != 0) return worked(-1, "pidfd_send_signal");
    return ends(target(argv[0]));
}

ATTACK(signal_all, "kill-all") {
    /* Never where it would be everybody: in a PID namespace of its own its number is low. */
    if (getpid() > 20) return BROKEN;
    return worked(kill(-1, SIGKILL), "kill(-1)");
}

ATTACK(take_descriptor, "pidfd-getfd") { /* PID */
    int fd = (int)syscall(SYS_pidfd_open, target(argv[0]), 0);
    if (fd < 0) return worked(-1, "pidfd_open");
    int result = ABSENT;
    for (int wanted = 0; wanted < 16; wanted++)
        result = any(result, worked(syscall(SYS_pidfd_getfd, fd, wanted, 0), "pidfd_getfd"));
    return result;
}

/* Files of a process by which it can be changed. */
ATTACK(process_files, "proc-files") { /* PID */
    static const char *const names[] = {"comm",   "oom_score_adj", "clear_refs", "coredump_filter",
                                        "uid_map", "setgroups",    "timens_offsets", "sched"};
    int result = ABSENT;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%s/%s", argv[0], names[i]);
        result = any(result, worked(open(path, O_WRONLY), path));
    }
    return result;
}

/* Making a process slow. */
ATTACK(slow_down, "slow-down") { /* PID */
    struct sched_param param = {.sched_priority = 0};
    int pid = target(argv[0]);
    int result = worked(setpriority(PRIO_PROCESS, (id_t)pid, 19), "setpriority");
    result = any(result, worked(sched_setscheduler(pid, SCHED_IDLE, &param), "sched_setscheduler"));
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    return any(result, worked(sched_setaffinity(pid, sizeof one, &one), "sched_setaffinity"));
}

/* Taking a process's means away, and then going on for longer than allowed. */
ATTACK(blind, "blind") { /* PID, files or others, MILLISECONDS */
    static const int others[] = {RLIMIT_FSIZE, RLIMIT_DATA, RLIMIT_STACK, RLIMIT_NPROC, RLIMIT_MEMLOCK, RLIMIT_AS,
                                 RLIMIT_SIGPENDING, RLIMIT_MSGQUEUE, RLIMIT_NICE, RLIMIT_RTPRIO};
    static const int files[] = {RLIMIT_NOFILE};
    int is_files = strcmp(argv[1], "files") == 0;
    const int *list = is_files ? files : others;
    int result = REFUSED;
    for (size_t i = 0; i < (is_files ? 1 : sizeof others / sizeof *others); i++) {
        struct rlimit none = {0, 0};
        result = any(result, worked(prlimit(target(argv[0]), (__rlimit_resource_t)list[i], &none, NULL), "prlimit"));
    }
    if (fork() == 0) _exit(0);
    usleep((useconds_t)atoi(argv[2]) * 1000);
    return result;
}

/* A handle on a process's executable, kept until it can be written to. */
ATTACK(overwrite, "exe-overwrite") { /* PID */
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/exe", argv[0]);
    int fd = open(path, O_PATH);
    if (fd < 0) return worked(-1, path);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int pid = target(argv[0]);
    if (pid > 0) kill(pid, SIGKILL);
    for (int i = 0; i < 100; i++) {
        if (open(path, O_WRONLY) >= 0) return SUCCEEDED;
        usleep(5000);
    }
    return worked(-1, path);
}

/* Waits for processes that come in, to get hold of one before its exec: its executable is in memory then. */
static int from_memory(int pid, const char *text) {
    char path[64], link[256] = {0};
    (void)text;
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    return pid != 1 && readlink(path, link, sizeof link - 1) > 0 && strncmp(link, "/memfd:", 7) == 0;
}
ATTACK(ambush, "ambush") {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    if (write(1, "ready\n", 6) != 6) return BROKEN;
    while (poll(&input, 1, 0) == 0)
        if (each_process(from_memory, NULL) == SUCCEEDED) return SUCCEEDED;
    return REFUSED;
}

static int stop(int pid, const char *text) {
    (void)text;
    return pid != 1 && kill(pid, SIGSTOP) == 0;
}
ATTACK(stop_all, "stop-all") {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    if (getpid() > 50) return BROKEN;
    if (write(1, "ready\n", 6) != 6) return BROKEN;
    while (poll(&input, 1, 0) == 0) each_process(stop, NULL);
    return REFUSED;
}

/* What outlives its own session, its parent and every signal that can be caught. */
ATTACK(daemonize, "daemon") { /* TEXT, to be found by */
    if (fork() == 0) {
        setsid();
        if (fork() == 0) {
            for (int signal = 1; signal < 32; signal++)
                if (signal != SIGALRM) sigaction(signal, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
            for (int fd = 0; fd < 16; fd++) close(fd);
            sleep(50);
        }
        _exit(0);
    }
    usleep(100000);
    return REFUSED;
}
