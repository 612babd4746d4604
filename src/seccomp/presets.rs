//! Ready-made filters. Names that an architecture does not have are left out of them.

use std::borrow::Cow;

use super::compile::resolve;
use super::{Action, Condition, Filter, Syscall};

const EPERM: Action = Action::Errno(1);
const ENOSYS: Action = Action::Errno(38);
const EPROTONOSUPPORT: Action = Action::Errno(93);
const EOPNOTSUPP: Action = Action::Errno(95);
const EAFNOSUPPORT: Action = Action::Errno(97);

const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const AF_NETLINK: u64 = 16;
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
const NETLINK_ROUTE: u64 = 0;
const IPPROTO_UDP: u64 = 17;
const IPPROTO_ICMPV6: u64 = 58;

/// `CLONE_NEW*` as clone(2) takes them.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// Nothing, `PER_LINUX32`, `UNAME26`, both, and the question which it is: as container engines have it. None of them makes
/// an exploit easier, as `READ_IMPLIES_EXEC` and `ADDR_NO_RANDOMIZE` do.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Typing into the terminal from which the sandbox was started (`TIOCSTI`, `TIOCLINUX`), and choosing line disciplines
/// (`TIOCSETD`), rarely used code of the kernel.
const TERMINAL_TRICKS: [u64; 3] = [0x5412, 0x541c, 0x5423];

#[rustfmt::skip]
mod names {
    pub(super) const FILES: &[&str] = &[
        "access", "chdir", "chmod", "close", "close_range", "copy_file_range", "creat", "dup", "dup2", "dup3", "faccessat",
        "faccessat2", "fadvise64", "fallocate", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fcntl", "fdatasync",
        "fgetxattr", "flistxattr", "flock", "fstat", "fstatfs", "fsync", "ftruncate", "futimesat", "getcwd", "getdents",
        "getdents64", "getxattr", "getxattrat", "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch",
        "lgetxattr", "link", "linkat", "listxattr", "listxattrat", "llistxattr", "lseek", "lstat", "mkdir", "mkdirat",
        "newfstatat", "open", "openat", "openat2", "pipe", "pipe2", "pread64", "preadv", "preadv2", "pwrite64", "pwritev",
        "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv", "rename", "renameat", "renameat2", "rmdir",
        "sendfile", "splice", "stat", "statfs", "statx", "symlink", "symlinkat", "sync", "sync_file_range", "syncfs", "tee",
        "truncate", "umask", "unlink", "unlinkat", "utime", "utimensat", "utimes", "write", "writev",
    ];
    pub(super) const EVENTS: &[&str] = &[
        "epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd", "eventfd2",
        "poll", "ppoll", "pselect6", "select", "signalfd", "signalfd4", "timerfd_create", "timerfd_gettime",
        "timerfd_settime",
    ];
    pub(super) const MEMORY: &[&str] = &[
        "brk", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "mincore", "mlock", "mlock2", "mlockall", "mmap",
        "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall", "munmap", "pkey_alloc", "pkey_free",
        "pkey_mprotect",
    ];
    pub(super) const PROCESSES: &[&str] = &[
        "arch_prctl", "capget", "execve", "execveat", "exit", "exit_group", "fork", "futex", "futex_requeue", "futex_wait",
        "futex_waitv", "futex_wake", "get_robust_list", "getcpu", "getegid", "geteuid", "getgid", "getgroups", "getpgid",
        "getpgrp", "getpid", "getppid", "getpriority", "getrandom", "getresgid", "getresuid", "getrlimit", "getrusage",
        "getsid", "gettid", "getuid", "ioprio_get", "kill", "pidfd_open", "pidfd_send_signal", "prctl", "prlimit64",
        "restart_syscall", "riscv_flush_icache", "riscv_hwprobe", "rseq", "rt_sigaction", "rt_sigpending",
        "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo",
        "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam",
        "sched_getscheduler", "sched_rr_get_interval", "sched_setaffinity", "sched_yield", "set_robust_list",
        "set_tid_address", "setpgid", "setpriority", "setrlimit", "setsid", "sigaltstack", "sysinfo", "tgkill", "times",
        "tkill", "uname", "vfork", "wait4", "waitid",
    ];
    pub(super) const TIME: &[&str] = &[
        "alarm", "clock_getres", "clock_gettime", "clock_nanosleep", "getitimer", "gettimeofday", "nanosleep", "pause",
        "setitimer", "time", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime",
    ];
    /// What is done with a socket that one has.
    pub(super) const SOCKETS: &[&str] = &[
        "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom", "recvmmsg",
        "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socketpair",
    ];
    /// What container engines allow beyond all that.
    pub(super) const CONTAINER: &[&str] = &[
        "adjtimex", "cachestat", "capset", "chown", "clock_adjtime", "epoll_ctl_old", "epoll_wait_old", "fanotify_mark",
        "fchown", "fchownat", "fremovexattr", "fsetxattr", "get_thread_area", "io_cancel", "io_destroy", "io_getevents",
        "io_pgetevents", "io_setup", "io_submit", "ioctl", "ioprio_set", "landlock_add_rule", "landlock_create_ruleset",
        "landlock_restrict_self", "lchown", "listmount", "lremovexattr", "lsetxattr", "memfd_secret", "mknod", "mknodat",
        "modify_ldt", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink", "msgctl",
        "msgget", "msgrcv", "msgsnd", "name_to_handle_at", "process_mrelease", "process_vm_readv", "process_vm_writev",
        "ptrace", "remap_file_pages", "removexattr", "removexattrat", "sched_setattr", "sched_setparam",
        "sched_setscheduler", "seccomp", "semctl", "semget", "semop", "semtimedop", "set_thread_area", "setfsgid",
        "setfsuid", "setgid", "setgroups", "setregid", "setresgid", "setresuid", "setreuid", "setuid", "setxattr",
        "setxattrat", "shmat", "shmctl", "shmdt", "shmget", "statmount", "uretprobe", "vmsplice",
    ];
    pub(super) const IO_URING: &[&str] = &["io_uring_enter", "io_uring_register", "io_uring_setup"];
    /// What judges and plugin hosts learned to refuse, and programs take as forbidden.
    pub(super) const LEARNED: &[&str] = &[
        // other processes
        "kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace",
        // namespaces, mounts and files by handle
        "chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "name_to_handle_at",
        "open_by_handle_at", "open_tree", "open_tree_attr", "pivot_root", "setns", "umount2", "unshare",
        // keyrings, which no namespace keeps apart
        "add_key", "keyctl", "request_key",
        // code of the kernel in which many holes were found, and a way to stop the kernel where one wants it
        "bpf", "fanotify_init", "fanotify_mark", "perf_event_open", "userfaultfd",
        // the machine
        "acct", "adjtimex", "clock_adjtime", "clock_settime", "delete_module", "finit_module", "init_module", "ioperm",
        "iopl", "kexec_file_load", "kexec_load", "lookup_dcookie", "nfsservctl", "quotactl", "quotactl_fd", "reboot",
        "setdomainname", "sethostname", "settimeofday", "swapoff", "swapon", "syslog", "vhangup",
    ];
    /// The same, where programs ask whether the kernel has it and do without.
    pub(super) const DISPENSABLE: &[&str] =
        // What the first of these takes is the whole machine's (fs.aio-max-nr).
        &["io_setup", "memfd_secret", "modify_ldt", "remap_file_pages", "uretprobe", "vmsplice"];
    /// What runtimes try and can do without, for judges.
    pub(super) const FORBIDDEN: &[&str] = &[
        "capset", "chown", "fchown", "fchownat", "get_mempolicy", "ioprio_set", "lchown", "mbind", "mknod", "mknodat",
        "move_pages", "name_to_handle_at", "sched_setattr", "sched_setparam", "sched_setscheduler", "seccomp",
        "set_mempolicy", "set_mempolicy_home_node", "setfsgid", "setfsuid", "setgid", "setgroups", "setregid", "setresgid",
        "setresuid", "setreuid", "setuid",
    ];
    pub(super) const ATTRIBUTES: &[&str] = &[
        "fremovexattr", "fsetxattr", "lremovexattr", "lsetxattr", "removexattr", "removexattrat", "setxattr", "setxattrat",
    ];
    pub(super) const PROBED: &[&str] = &[
        "cachestat", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "listmount",
        "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "statmount",
    ];
    /// Of a program that computes: what libraries do at its start and end is in it.
    pub(super) const COMPUTING: &[&str] = &[
        "brk", "clock_gettime", "close", "exit", "exit_group", "fstat", "futex", "getrandom", "gettimeofday", "lseek",
        "madvise", "mmap", "mprotect", "mremap", "munmap", "newfstatat", "read", "readv", "restart_syscall", "rseq",
        "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "set_robust_list", "set_tid_address", "sigaltstack", "time",
        "uname", "write", "writev",
    ];
}

impl Filter {
    /// What container engines allow by default to a container without capabilities (Docker's list of 2026): most of what
    /// programs use, `ptrace(2)` included, but neither mounts nor namespaces nor keyrings nor what administers the machine, and
    /// no sockets of `AF_ALG` and `AF_VSOCK`.
    /// The rest fails with EPERM, and calls that are newer than the list with ENOSYS, so that programs do without them.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::Filter;
    /// let sandbox = Sandbox::new().user_ns().seccomp(Filter::default_profile());
    /// assert!(sandbox.command("ls").arg("/").output()?.outcome.success());
    /// assert!(!sandbox.command("unshare").args(["--user", "true"]).output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn default_profile() -> Self {
        Self::allow_list()
            .otherwise(EPERM)
            .ordinary()
            .each(names::CONTAINER, &[], Action::Allow)
            .personality(EPERM)
            .one("socket", [socket_argument(0).ne(AF_VSOCK), socket_argument(0).ne(AF_ALG)], Action::Allow)
            .newest_named()
    }

    /// The [default profile](Self::default_profile) without what judges and plugin hosts learned to refuse: other
    /// processes' memory (`ptrace`, `process_vm_*`, `pidfd_getfd`), keyrings, io_uring, bpf, perf, userfaultfd, files by
    /// handle, the kernel's asynchronous I/O, typing into the terminal (`TIOCSTI`), and sockets other than Unix, IPv4, IPv6 (TCP, UDP, ICMP) and
    /// `NETLINK_ROUTE`, by which libraries ask for addresses. Ordinary programs keep running: nothing is answered with more
    /// than an error.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::Filter;
    /// let sandbox = Sandbox::new().seccomp(Filter::hardened());
    /// assert!(sandbox.command("ls").arg("/").output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn hardened() -> Self {
        Self::default_profile()
            .each(names::LEARNED, &[], EPERM)
            .each(names::DISPENSABLE, &[], ENOSYS)
            .each(names::IO_URING, &[], ENOSYS)
            .terminal()
            .unix_sockets()
            .one("socket", internet(AF_INET, socket_argument(2).le(IPPROTO_UDP)), Action::Allow)
            .one("socket", internet(AF_INET6, socket_argument(2).le(IPPROTO_UDP)), Action::Allow)
            .one("socket", internet(AF_INET6, socket_argument(2).eq(IPPROTO_ICMPV6)), Action::Allow)
            .one("socket", [socket_argument(0).eq(AF_INET)], EPROTONOSUPPORT)
            .one("socket", [socket_argument(0).eq(AF_INET6)], EPROTONOSUPPORT)
            .one("socket", [socket_argument(0).eq(AF_NETLINK), socket_argument(2).eq(NETLINK_ROUTE)], Action::Allow)
            .newest_named()
    }

    /// For judging programs: those that a compiler made, and CPython, Node, the JVM and Go, start and work under it, with
    /// files, threads, processes and Unix sockets. What runtimes try and can do without fails with an error, as do sockets of
    /// the network; whatever else is called is answered with [`Action::Kill`], and so ends the run and is named.
    ///
    /// ```
    /// # use stockade::{Sandbox, Verdict};
    /// # use stockade::seccomp::Filter;
    /// let sandbox = Sandbox::new().user_ns().seccomp(Filter::judge());
    /// assert!(sandbox.command("ls").arg("/").output()?.outcome.success());
    /// match sandbox.command("unshare").args(["--uts", "true"]).output()?.outcome.verdict {
    ///     Verdict::SyscallDenied(call) => assert_eq!(call.syscall, "unshare"),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn judge() -> Self {
        Self::allow_list()
            .ordinary()
            .terminal()
            .personality(EPERM)
            .each(names::FORBIDDEN, &[], EPERM)
            .each(names::ATTRIBUTES, &[], EOPNOTSUPP)
            .each(names::DISPENSABLE, &[], ENOSYS)
            .each(names::IO_URING, &[], ENOSYS)
            .each(names::PROBED, &[], ENOSYS)
            .unix_sockets()
            .newest_named()
    }

    /// Reading and writing what is open, memory, the clock, and the end: for a program that was linked statically, computes
    /// and prints. All else is answered with [`Action::Kill`]; the launch of the program itself is let through, though it
    /// cannot execute another.
    ///
    /// ```
    /// # use stockade::{Sandbox, Verdict};
    /// # use stockade::seccomp::Filter;
    /// let sandbox = Sandbox::new().seccomp(Filter::pure_compute());
    /// let outcome = sandbox.command("ls").output()?.outcome; // opens files, as its linker does
    /// assert!(matches!(outcome.verdict, Verdict::SyscallDenied(_)));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn pure_compute() -> Self {
        Self::allow_list()
            .each(names::COMPUTING, &[], Action::Allow)
            .each(&["readlink", "readlinkat"], &[], EPERM)
            // Whether output is a terminal.
            .each(&["ioctl"], &[], Action::Errno(25))
            .each(&["arch_prctl"], &[], Action::Allow)
            .one("prlimit64", [Condition::arg(2).eq(0)], Action::Allow)
    }

    /// A deny list for use with [`and`](Self::and): no sockets but `AF_UNIX`, by `socket(2)` or `socketpair(2)`
    /// (EAFNOSUPPORT, which programs take as a machine without that network), and no io_uring, which can make them too.
    ///
    /// It does not cover sockets that the program was given or is sent, nor abstract Unix sockets of its network namespace:
    /// those are a matter of Landlock's scopes, or of a network namespace.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::Filter;
    /// let sandbox = Sandbox::new().seccomp(Filter::hardened().and(Filter::no_network()));
    /// assert!(sandbox.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn no_network() -> Self {
        Self::deny_list()
            .one("socket", [socket_argument(0).ne(AF_UNIX)], EAFNOSUPPORT)
            .one("socketpair", [socket_argument(0).ne(AF_UNIX)], EAFNOSUPPORT)
            .each(names::IO_URING, &[], ENOSYS)
    }

    /// What nearly every program may do; sockets can be used, not made.
    fn ordinary(self) -> Self {
        use names::{EVENTS, FILES, MEMORY, PROCESSES, SOCKETS, TIME};
        [FILES, EVENTS, MEMORY, PROCESSES, TIME, SOCKETS]
            .into_iter()
            .fold(self, |filter, names| filter.each(names, &[], Action::Allow))
            // The kernel does not look at the upper half of clone's flags.
            .one("clone", [Condition::arg(0).low32().masked_eq(CLONE_NAMESPACES, 0)], Action::Allow)
            .each(&["clone3"], &[], ENOSYS)
    }

    /// No others, and no pairs of others.
    fn unix_sockets(self) -> Self {
        ["socket", "socketpair"].into_iter().fold(self, |filter, name| {
            filter.each(&[name], &[], EAFNOSUPPORT).one(name, [socket_argument(0).eq(AF_UNIX)], Action::Allow)
        })
    }

    fn terminal(self) -> Self {
        TERMINAL_TRICKS.into_iter().fold(self.each(&["ioctl"], &[], Action::Allow), |filter, request| {
            filter.one("ioctl", [Condition::arg(1).low32().eq(request)], EPERM)
        })
    }

    fn personality(self, otherwise: Action) -> Self {
        PERSONALITIES.into_iter().fold(self.each(&["personality"], &[], otherwise), |filter, value| {
            filter.one("personality", [Condition::arg(0).low32().eq(value)], Action::Allow)
        })
    }

    fn each(self, names: &[&'static str], conditions: &[Condition], action: Action) -> Self {
        names.iter().fold(self, |filter, name| {
            filter.push(Syscall::Name(Cow::Borrowed(name)), conditions.to_vec(), action, true)
        })
    }

    fn one<const N: usize>(self, name: &'static str, conditions: [Condition; N], action: Action) -> Self {
        self.each(&[name], &conditions, action)
    }

    /// What is newer than all that it names fails with ENOSYS, as runc has it: a list cannot know what will come, and
    /// programs and libraries that know more than it try.
    fn newest_named(mut self) -> Self {
        self.newest = self.rules.iter().filter_map(|rule| resolve(&rule.call, true).ok().flatten()).max();
        self
    }
}

/// The kernel takes all of socket(2)'s arguments as `int`.
fn socket_argument(index: u8) -> super::Argument {
    Condition::arg(index).low32()
}

/// Streams, datagrams and raw sockets (1 to 3; the flags are above the low four bits): others load modules such as SCTP's.
fn internet(family: u64, protocol: Condition) -> [Condition; 3] {
    [socket_argument(0).eq(family), socket_argument(1).masked_eq(0xc, 0), protocol]
}
