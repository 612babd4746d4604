//! Capabilities (capabilities(7)).

use bitflags::bitflags;

bitflags! {
    /// A set of capabilities (capabilities(7)), bit n for the kernel's number n.
    ///
    /// ```
    /// # use stockade::Capabilities;
    /// let few = Capabilities::NET_RAW | Capabilities::NET_BIND_SERVICE;
    /// assert_eq!(few.bits(), 1 << 13 | 1 << 10);
    /// ```
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Capabilities: u64 {
        /// `CAP_CHOWN`
        const CHOWN = 1 << 0;
        /// `CAP_DAC_OVERRIDE`
        const DAC_OVERRIDE = 1 << 1;
        /// `CAP_DAC_READ_SEARCH`
        const DAC_READ_SEARCH = 1 << 2;
        /// `CAP_FOWNER`
        const FOWNER = 1 << 3;
        /// `CAP_FSETID`
        const FSETID = 1 << 4;
        /// `CAP_KILL`
        const KILL = 1 << 5;
        /// `CAP_SETGID`
        const SETGID = 1 << 6;
        /// `CAP_SETUID`
        const SETUID = 1 << 7;
        /// `CAP_SETPCAP`
        const SETPCAP = 1 << 8;
        /// `CAP_LINUX_IMMUTABLE`
        const LINUX_IMMUTABLE = 1 << 9;
        /// `CAP_NET_BIND_SERVICE`
        const NET_BIND_SERVICE = 1 << 10;
        /// `CAP_NET_BROADCAST`
        const NET_BROADCAST = 1 << 11;
        /// `CAP_NET_ADMIN`
        const NET_ADMIN = 1 << 12;
        /// `CAP_NET_RAW`
        const NET_RAW = 1 << 13;
        /// `CAP_IPC_LOCK`
        const IPC_LOCK = 1 << 14;
        /// `CAP_IPC_OWNER`
        const IPC_OWNER = 1 << 15;
        /// `CAP_SYS_MODULE`
        const SYS_MODULE = 1 << 16;
        /// `CAP_SYS_RAWIO`
        const SYS_RAWIO = 1 << 17;
        /// `CAP_SYS_CHROOT`
        const SYS_CHROOT = 1 << 18;
        /// `CAP_SYS_PTRACE`
        const SYS_PTRACE = 1 << 19;
        /// `CAP_SYS_PACCT`
        const SYS_PACCT = 1 << 20;
        /// `CAP_SYS_ADMIN`
        const SYS_ADMIN = 1 << 21;
        /// `CAP_SYS_BOOT`
        const SYS_BOOT = 1 << 22;
        /// `CAP_SYS_NICE`
        const SYS_NICE = 1 << 23;
        /// `CAP_SYS_RESOURCE`
        const SYS_RESOURCE = 1 << 24;
        /// `CAP_SYS_TIME`
        const SYS_TIME = 1 << 25;
        /// `CAP_SYS_TTY_CONFIG`
        const SYS_TTY_CONFIG = 1 << 26;
        /// `CAP_MKNOD`
        const MKNOD = 1 << 27;
        /// `CAP_LEASE`
        const LEASE = 1 << 28;
        /// `CAP_AUDIT_WRITE`
        const AUDIT_WRITE = 1 << 29;
        /// `CAP_AUDIT_CONTROL`
        const AUDIT_CONTROL = 1 << 30;
        /// `CAP_SETFCAP`
        const SETFCAP = 1 << 31;
        /// `CAP_MAC_OVERRIDE`
        const MAC_OVERRIDE = 1 << 32;
        /// `CAP_MAC_ADMIN`
        const MAC_ADMIN = 1 << 33;
        /// `CAP_SYSLOG`
        const SYSLOG = 1 << 34;
        /// `CAP_WAKE_ALARM`
        const WAKE_ALARM = 1 << 35;
        /// `CAP_BLOCK_SUSPEND`
        const BLOCK_SUSPEND = 1 << 36;
        /// `CAP_AUDIT_READ`
        const AUDIT_READ = 1 << 37;
        /// `CAP_PERFMON`
        const PERFMON = 1 << 38;
        /// `CAP_BPF`
        const BPF = 1 << 39;
        /// `CAP_CHECKPOINT_RESTORE`
        const CHECKPOINT_RESTORE = 1 << 40;
    }
}

bitflags! {
    /// How the kernel treats uid 0 and changes of ids (`SECBIT_*`, capabilities(7)).
    ///
    /// ```
    /// # use stockade::Securebits;
    /// let bits = Securebits::NOROOT | Securebits::NOROOT_LOCKED;
    /// assert_eq!(bits.bits(), 3);
    /// ```
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Securebits: u32 {
        /// uid 0 gets no capabilities by an exec.
        const NOROOT = 1 << 0;
        /// And that stays so.
        const NOROOT_LOCKED = 1 << 1;
        /// Changes of ids change no capabilities.
        const NO_SETUID_FIXUP = 1 << 2;
        /// And that stays so.
        const NO_SETUID_FIXUP_LOCKED = 1 << 3;
        /// `KEEP_CAPS` cannot be changed any more.
        const KEEP_CAPS_LOCKED = 1 << 5;
        /// No capability becomes ambient.
        const NO_CAP_AMBIENT_RAISE = 1 << 6;
        /// And that stays so.
        const NO_CAP_AMBIENT_RAISE_LOCKED = 1 << 7;
    }
}

impl Securebits {
    /// What a program without capabilities gets: it never has any again by being or becoming uid 0.
    pub(crate) const NO_CAPABILITIES: Self = Self::NOROOT
        .union(Self::NOROOT_LOCKED)
        .union(Self::NO_CAP_AMBIENT_RAISE)
        .union(Self::NO_CAP_AMBIENT_RAISE_LOCKED);
}

impl Capabilities {
    /// What the calling thread may do now (its effective set).
    pub(crate) fn effective() -> Self {
        rustix::thread::capabilities(None).map_or(Self::empty(), |sets| Self::from_bits_truncate(sets.effective.bits()))
    }

    /// The highest capability that the running kernel knows.
    pub(crate) fn last() -> u32 {
        let known = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok();
        known.and_then(|text| text.trim().parse().ok()).unwrap_or(40)
    }
}
