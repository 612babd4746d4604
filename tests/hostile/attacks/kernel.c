/* Calls to the kernel that a stranger's program has no business with. What would harm the machine is refused by its
 * arguments, after the permission was checked. */

ATTACK(mount_tmpfs, "mount") { return worked(mount("none", "/tmp", "tmpfs", 0, NULL), "mount"); }

ATTACK(unmount, "umount") { return worked(umount2("/tmp", MNT_DETACH), "umount2"); }

ATTACK(pivot, "pivot_root") { return permitted(syscall(SYS_pivot_root, ".", "."), "pivot_root"); }

ATTACK(fs_open, "fsopen") { return worked(syscall(SYS_fsopen, "tmpfs", 0), "fsopen"); }

ATTACK(tree, "open_tree") { return worked(syscall(SYS_open_tree, AT_FDCWD, "/tmp", 1 /* clone */), "open_tree"); }

ATTACK(attributes, "mount_setattr") {
    uint64_t wanted[4] = {8 /* noexec */, 0, 0, 0};
    return worked(syscall(SYS_mount_setattr, AT_FDCWD, "/tmp", 0, wanted, sizeof wanted), "mount_setattr");
}

ATTACK(cgroup_mount, "cgroup-mount") {
    static const char *const controllers[] = {"pids", "memory", "rdma", "misc", "none,name=systemd"};
    int result = worked(mount("none", "/tmp", "cgroup2", 0, NULL), "cgroup2");
    for (size_t i = 0; i < 5; i++)
        result = any(result, worked(mount("none", "/tmp", "cgroup", 0, controllers[i]), controllers[i]));
    return result;
}

ATTACK(proc_mount, "proc-mount") {
    return any(worked(mount("none", "/tmp", "proc", 0, NULL), "proc"), worked(mount("none", "/tmp", "sysfs", 0, NULL), "sysfs"));
}

ATTACK(setns_self, "setns") {
    int fd = open("/proc/self/ns/uts", O_RDONLY);
    return fd < 0 ? REFUSED : worked(setns(fd, 0), "setns");
}

ATTACK(setns_pid, "setns-pid") { /* PID */
    static const char *const kinds[] = {"user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%s/ns/%s", argv[0], kinds[i]);
        int fd = open(path, O_RDONLY);
        if (fd >= 0 && setns(fd, 0) == 0) return SUCCEEDED;
        note(path);
    }
    int pidfd = (int)syscall(SYS_pidfd_open, atoi(argv[0]), 0);
    return pidfd < 0 ? REFUSED : worked(setns(pidfd, CLONE_NEWNET), "setns of a pidfd");
}

ATTACK(unshare_user, "unshare-user") { return worked(unshare(CLONE_NEWUSER), "unshare"); }

static int cloned_user(void) {
    long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    return worked(child, "clone");
}
ATTACK(clone_user, "clone-user") { return apart(cloned_user); }

static int cloned3_user(void) {
    struct clone_args args = {.flags = CLONE_NEWUSER | CLONE_NEWNS, .exit_signal = SIGCHLD};
    long child = syscall(SYS_clone3, &args, sizeof args);
    if (child == 0) _exit(0);
    return worked(child, "clone3");
}
ATTACK(clone3_user, "clone3-user") { return apart(cloned3_user); }

ATTACK(unshare_others, "unshare") {
    static const int kinds[] = {CLONE_NEWNS,  CLONE_NEWNET,    CLONE_NEWIPC,   CLONE_NEWUTS,
                                CLONE_NEWPID, CLONE_NEWCGROUP, 0x80 /* time */};
    int result = ABSENT;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) result = any(result, worked(unshare(kinds[i]), "unshare"));
    return result;
}

ATTACK(namespace_parent, "ns-parent") { /* a namespace's path */
    int fd = open(argv[0], O_RDONLY);
    return fd < 0 ? broken(argv[0]) : worked(ioctl(fd, 0xb702 /* NS_GET_PARENT */), "NS_GET_PARENT");
}

ATTACK(module, "module") {
    int result = permitted(syscall(SYS_init_module, NULL, 0, ""), "init_module");
    result = any(result, permitted(syscall(SYS_finit_module, -1, "", 0), "finit_module"));
    return any(result, permitted(syscall(SYS_delete_module, "stockade_no_such", O_NONBLOCK), "delete_module"));
}

ATTACK(kexec, "kexec") { return permitted(syscall(SYS_kexec_load, 0, 1UL << 20, NULL, 0), "kexec_load"); }

ATTACK(clock_set, "clock-set") {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return worked(clock_settime(CLOCK_REALTIME, &now), "clock_settime");
}

ATTACK(clock_adjust, "clock-adjust") {
    struct timex state = {.modes = 0};
    if (adjtimex(&state) < 0) return worked(-1, "adjtimex");
    state.modes = ADJ_TICK;
    return worked(adjtimex(&state), "adjtimex");
}

ATTACK(host_name, "hostname") {
    char name[65] = {0};
    gethostname(name, sizeof name - 1);
    return worked(sethostname(name, strlen(name)), "sethostname");
}

ATTACK(user_fault, "userfaultfd") { return worked(syscall(SYS_userfaultfd, 1 /* user mode only */), "userfaultfd"); }

ATTACK(perf, "perf") {
    struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_CPU_CLOCK};
    attr.exclude_kernel = attr.exclude_hv = 1;
    return worked(syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0), "perf_event_open");
}

ATTACK(bpf_map, "bpf") {
    union bpf_attr attr = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    return worked(syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr), "bpf");
}

ATTACK(persona, "personality") {
    int now = personality(0xffffffff);
    return worked(now < 0 ? -1 : personality((unsigned)now | ADDR_NO_RANDOMIZE), "personality");
}

ATTACK(swap, "swap") {
    return any(permitted(swapon("/stockade-no-such", 0), "swapon"), permitted(swapoff("/stockade-no-such"), "swapoff"));
}

ATTACK(reboot_call, "reboot") { return permitted(syscall(SYS_reboot, 0, 0, 0, NULL), "reboot"); }

ATTACK(accounting, "acct") { return permitted(acct("/stockade-no-such"), "acct"); }

ATTACK(quota, "quota") { /* a directory */
    int fd = open(argv[0], O_RDONLY | O_DIRECTORY);
    if (fd < 0) return broken(argv[0]);
    return permitted(syscall(SYS_quotactl_fd, fd, QCMD(Q_SETINFO, USRQUOTA), 0, NULL), "quotactl_fd");
}

ATTACK(kernel_log, "syslog") {
    static char text[4096];
    return worked(klogctl(3 /* read all */, text, sizeof text), "syslog");
}

ATTACK(ports, "ioperm") { return worked(ioperm(0x80, 1, 1), "ioperm"); }

ATTACK(fanotify, "fanotify") { return worked(fanotify_init(FAN_CLASS_CONTENT, O_RDONLY), "fanotify_init"); }

ATTACK(realtime, "realtime") {
    struct sched_param param = {.sched_priority = 1};
    int result = worked(sched_setscheduler(0, SCHED_FIFO, &param), "sched_setscheduler");
    return any(result, worked(setpriority(PRIO_PROCESS, 0, -10), "setpriority"));
}

ATTACK(ids, "change-user") {
    gid_t group = 12;
    int result = worked(setgroups(1, &group), "setgroups");
    result = any(result, worked(setresgid(7777, 7777, 7777), "setresgid"));
    return any(result, worked(setresuid(7777, 7777, 7777), "setresuid"));
}

ATTACK(capability_sets, "capabilities") {
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    int seen = 0, result = REFUSED;
    while (status && fgets(line, sizeof line, status))
        if (strncmp(line, "Cap", 3) == 0) {
            seen++;
            if (strtoull(line + 7, NULL, 16) != 0) {
                fputs(line, stderr);
                result = SUCCEEDED;
            }
        }
    return seen == 5 ? result : BROKEN;
}

/* Whether an exec has given what its caller had not. */
ATTACK(privileges, "privileges") {
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    unsigned long long effective = 0;
    while (status && fgets(line, sizeof line, status))
        if (strncmp(line, "CapEff:", 7) == 0) effective = strtoull(line + 7, NULL, 16);
    fprintf(stderr, "uid %d, euid %d, effective %llx\n", getuid(), geteuid(), effective);
    return getuid() != geteuid() || getgid() != getegid() || effective != 0 ? SUCCEEDED : REFUSED;
}

static int call_int80(void) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L /* getpid of i386 */) : "memory", "r8", "r9", "r10", "r11");
    fprintf(stderr, "int 0x80: %ld\n", result);
    if (result == -ENOSYS) return ABSENT;
    return result == getpid() ? SUCCEEDED : REFUSED;
}
ATTACK(int80, "int80") { return apart(call_int80); }

/* What a filter denies by its number of x86-64, by its number of i386: unshare is 310, and takes no pointer. */
static int unshare_int80(void) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(310L), "b"((long)CLONE_NEWUSER) : "memory", "r8", "r9", "r10", "r11");
    fprintf(stderr, "int 0x80: %ld\n", result);
    if (result == -ENOSYS) return ABSENT;
    return result == 0 ? SUCCEEDED : REFUSED;
}
ATTACK(int80_unshare, "int80-unshare") { return apart(unshare_int80); }

static int call_x32(void) {
    errno = 0;
    long result = syscall(0x40000000 | SYS_getpid);
    return worked(result == getpid() ? 0 : -1, "getpid of x32");
}
ATTACK(x32, "x32") { return apart(call_x32); }

/* The kernel looks at 32 bits of these; a filter that compares 64 is passed by with one more set. */
#define HIGH (1L << 32)

ATTACK(high_personality, "high-personality") {
    return worked(syscall(SYS_personality, HIGH | ADDR_NO_RANDOMIZE), "personality");
}

static int high_clone(void) {
    long child = syscall(SYS_clone, HIGH | CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    return any(worked(child, "clone"), worked(syscall(SYS_unshare, HIGH | CLONE_NEWUSER), "unshare"));
}
ATTACK(high_clone_user, "high-clone") { return apart(high_clone); }

ATTACK(high_socket, "high-socket") { /* FAMILY TYPE */
    return worked(syscall(SYS_socket, HIGH | atol(argv[0]), HIGH | atol(argv[1]), 0), "socket");
}

static int ring_setup(struct io_uring_params *params) {
    memset(params, 0, sizeof *params);
    return (int)syscall(SYS_io_uring_setup, 4, params);
}

ATTACK(ring, "io_uring") {
    struct io_uring_params params;
    return worked(ring_setup(&params), "io_uring_setup");
}

/* A call that a filter would see, made by the ring. */
ATTACK(ring_operation, "io_uring-open") {
    struct io_uring_params params;
    int ring = ring_setup(&params);
    if (ring < 0) return worked(-1, "io_uring_setup");
    size_t sq_size = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    size_t cq_size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
    char *sq = mmap(NULL, sq_size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    char *cq = mmap(NULL, cq_size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    struct io_uring_sqe *sqes =
        mmap(NULL, params.sq_entries * sizeof *sqes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
    if (sq == MAP_FAILED || cq == MAP_FAILED || sqes == MAP_FAILED) return broken("mmap");
    memset(sqes, 0, sizeof *sqes);
    sqes->opcode = IORING_OP_OPENAT;
    sqes->fd = AT_FDCWD;
    sqes->addr = (uint64_t)(uintptr_t)"/proc/self/status";
    sqes->open_flags = O_RDONLY;
    unsigned *tail = (unsigned *)(void *)(sq + params.sq_off.tail);
    ((unsigned *)(void *)(sq + params.sq_off.array))[*tail & (params.sq_entries - 1)] = 0;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0) return worked(-1, "io_uring_enter");
    struct io_uring_cqe *cqe = (struct io_uring_cqe *)(void *)(cq + params.cq_off.cqes);
    errno = cqe->res < 0 ? -cqe->res : 0;
    return worked(cqe->res, "IORING_OP_OPENAT");
}

/* Typing into the terminal on stdin, for the shell that will read it. */
static int steal_terminal(void) {
    setsid();
    ioctl(0, TIOCSCTTY, 1);
    int result = worked(ioctl(0, TIOCSTI, "x"), "TIOCSTI");
    return any(result, worked(syscall(SYS_ioctl, 0, 1L << 32 | TIOCSTI, "x"), "TIOCSTI"));
}
ATTACK(terminal_input, "tiocsti") {
    int result = worked(ioctl(0, TIOCSTI, "x"), "TIOCSTI");
    return any(result, apart(steal_terminal));
}

ATTACK(terminal_console, "tioclinux") {
    char what = 6; /* the state of shift; 2 and 3 would select and paste */
    return worked(ioctl(3, TIOCLINUX, &what), "TIOCLINUX");
}

static long key_control(long operation, long a, long b, long c, long d) { return syscall(SYS_keyctl, operation, a, b, c, d); }
static long add_key(const char *name, int keyring) { return syscall(SYS_add_key, "user", name, "secret", 6UL, keyring); }

ATTACK(key_add, "key-add") { return worked(add_key("stockade-hostile", -3 /* session */), "add_key"); }

/* A key in the keyring of the user and in the session's. */
ATTACK(key_put, "key-put") { /* a name */
    key_control(1 /* join a new session */, 0, 0, 0, 0);
    long ours = add_key(argv[0], -4), session = add_key(argv[0], -3);
    if (ours < 0 || session < 0) return broken("add_key");
    key_control(15 /* timeout */, ours, 120, 0, 0);
    fprintf(stderr, "%ld\n", session);
    hold();
    key_control(9 /* unlink */, ours, -4, 0, 0);
    return REFUSED;
}

ATTACK(key_find, "key-find") { /* a name */
    int result = ABSENT;
    for (int keyring = -3; keyring >= -5; keyring--)
        result = any(result, worked(key_control(10 /* search */, keyring, (long)"user", (long)argv[0], 0), "keyctl"));
    return any(result, worked(syscall(SYS_request_key, "user", argv[0], NULL, 0), "request_key"));
}

ATTACK(key_list, "key-list") { /* a name */ return contains("/proc/keys", argv[0]) ? SUCCEEDED : REFUSED; }

ATTACK(key_describe, "key-describe") { /* a key's number */
    char text[128];
    int result = worked(key_control(6 /* describe */, atol(argv[0]), (long)text, sizeof text, 0), "describe");
    return any(result, worked(key_control(11 /* read */, atol(argv[0]), (long)text, sizeof text, 0), "read"));
}
