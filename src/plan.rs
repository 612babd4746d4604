//! The plan's flat form: written by the host, read by the stage.
//!
//! Everything that crosses from the host to the stage, or back, is one of the records below. A record is its fields in
//! order, integers in the machine's byte order, strings with their length and their NUL, lists with their count and
//! their length in bytes. Decoding allocates nothing, checks every bound, and never trusts a length.
//!
//! This file is compiled twice: into the library, and into the freestanding stage. It therefore uses `core` only.
//! Field order is step order: what stands first in [`Plan`] is done first.

use core::ffi::CStr;
use core::marker::PhantomData;

/// The bytes are not a record of the kind that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Where encoded bytes go: a growing buffer in the host, a fixed one in the stage.
pub trait Sink {
    /// Takes the next bytes.
    fn put(&mut self, bytes: &[u8]);
}

/// What is still to be decoded.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the beginning of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(Malformed)?;
        self.rest = tail;
        Ok(*head)
    }
}

/// A value with one flat form.
pub trait Wire<'a>: Sized {
    /// Reads one value and moves on behind it.
    fn decode(from: &mut Reader<'a>) -> Result<Self, Malformed>;
    /// Writes the value.
    fn encode(&self, to: &mut impl Sink);
}

/// Decodes a whole buffer as one value: trailing bytes are malformed too.
pub fn decode<'a, T: Wire<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    let mut reader = Reader::new(bytes);
    let value = T::decode(&mut reader)?;
    if reader.rest.is_empty() { Ok(value) } else { Err(Malformed) }
}

macro_rules! integers {
    ($($int:ty),*) => {$(
        impl<'a> Wire<'a> for $int {
            fn decode(from: &mut Reader<'a>) -> Result<Self, Malformed> {
                Ok(<$int>::from_ne_bytes(from.array()?))
            }
            fn encode(&self, to: &mut impl Sink) {
                to.put(&self.to_ne_bytes());
            }
        }
    )*};
}
integers!(u32, i32, u64, i64);

impl<'a> Wire<'a> for &'a CStr {
    fn decode(from: &mut Reader<'a>) -> Result<Self, Malformed> {
        let len = u32::decode(from)?;
        let bytes = from.take(usize::try_from(len).map_err(|_| Malformed)?)?;
        CStr::from_bytes_with_nul(bytes).map_err(|_| Malformed)
    }
    fn encode(&self, to: &mut impl Sink) {
        let bytes = self.to_bytes_with_nul();
        length(bytes.len()).encode(to);
        to.put(bytes);
    }
}

impl<'a> Wire<'a> for &'a [u8] {
    fn decode(from: &mut Reader<'a>) -> Result<Self, Malformed> {
        let len = u32::decode(from)?;
        from.take(usize::try_from(len).map_err(|_| Malformed)?)
    }
    fn encode(&self, to: &mut impl Sink) {
        length(self.len()).encode(to);
        to.put(self);
    }
}

/// A length as it is written. Nothing longer than 4 GiB is ever encoded: the host caps its plans far below that.
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A sequence of records, decoded one by one as it is walked; each was checked when the list was decoded.
#[derive(Debug)]
pub struct List<'a, T> {
    count: u32,
    bytes: &'a [u8],
    of: PhantomData<T>,
}

impl<T> Clone for List<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for List<'_, T> {}

impl<'a, T: Wire<'a>> List<'a, T> {
    /// A list of `count` records that were encoded one behind the other into `bytes`.
    pub const fn from_encoded(count: u32, bytes: &'a [u8]) -> Self {
        Self { count, bytes, of: PhantomData }
    }

    /// How many there are.
    pub const fn len(&self) -> u32 {
        self.count
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Walks the records in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let mut reader = Reader::new(self.bytes);
        let mut left = self.count;
        core::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            T::decode(&mut reader).ok()
        })
    }
}

impl<'a, T: Wire<'a>> Wire<'a> for List<'a, T> {
    fn decode(from: &mut Reader<'a>) -> Result<Self, Malformed> {
        let count = u32::decode(from)?;
        let len = u32::decode(from)?;
        let bytes = from.take(usize::try_from(len).map_err(|_| Malformed)?)?;
        let mut items = Reader::new(bytes);
        for _ in 0..count {
            // A record is never empty, so `count` cannot make this loop longer than the bytes are.
            let before = items.rest.len();
            T::decode(&mut items)?;
            if items.rest.len() == before {
                return Err(Malformed);
            }
        }
        if items.rest.is_empty() { Ok(Self::from_encoded(count, bytes)) } else { Err(Malformed) }
    }
    fn encode(&self, to: &mut impl Sink) {
        self.count.encode(to);
        length(self.bytes.len()).encode(to);
        to.put(self.bytes);
    }
}

macro_rules! record {
    ($(#[$doc:meta])* $name:ident $(<$life:lifetime>)? { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name $(<$life>)? { $($(#[$fdoc])* pub $field: $type,)* }

        record!(@impl $name [$($life)?] $($field: $type,)*);
    };
    (@impl $name:ident [$life:lifetime] $($field:ident: $type:ty,)*) => {
        impl<$life> Wire<$life> for $name<$life> {
            fn decode(from: &mut Reader<$life>) -> Result<Self, Malformed> {
                Ok(Self { $($field: Wire::decode(from)?,)* })
            }
            fn encode(&self, to: &mut impl Sink) { $(self.$field.encode(to);)* }
        }
    };
    (@impl $name:ident [] $($field:ident: $type:ty,)*) => {
        impl<'a> Wire<'a> for $name {
            fn decode(from: &mut Reader<'a>) -> Result<Self, Malformed> {
                Ok(Self { $($field: Wire::decode(from)?,)* })
            }
            fn encode(&self, to: &mut impl Sink) { $(self.$field.encode(to);)* }
        }
    };
}

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// One step of a launch, in the order in which a launch goes through them. An [`Error::Setup`] names the step that failed.
        ///
        /// [`Error::Setup`]: crate::Error::Setup
        ///
        /// ```
        /// # use stockade::{Error, Sandbox, Step};
        /// let sandbox = Sandbox::new().bind_ro("/usr", "/no/such/target");
        /// match sandbox.command("true").spawn() {
        ///     Err(Error::Setup { step, subject, .. }) => {
        ///         assert_eq!((step, subject.as_str()), (Step::MountTarget, "/usr at /no/such/target"));
        ///     }
        ///     other => panic!("{other:?}"),
        /// }
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        #[repr(u32)]
        pub enum Step { $($(#[$doc])* $name,)* }

        impl Step {
            /// Every step, in order.
            ///
            /// ```
            /// # use stockade::Step;
            /// assert_eq!(Step::ALL.first(), Some(&Step::Stage));
            /// assert_eq!(Step::ALL.last(), Some(&Step::Exec));
            /// ```
            pub const ALL: &'static [Step] = &[$(Step::$name,)*];

            /// What the step does, in words.
            ///
            /// ```
            /// # use stockade::Step;
            /// assert_eq!(Step::Pivot.describe(), "enter the root");
            /// ```
            pub const fn describe(self) -> &'static str {
                match self { $(Step::$name => $text,)* }
            }

            /// The step with this number on the wire.
            ///
            /// ```
            /// # use stockade::Step;
            /// assert_eq!(Step::from_number(Step::Pivot as u32), Some(Step::Pivot));
            /// ```
            pub fn from_number(number: u32) -> Option<Step> {
                Step::ALL.iter().copied().find(|step| *step as u32 == number)
            }
        }
    };
}

steps! {
    /// The host starts the stage (`posix_spawn(3)` of a sealed memfd).
    Stage = "start the stage",
    /// The stage receives the plan and the descriptors (`recvmsg(2)`).
    Receive = "receive the plan",
    /// The stage leaves the host's session (`setsid(2)`).
    Session = "start a session",
    /// Existing namespaces are entered (`setns(2)`); the index is that of the namespace in the order of the calls.
    JoinNamespace = "join a namespace",
    /// A user namespace is made (`unshare(2)`).
    UserNamespace = "make a user namespace",
    /// Its ids are mapped (`/proc/PID/uid_map`).
    IdMap = "map user and group ids",
    /// The other namespaces are made (`unshare(2)`).
    Namespaces = "make the namespaces",
    /// The clocks of the time namespace are set (`/proc/PID/timens_offsets`).
    TimeOffsets = "set the clock offsets",
    /// The agent is forked (`clone(2)` with `CLONE_PARENT`).
    Agent = "start the agent",
    /// The agent takes an id that is mapped (`setresuid(2)`).
    AgentIds = "take the agent's ids",
    /// What is counted for each user namespace is limited: user namespaces in it, inotify instances (`/proc/sys/user`).
    UserNamespaceLimit = "limit what is counted for each user namespace",
    /// Mounts are cut off from the host's (`MS_REC | MS_PRIVATE`).
    Propagation = "make the mounts private",
    /// The root is made (`open_tree(2)` or `fsmount(2)`, `move_mount(2)`).
    Root = "make the root",
    /// A bind's or an overlay's source is opened (`open_tree(2)`); the index is that of the mount.
    MountSource = "open a mount's source",
    /// A mount's target is found, or made in a private file system (`openat2(2)`); the index is that of the mount.
    MountTarget = "find a mount's target",
    /// A file system is made, or its attributes are set (`fsmount(2)`, `mount_setattr(2)`); the index is that of the mount.
    MountMake = "make a mount",
    /// A mount is put in its place (`move_mount(2)`); the index is that of the mount.
    MountMove = "put a mount in its place",
    /// The root is entered and the old one let go of (`pivot_root(2)`, `umount2(2)`).
    Pivot = "enter the root",
    /// The host name is set (`sethostname(2)`).
    Hostname = "set the host name",
    /// The loopback device is brought up.
    Loopback = "bring the loopback device up",
    /// The Landlock rules are made (`landlock_create_ruleset(2)`, `landlock_add_rule(2)`); the index is that of the rule.
    LandlockRules = "make the Landlock rules",
    /// The bounding set is cut down and the secure bits are set (`prctl(2)`).
    BoundingSet = "cut down the bounding set",
    /// The agent gives up the capabilities that it does not need (`capset(2)`).
    AgentCapabilities = "give up the agent's capabilities",
    /// No-new-privileges is set (`PR_SET_NO_NEW_PRIVS`).
    NoNewPrivileges = "set no_new_privs",
    /// A launch request is read, and the process that will be the program is forked (`clone(2)`).
    Spawn = "fork the program's process",
    /// The PID namespace of a program that is PID 1 itself is made (`unshare(2)`).
    PidNamespace = "make the PID namespace",
    /// The program's process enters its cgroup (`clone3(2)`, or by writing to `tasks` or `cgroup.procs`).
    Cgroup = "enter the cgroup",
    /// The cgroup namespace is made (`unshare(2)`).
    CgroupNamespace = "make the cgroup namespace",
    /// The root is entered without a mount namespace (`chroot(2)`).
    Chroot = "change the root",
    /// The program's descriptors are put in their places (`dup3(2)`, `close_range(2)`); the index is that of the descriptor.
    Descriptors = "place the descriptors",
    /// The pseudo-terminal is opened and becomes the controlling terminal.
    Terminal = "set up the terminal",
    /// The working directory is entered (`openat2(2)`, `fchdir(2)`), and is checked to be inside.
    WorkingDirectory = "enter the working directory",
    /// Resource limits are set (`prlimit64(2)`); the index is that of the limit.
    Rlimit = "set a resource limit",
    /// The supplementary groups are set (`setgroups(2)`).
    Groups = "set the supplementary groups",
    /// The program's ids are taken (`setresgid(2)`, `setresuid(2)`).
    Ids = "take the program's ids",
    /// The capabilities to keep are made to outlive the exec (`capset(2)`, `PR_CAP_AMBIENT`).
    Capabilities = "keep capabilities",
    /// The label for the exec is set (`/proc/thread-self/attr`).
    Label = "set the label",
    /// The Landlock rules come into force (`landlock_restrict_self(2)`).
    Landlock = "put the Landlock rules into force",
    /// The filter of system calls comes into force (`seccomp(2)`).
    Seccomp = "put the filter of system calls into force",
    /// The program is executed (`execve(2)`).
    Exec = "execute the program",
}

/// What [`Plan::flags`] says.
pub mod flag {
    /// Make a user namespace.
    pub const USER_NS: u32 = 1 << 0;
    /// The stage writes its own id maps (one id each).
    pub const MAP_SELF: u32 = 1 << 1;
    /// The host writes the id maps, when asked.
    pub const MAP_HOST: u32 = 1 << 2;
    /// `setgroups(2)` is denied in the new user namespace (it must be, before an unprivileged map).
    pub const DENY_SETGROUPS: u32 = 1 << 3;
    /// The clock offsets are to be written.
    pub const TIME_OFFSETS: u32 = 1 << 4;
    /// There is a mount namespace of its own.
    pub const MOUNT_NS: u32 = 1 << 5;
    /// The first mount that is not a layer is the root, to be entered.
    pub const PIVOT: u32 = 1 << 6;
    /// Make the root read-only when all is mounted (not what is mounted in it).
    pub const ROOT_READ_ONLY: u32 = 1 << 7;
    /// Bring the loopback device up.
    pub const LOOPBACK: u32 = 1 << 8;
    /// The agent is PID 1 of a PID namespace of its own.
    pub const AGENT_IS_INIT: u32 = 1 << 9;
    /// The program is PID 1: the agent stays outside, and the program's process does the set-up.
    pub const PROGRAM_IS_INIT: u32 = 1 << 10;
    /// Set no_new_privs.
    pub const NO_NEW_PRIVS: u32 = 1 << 11;
    /// Make a cgroup namespace.
    pub const CGROUP_NS: u32 = 1 << 12;
    /// Set the supplementary groups.
    pub const SET_GROUPS: u32 = 1 << 13;
    /// Set the program's ids.
    pub const SET_IDS: u32 = 1 << 14;
    /// The bounding set can be cut (the caller has CAP_SETPCAP, or a user namespace of its own).
    pub const BOUNDING_SET: u32 = 1 << 15;
    /// No user namespace can be made inside.
    pub const NO_USER_NS: u32 = 1 << 16;
    /// The filter asks the agent, who answers what it refuses.
    pub const LISTENER: u32 = 1 << 17;
    /// What is refused is counted in memory that is handed over with each launch.
    pub const RECORD: u32 = 1 << 18;
    /// The host alone is asked by the filter: the agent hands the listener over and keeps none.
    pub const OBSERVE: u32 = 1 << 19;
}

record! {
    /// Everything that a policy fixes, in the order of the steps.
    Plan<'a> {
        /// Bits of [`flag`].
        flags: u32,
        /// Namespaces to enter before a user namespace is made: descriptor numbers by order, with the kernel's type.
        joins: List<'a, Join>,
        /// The map that the stage writes itself, if it does.
        uid_map: &'a CStr,
        /// The same for groups.
        gid_map: &'a CStr,
        /// `CLONE_NEW*` of the namespaces to unshare, the user and cgroup namespaces excepted.
        unshare: u32,
        /// What to write to timens_offsets.
        time_offsets: &'a CStr,
        /// The agent's own ids in the new user namespace; `u32::MAX` leaves them.
        agent_uid: u32,
        /// The same for the group.
        agent_gid: u32,
        /// How many inotify instances there may be inside; `u32::MAX` leaves that.
        inotify: u32,
        /// The mounts in the caller's order, the root first if there is one.
        mounts: List<'a, Mount<'a>>,
        /// The root to enter without a mount namespace; empty for none.
        chroot: &'a CStr,
        /// Its device, as it was checked: `major << 32 | minor`.
        chroot_device: u64,
        /// Its inode, as it was checked.
        chroot_inode: u64,
        /// The host name; empty leaves it.
        hostname: &'a CStr,
        /// The NIS domain name; empty leaves it.
        domainname: &'a CStr,
        /// Landlock's rules, set by set.
        landlock: List<'a, Ruleset<'a>>,
        /// The capabilities to keep, one bit each.
        keep: u64,
        /// Those of them that are ambient.
        ambient: u64,
        /// What `PR_SET_SECUREBITS` adds.
        securebits: u32,
        /// Highest capability number that this kernel knows.
        last_cap: u32,
        /// The resource limits.
        rlimits: List<'a, Rlimit>,
        /// The supplementary groups.
        groups: List<'a, u32>,
        /// The program's user.
        uid: u32,
        /// The program's group.
        gid: u32,
        /// The file below procfs's `thread-self/attr` that takes the label; empty for none.
        label_file: &'a CStr,
        /// The label.
        label: &'a CStr,
        /// The filter, in the kernel's `struct sock_filter`s; empty for none.
        filter: &'a [u8],
        /// The same, as it would be without the agent's help: what the agent goes by when it is asked.
        verdict: &'a [u8],
        /// What the launch's own last calls have in their fifth argument, so that the filter lets them through.
        secret_low: u64,
        /// The same, in their sixth.
        secret_high: u64,
    }
}

record! {
    /// Landlock: one set of rules.
    Ruleset<'a> {
        /// What the rules are about: `LANDLOCK_ACCESS_FS_*`.
        files: u64,
        /// `LANDLOCK_ACCESS_NET_*`.
        net: u64,
        /// `LANDLOCK_SCOPE_*`.
        scopes: u64,
        /// What is allowed below a path.
        paths: List<'a, PathRule<'a>>,
        /// What is allowed with a port.
        ports: List<'a, PortRule>,
    }
}

record! {
    /// Landlock: what may be done below a path.
    PathRule<'a> {
        /// `LANDLOCK_ACCESS_FS_*`.
        access: u64,
        /// 1 if it need not be there.
        optional: u32,
        /// In the sandbox, relative to its root.
        path: &'a CStr,
    }
}

record! {
    /// Landlock: what may be done with a TCP port.
    PortRule {
        /// `LANDLOCK_ACCESS_NET_*`.
        access: u64,
        /// The port.
        port: u64,
    }
}

record! {
    /// An existing namespace to enter. Its descriptor is the next of those handed over.
    Join {
        /// The `CLONE_NEW*` of its type.
        kind: u32,
    }
}

record! {
    /// A resource limit.
    Rlimit {
        /// `RLIMIT_*`.
        resource: u32,
        /// Soft limit.
        soft: u64,
        /// Hard limit.
        hard: u64,
    }
}

/// What [`Mount::kind`] says.
pub mod mount {
    /// Bind the source, recursively.
    pub const BIND: u32 = 0;
    /// A fresh tmpfs of `size` bytes.
    pub const TMPFS: u32 = 1;
    /// A fresh procfs.
    pub const PROC: u32 = 2;
    /// A private `/dev`.
    pub const DEV: u32 = 3;
    /// Nothing can be read there any more.
    pub const MASK: u32 = 4;
    /// A lower layer of the overlay that follows.
    pub const LOWER: u32 = 5;
    /// An overlay of the layers before it; what is written goes to a private tmpfs of `size` bytes.
    pub const OVERLAY: u32 = 6;
    /// A symbolic link to `source`, in a private file system.
    pub const SYMLINK: u32 = 7;
    /// A directory, in a private file system.
    pub const DIRECTORY: u32 = 8;

    /// In [`Mount::flags`](super::Mount::flags): read-only, recursively.
    pub const READ_ONLY: u32 = 1 << 0;
    /// The source is a directory.
    pub const SOURCE_DIR: u32 = 1 << 1;
    /// The source is handed over as a detached tree, the next of those.
    pub const SOURCE_FD: u32 = 1 << 2;
    /// No device nodes.
    pub const NO_DEV: u32 = 1 << 3;
    /// Cover what only the host's superuser may touch (there is no user namespace to do it).
    pub const COVER: u32 = 1 << 5;
    /// Device nodes can be made (there is no user namespace), and need not be bound.
    pub const MAKE_NODES: u32 = 1 << 6;
    /// The group 5 (tty) exists inside.
    pub const TTY_GROUP: u32 = 1 << 7;
    /// Hide what a procfs tells of the user's keys.
    pub const HIDE_KEYS: u32 = 1 << 8;
}

record! {
    /// One operation on the file system.
    Mount<'a> {
        /// One of [`mount`]'s kinds.
        kind: u32,
        /// Bits of [`mount`]'s flags.
        flags: u32,
        /// Bytes, for a tmpfs.
        size: u64,
        /// Permission bits of a tmpfs's root.
        mode: u32,
        /// Device of the source, as it was checked: `major << 32 | minor`.
        device: u64,
        /// Inode of the source, as it was checked.
        inode: u64,
        /// The source's path on the host.
        source: &'a CStr,
        /// Where in the sandbox; relative to its root, without a leading slash.
        target: &'a CStr,
    }
}

record! {
    /// What to run: one program in the environment that the plan has made.
    Launch<'a> {
        /// Bits of [`launch`].
        flags: u32,
        /// Nanoseconds that it may run; 0 for no limit.
        wall_limit: u64,
        /// Nanoseconds of CPU time that the tree may use; 0 for no limit.
        cpu_limit: u64,
        /// How many CPUs it can use at once, at most.
        cpus: u32,
        /// Cgroups to enter by writing to them, by their places among the descriptors.
        enter: List<'a, u32>,
        /// The cgroup of version 2 to be forked into; `u32::MAX` for none, as in the next eleven.
        into: u32,
        /// The same, to be entered by writing where that is refused.
        procs: u32,
        /// Readable when memory has run out, in it or above it.
        oom: u32,
        /// Counts those that were ended for that.
        oom_count: u32,
        /// The account of CPU time.
        cpu: u32,
        /// Ends all in the cgroup.
        kill: u32,
        /// Memory to count refused system calls in.
        record: u32,
        /// Stops and lets go all that is in a cgroup of version 1.
        freezer: u32,
        /// The processes that are in that one.
        members: u32,
        /// What stands in for the host's descriptors in a closure.
        empty: u32,
        /// Where a process that is parked gets its program from.
        door: u32,
        /// Where the host hears of the calls that are its to answer.
        notices: u32,
        /// Where its descriptors go.
        descriptors: List<'a, Descriptor>,
        /// The working directory; empty leaves it.
        directory: &'a CStr,
        /// Paths to try, in order.
        candidates: List<'a, &'a CStr>,
        /// The arguments, the program's name first.
        arguments: List<'a, &'a CStr>,
        /// The environment.
        environment: List<'a, &'a CStr>,
    }
}

/// What [`Launch::flags`] says.
pub mod launch {
    /// Open a pseudo-terminal in the sandbox's own devpts.
    pub const OPEN_TERMINAL: u32 = 1 << 0;
    /// Descriptor 0 is a terminal, and becomes the controlling one.
    pub const TERMINAL: u32 = 1 << 1;
    /// When it ends, all that is in the sandbox ends.
    pub const LAST: u32 = 1 << 2;
    /// The process does all that needs no program, and waits for one: a [`Start`](super::Start) with a launch and its
    /// descriptors, on its door.
    pub const PARKED: u32 = 1 << 3;
    /// Of a process that was parked: the limits of time are to be told to the agent, which knows the policy's.
    pub const OWN_LIMITS: u32 = 1 << 4;
}

record! {
    /// A descriptor of the program: `source` is its place among those that came with the launch.
    Descriptor {
        /// The number that the program sees.
        target: u32,
        /// Which of the descriptors that came along; `u32::MAX` is the terminal's.
        source: u32,
    }
}

/// In place of a pid: the process has been reaped.
pub const NO_NUMBER: u32 = u32::MAX;

/// The host's messages, and the stage's. Each is one packet: this number, then the record. The environment has a control
/// socket, and each program one of its own.
pub mod message {
    /// Host to stage, first of all: a [`Hello`](super::Hello).
    pub const HELLO: u32 = 1;
    /// Host to stage: more descriptors.
    pub const DESCRIPTORS: u32 = 2;
    /// Host to stage: the id maps are written.
    pub const MAPPED: u32 = 3;
    /// On a program's socket: end it and all that came of it.
    pub const KILL: u32 = 4;
    /// On a program's socket: send this signal to it. One `u32` follows.
    pub const SIGNAL: u32 = 5;
    /// On any socket: go on without the handle, for as long as the host lives.
    pub const DETACH: u32 = 6;
    /// Host to agent: a [`Start`](super::Start), and its descriptors.
    pub const LAUNCH: u32 = 7;
    /// Host to agent: SIGTERM to all, and end when nothing is left.
    pub const STOP: u32 = 8;
    /// Host to agent: tell of ends on the socket that comes along.
    pub const WATCH: u32 = 9;
    /// Host to agent: send your network and user namespaces to the socket that comes along.
    pub const NAMESPACES: u32 = 10;
    /// Host to agent: hand over the sandbox's root on the socket that comes along.
    pub const ROOT: u32 = 11;

    /// Stage to host: write the id maps.
    pub const MAP: u32 = 16;
    /// Stage to host: the agent's pidfd comes along, and its number in the `u32` that follows.
    pub const AGENT: u32 = 17;
    /// Agent to host: the environment stands.
    pub const READY: u32 = 18;
    /// Stage or agent to host, or on a program's socket: a [`Failure`](super::Failure).
    pub const FAILED: u32 = 19;
    /// On a program's socket: it runs; its pidfd comes along, and its pid in the credentials, or in the `u32` that follows:
    /// [`NO_NUMBER`](super::NO_NUMBER) if it has none any more.
    pub const STARTED: u32 = 20;
    /// On a program's socket: an [`Exit`](super::Exit).
    pub const EXITED: u32 = 21;
    /// On a program's socket: its process is parked; as [`STARTED`].
    pub const PARKED: u32 = 23;
    /// To a watcher: an [`End`](super::End).
    pub const END: u32 = 22;
    /// On the socket of a [`ROOT`]: the root comes along.
    pub const ROOT_IS: u32 = 24;
    /// On the socket for notices, first of all: the filter's listener comes along.
    pub const LISTENER: u32 = 25;
    /// On the socket for notices: a [`Notice`](super::Notice).
    pub const NOTICE: u32 = 26;
    /// Never sent: how the host reads the end of the other side.
    pub const EOF: u32 = 0;
}

record! {
    /// The first message. With it come, in this order: the plan, the host's pidfd, the namespaces to join, the detached
    /// trees of the mounts.
    Hello {
        /// Bytes of the plan.
        plan_len: u64,
        /// Descriptors in all, over as many messages as it takes.
        fds: u32,
        /// 1 if a launch will come at once, so that nobody waits for [`READY`](message::READY).
        launch: u32,
    }
}

/// How much of a message a [`Start`] takes.
pub const START: usize = 12;
/// How long a launch may be that comes in a message.
pub const INLINE: usize = 4000;

record! {
    /// A program to start. With it come the program's socket, its descriptors, and the launch: behind this in the same
    /// message, or as a file, the last of the descriptors.
    Start {
        /// Bytes of the launch in the file; 0 if there is none.
        file_len: u64,
        /// Descriptors in all, over as many messages as it takes.
        fds: u32,
    }
}

record! {
    /// A step failed.
    Failure {
        /// Number of the [`Step`].
        step: u32,
        /// Which of the step's objects, by order.
        index: u32,
        /// The kernel's errno; 0 if the process was killed on the way.
        errno: i32,
    }
}

/// Why the agent ended a program, in [`Exit::reason`].
pub mod reason {
    /// It did not: the program ended by itself.
    pub const NONE: u32 = 0;
    /// Its time was over.
    pub const WALL_TIME: u32 = 1;
    /// The host said so.
    pub const HOST: u32 = 2;
    /// The agent could not go on: somebody of its user has taken from it what it needs, as prlimit(2) can.
    pub const AGENT: u32 = 3;
    /// The tree has used up its CPU time.
    pub const CPU_TIME: u32 = 4;
    /// Memory ran out, and the kernel ends only one process by itself.
    pub const MEMORY: u32 = 5;
    /// It has made a system call that is refused.
    pub const SYSCALL: u32 = 6;
}

record! {
    /// The program has ended, and all that came of it.
    Exit {
        /// As wait4(2) gives it.
        status: i32,
        /// One of [`reason`].
        reason: u32,
        /// Nanoseconds from the exec to the end.
        wall_ns: u64,
        /// Microseconds in user mode, of every process that was reaped.
        user_us: u64,
        /// Microseconds in the kernel, of every process that was reaped.
        system_us: u64,
        /// Largest resident set of one process, in KiB.
        max_rss_kib: u64,
        /// Blocks of 512 bytes read.
        in_blocks: u64,
        /// Blocks of 512 bytes written.
        out_blocks: u64,
        /// The number of the system call that was refused, with [`reason::SYSCALL`].
        syscall: u32,
        /// Its arguments.
        args: Args,
    }
}

record! {
    /// A call waits that the host is to answer.
    Notice {
        /// What it is answered by.
        id: u64,
        /// The thread, by its number as the host sees it; 0 if that is in the credentials, or unknown.
        thread: u32,
        /// The call's number.
        nr: u32,
        /// Where it was made.
        instruction: u64,
        /// Its arguments.
        args: Args,
    }
}

record! {
    /// A process in the sandbox has ended and been reaped.
    End {
        /// Its number in the sandbox, where that has numbers of its own.
        pid: u32,
        /// As wait4(2) gives it.
        status: i32,
    }
}

record! {
    /// A system call's arguments.
    Args {
        /// The first.
        a: u64,
        /// The second.
        b: u64,
        /// The third.
        c: u64,
        /// The fourth.
        d: u64,
        /// The fifth.
        e: u64,
        /// The sixth.
        f: u64,
    }
}

/// The most mounts that a plan may have.
pub const MAX_MOUNTS: u32 = 4096;
/// The most sets of Landlock rules.
pub const MAX_RULESETS: usize = 4;
/// The most descriptors that a program may be handed.
pub const MAX_DESCRIPTORS: u32 = 256;
/// The most descriptors that come with a launch: the program's, those of its cgroups, and what the agent needs.
pub const MAX_LAUNCH_FDS: usize = 320;
/// How many numbers of system calls are counted; what lies beyond is counted as the last of them.
pub const RECORDED_CALLS: usize = 1024;
/// The most descriptors that go with one message (the kernel's SCM_MAX_FD is 253).
pub const FDS_PER_MESSAGE: u32 = 250;
