//! Resource limits of a process (setrlimit(2)).

use crate::error::Error;
use crate::plan;

macro_rules! resources {
    ($($(#[$doc:meta])* $name:ident = $number:literal $rustix:ident,)*) => {
        /// What a resource limit limits: each process by itself, not the tree (setrlimit(2)).
        ///
        /// ```
        /// # use stockade::{Resource, Sandbox};
        /// let sandbox = Sandbox::new().rlimit(Resource::FileSize, 1000).rlimit(Resource::Core, 1);
        /// let script = "head -c 2000 /dev/zero > /tmp/$$; s=$?; rm /tmp/$$; exit $s";
        /// assert!(!sandbox.command("sh").args(["-c", script]).output()?.outcome.success());
        /// # Ok::<(), stockade::Error>(())
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(u32)]
        pub enum Resource { $($(#[$doc])* $name = $number,)* }

        impl Resource {
            /// Every resource.
            ///
            /// ```
            /// # use stockade::Resource;
            /// assert_eq!(Resource::ALL.len(), 16);
            /// ```
            pub const ALL: &'static [Resource] = &[$(Resource::$name,)*];

            fn rustix(self) -> rustix::process::Resource {
                match self { $(Resource::$name => rustix::process::Resource::$rustix,)* }
            }
        }
    };
}

resources! {
    /// Seconds of CPU time (`RLIMIT_CPU`): SIGXCPU at the limit, and SIGKILL a second later.
    Cpu = 0 Cpu,
    /// Bytes of the largest file that it may write (`RLIMIT_FSIZE`).
    FileSize = 1 Fsize,
    /// Bytes of data segment (`RLIMIT_DATA`).
    Data = 2 Data,
    /// Bytes of stack (`RLIMIT_STACK`).
    Stack = 3 Stack,
    /// Bytes of a core dump (`RLIMIT_CORE`). A kernel that pipes cores to a program does so at 0 too, but not at 1.
    Core = 4 Core,
    /// Bytes resident (`RLIMIT_RSS`); the kernel has ignored it since 2.4.30.
    ResidentSet = 5 Rss,
    /// Processes of the user, in the user namespace (`RLIMIT_NPROC`).
    Processes = 6 Nproc,
    /// One more than the highest descriptor (`RLIMIT_NOFILE`).
    OpenFiles = 7 Nofile,
    /// Bytes of locked memory (`RLIMIT_MEMLOCK`).
    LockedMemory = 8 Memlock,
    /// Bytes of address space (`RLIMIT_AS`). It is not memory in use: many runtimes reserve far more than they touch.
    AddressSpace = 9 As,
    /// File locks (`RLIMIT_LOCKS`); only kernels before 2.4.25 had it.
    Locks = 10 Locks,
    /// Queued signals (`RLIMIT_SIGPENDING`).
    PendingSignals = 11 Sigpending,
    /// Bytes in POSIX message queues (`RLIMIT_MSGQUEUE`).
    MessageQueues = 12 Msgqueue,
    /// Ceiling of the nice value, as 20 minus nice (`RLIMIT_NICE`).
    Nice = 13 Nice,
    /// Ceiling of the real-time priority (`RLIMIT_RTPRIO`).
    RealtimePriority = 14 Rtprio,
    /// Microseconds of real-time scheduling without a blocking call (`RLIMIT_RTTIME`).
    RealtimeTime = 15 Rttime,
}

/// Soft and hard limit are both set to the value; that of CPU time is one second harder, since SIGXCPU, which comes at the
/// soft limit, tells more than a SIGKILL does. Raising a hard limit needs CAP_SYS_RESOURCE in the host's namespace.
pub(crate) fn compile(resource: Resource, value: u64, may_raise: bool) -> Result<plan::Rlimit, Error> {
    let highest = rustix::process::getrlimit(resource.rustix()).maximum.filter(|_| !may_raise).unwrap_or(u64::MAX);
    if value > highest {
        let reason = format!(
            "{resource:?}: {value} is above the hard limit of {highest}, and raising it needs CAP_SYS_RESOURCE"
        );
        return Err(Error::invalid("rlimit", reason));
    }
    let hard = if resource == Resource::Cpu { value.saturating_add(1).min(highest) } else { value };
    Ok(plan::Rlimit { resource: resource as u32, soft: value, hard })
}
