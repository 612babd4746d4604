//! Filters of system calls (seccomp(2)).
//!
//! A filter looks at a call's number and at its arguments as the registers hold them. It does not see what a pointer
//! points at, so it cannot tell one path or address from another: that is Landlock's and the mounts' business.

use std::borrow::Cow;

pub(crate) mod compile;
#[cfg(any(test, fuzzing))]
pub(crate) mod evaluate;
pub(crate) mod interpret;
mod presets;
#[cfg(test)]
mod tests;

pub(crate) use compile::{How, Program};

/// A call's name, for people.
pub(crate) fn name(number: u32) -> &'static str {
    compile::name_of(number).unwrap_or("unknown")
}

pub(crate) use compile::{name_of as known_name, number_of as number};

/// Which system calls a program may make, with which arguments.
///
/// What was said with [`rule`](Self::rule) is tried in the order in which it was said (before what a preset says about
/// that call), and the first whose conditions all hold decides; then what was said with [`allow`](Self::allow) or
/// [`deny`](Self::deny); then [`otherwise`](Self::otherwise).
///
/// Calls of other architectures (`int 0x80` on x86-64) end the process. Those of x32 are never made, and no rule is about
/// them: they fail with ENOSYS where [`otherwise`](Self::otherwise) is an `Errno`, whichever; get SIGSYS where it is `Trap`;
/// and are answered with `Kill` where it is anything else. `clone3(2)`, whose flags no filter can read, fails with ENOSYS unless it is named, so that libraries fall back to `clone(2)`; only a deny list that says
/// nothing about `clone` lets it pass.
///
/// It is checked when the sandbox is prepared: [`Error::Invalid`](crate::Error::Invalid) for names that are on no architecture,
/// arguments beyond the sixth, values that cannot be, and more than the 4096 instructions that the kernel takes.
///
/// ```
/// use stockade::seccomp::{Action, Condition, Filter};
/// let filter = Filter::default_profile()
///     .deny("mkdir", Action::Errno(1))
///     .rule("ioctl", [Condition::arg(1).low32().eq(0x5412)], Action::Kill); // TIOCSTI
/// # let _ = filter;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub(crate) rules: Vec<Rule>,
    pub(crate) otherwise: Action,
    /// Calls above this number are newer than the filter: ENOSYS, which programs take as "not on this kernel".
    pub(crate) newest: Option<u32>,
    pub(crate) also: Vec<Filter>,
}

/// What happens to a call.
///
/// ```
/// # use stockade::{Error, Sandbox, Verdict};
/// # use stockade::seccomp::{Action, Filter};
/// let answer = |action| {
///     let sandbox = Sandbox::new().seccomp(Filter::deny_list().deny("chdir", action));
///     Ok::<_, Error>(sandbox.command("sh").args(["-c", "cd /usr"]).output()?.outcome.verdict)
/// };
/// assert_eq!(answer(Action::Allow)?, Verdict::Exited(0));
/// assert_eq!(answer(Action::Errno(13))?, Verdict::Exited(2));
/// assert!(matches!(answer(Action::Kill)?, Verdict::SyscallDenied(_)));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// It is made (`SECCOMP_RET_ALLOW`).
    Allow,
    /// It is made, and written to the kernel's log where `actions_logged` has it (`SECCOMP_RET_LOG`).
    Log,
    /// It waits, and the host answers it (`SECCOMP_RET_USER_NOTIF`): by
    /// [`Child::take_notifications`](crate::Child::take_notifications) it gets each of them, and has it made, or makes up what it
    /// returns. That is for what a filter cannot decide, or the program cannot do: to open a file that is not in its root, to
    /// connect somewhere.
    ///
    /// It works without privilege, in a container, a pool, and for closures, and for what the program forks. Where nobody
    /// listens, and where more wait than the host takes in, the call fails with ENOSYS at once. A round to the host and
    /// back takes some tens of microseconds, and the clocks of limits go on meanwhile. No filter can read the flags of
    /// `clone3(2)`, nor can a host rely on what it reads there. A program whose filter has a listener cannot install another
    /// that has one: seccomp(2) fails with EBUSY.
    Notify,
    /// It is not made, and fails with this error number, of 4095 at most (`SECCOMP_RET_ERRNO`). With 0 it seems to succeed.
    Errno(u16),
    /// It is not made, and the thread gets SIGSYS, which it may handle (`SECCOMP_RET_TRAP`).
    Trap,
    /// The process is ended (`SECCOMP_RET_KILL_PROCESS`); in a sandbox the run is, and the call is named.
    Kill,
}

/// A system call.
///
/// ```
/// # use stockade::seccomp::{Action, Filter, Syscall};
/// let by_name = Filter::deny_list().deny("mkdir", Action::Errno(1));
/// let by_number = Filter::deny_list().deny(83_u32, Action::Errno(1)); // the same on x86-64
/// assert_eq!(Syscall::from("mkdir"), Syscall::Name("mkdir".into()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Syscall {
    /// By the kernel's name. A name of another architecture is ignored; one that is known on none is an error.
    Name(Cow<'static, str>),
    /// By its number on the architecture that stockade was built for.
    Number(u32),
}

/// What must hold of an argument for a [`rule`](Filter::rule) to decide.
///
/// ```
/// # use stockade::Sandbox;
/// # use stockade::seccomp::{Action, Condition, Filter};
/// let tiocsti = Condition::arg(1).low32().eq(0x5412);
/// let filter = Filter::deny_list().rule("ioctl", [tiocsti], Action::Errno(1));
/// assert!(Sandbox::new().seccomp(filter).command("true").status()?.success());
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Condition {
    pub(crate) argument: Argument,
    pub(crate) test: Test,
}

/// An argument of a call: the start of a [`Condition`]. All comparisons are unsigned.
///
/// ```
/// # use stockade::seccomp::{Argument, Condition};
/// let argument: Argument = Condition::arg(0).low32();
/// assert_ne!(argument.eq(1), argument.ne(1));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Argument {
    pub(crate) index: u8,
    pub(crate) low32: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Test {
    Eq(u64),
    Ne(u64),
    Lt(u64),
    Le(u64),
    Gt(u64),
    Ge(u64),
    MaskedEq(u64, u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) call: Syscall,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) action: Action,
    /// Of a preset: names that do not exist here are left out, and the caller's rules come first.
    pub(crate) preset: bool,
}

impl Filter {
    /// An allow list: what is not named is answered with [`Action::Kill`].
    ///
    /// ```
    /// # use stockade::{Sandbox, Verdict};
    /// # use stockade::seccomp::Filter;
    /// let filter = Filter::allow_list().allow("exit_group"); // too little for any program
    /// let verdict = Sandbox::new().seccomp(filter).command("true").status()?.verdict;
    /// assert!(matches!(verdict, Verdict::SyscallDenied(_)));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn allow_list() -> Self {
        Self { rules: vec![], otherwise: Action::Kill, newest: None, also: vec![] }
    }

    /// A deny list: what is not named is allowed.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::{Action, Filter};
    /// let filter = Filter::deny_list().deny("chdir", Action::Errno(1));
    /// let sandbox = Sandbox::new().seccomp(filter);
    /// assert!(!sandbox.command("sh").args(["-c", "cd /usr"]).output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn deny_list() -> Self {
        Self { otherwise: Action::Allow, ..Self::allow_list() }
    }

    /// What happens to calls that are not named, those that are newer than a preset included.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio, Verdict};
    /// # use stockade::seccomp::{Action, Filter};
    /// let filter = Filter::allow_list().otherwise(Action::Errno(1)).allow("exit_group");
    /// let outcome = Sandbox::new().seccomp(filter).command("true").stderr(Stdio::null()).status()?;
    /// assert!(!outcome.success() && !matches!(outcome.verdict, Verdict::SyscallDenied(_)));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn otherwise(mut self, action: Action) -> Self {
        self.otherwise = action;
        self.newest = None;
        self
    }

    /// The call is allowed, whatever its arguments. What was said about it before, by a preset too, is forgotten.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::{Action, Filter};
    /// let filter = Filter::deny_list().deny("chdir", Action::Errno(1)).allow("chdir"); // the last word counts
    /// assert!(Sandbox::new().seccomp(filter).command("sh").args(["-c", "cd /usr"]).status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn allow(self, call: impl Into<Syscall>) -> Self {
        self.push(call.into(), vec![], Action::Allow, false)
    }

    /// The call is answered with this action, whatever its arguments. What was said about it before, by a preset too, is
    /// forgotten.
    ///
    /// ```
    /// # use stockade::{Error, Sandbox};
    /// # use stockade::seccomp::{Action, Filter};
    /// let misspelt = Filter::deny_list().deny("chidr", Action::Errno(1));
    /// assert!(matches!(Sandbox::new().seccomp(misspelt).prepare(), Err(Error::Invalid { .. })));
    /// ```
    pub fn deny(self, call: impl Into<Syscall>, action: Action) -> Self {
        self.push(call.into(), vec![], action, false)
    }

    /// The call is answered with this action where all conditions hold. Without any it is [`deny`](Self::deny).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::{Action, Condition, Filter};
    /// let null = Condition::arg(0).eq(0); // where uname(2) is to write
    /// let filter = Filter::deny_list().rule("uname", [null], Action::Kill);
    /// assert!(Sandbox::new().seccomp(filter).command("uname").output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn rule(
        self,
        call: impl Into<Syscall>,
        conditions: impl IntoIterator<Item = Condition>,
        action: Action,
    ) -> Self {
        self.push(call.into(), conditions.into_iter().collect(), action, false)
    }

    /// Both filters hold: for every call and arguments the stricter answer is given, in the kernel's order: `Kill`, `Trap`,
    /// `Errno` (of two the first filter's), `Notify`, `Log`, `Allow`. So a call that a preset refuses does not come to the host by
    /// a second filter that says `Notify`, but by a rule in the preset itself: `Filter::hardened().deny("mount",
    /// Action::Notify)`. Setters that follow change this filter, not the other.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::{Action, Filter};
    /// let filter = Filter::deny_list().and(Filter::deny_list().deny("chdir", Action::Errno(1)));
    /// let sandbox = Sandbox::new().seccomp(filter);
    /// assert!(!sandbox.command("sh").args(["-c", "cd /usr"]).output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn and(mut self, mut other: Filter) -> Self {
        let more = std::mem::take(&mut other.also);
        self.also.push(other);
        self.also.extend(more);
        self
    }

    pub(crate) fn push(mut self, call: Syscall, conditions: Vec<Condition>, action: Action, preset: bool) -> Self {
        self.rules.push(Rule { call, conditions, action, preset });
        self
    }
}

impl Condition {
    /// The argument with this index, from 0 to 5, in all of its 64 bits.
    ///
    /// ```
    /// # use stockade::{Error, Sandbox};
    /// # use stockade::seccomp::{Action, Condition, Filter};
    /// let beyond = Filter::deny_list().rule("socket", [Condition::arg(6).eq(0)], Action::Errno(1));
    /// assert!(matches!(Sandbox::new().seccomp(beyond).prepare(), Err(Error::Invalid { .. })));
    /// ```
    pub fn arg(index: u8) -> Argument {
        Argument { index, low32: false }
    }
}

impl Argument {
    /// Only its low 32 bits are looked at: right where the kernel takes an `int`, such as socket(2)'s domain and ioctl(2)'s
    /// request; there a comparison of 64 bits can be evaded by setting the upper ones.
    ///
    /// ```
    /// # use stockade::seccomp::Condition;
    /// let unix = Condition::arg(0).low32().eq(1); // socket(2)'s domain is an int
    /// assert_ne!(unix, Condition::arg(0).eq(1));
    /// ```
    pub fn low32(self) -> Self {
        Self { low32: true, ..self }
    }

    /// It is this value.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::{Action, Condition, Filter};
    /// let filter = Filter::deny_list().rule("dup2", [Condition::arg(1).eq(9)], Action::Errno(1));
    /// assert!(Sandbox::new().seccomp(filter).command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn eq(self, value: u64) -> Condition {
        self.test(Test::Eq(value))
    }

    /// It is any other value.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::{Action, Condition, Filter};
    /// let filter = Filter::deny_list().rule("socket", [Condition::arg(0).low32().ne(1)], Action::Errno(97));
    /// assert!(Sandbox::new().seccomp(filter).command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn ne(self, value: u64) -> Condition {
        self.test(Test::Ne(value))
    }

    /// It is less.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::{Action, Condition, Filter};
    /// let filter = Filter::deny_list().rule("write", [Condition::arg(2).lt(1)], Action::Errno(22));
    /// assert!(Sandbox::new().seccomp(filter).command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn lt(self, value: u64) -> Condition {
        self.test(Test::Lt(value))
    }

    /// It is less or equal.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::{Action, Condition, Filter};
    /// let filter = Filter::deny_list().rule("write", [Condition::arg(2).le(0)], Action::Errno(22));
    /// assert!(Sandbox::new().seccomp(filter).command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn le(self, value: u64) -> Condition {
        self.test(Test::Le(value))
    }

    /// It is greater.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::{Action, Condition, Filter};
    /// let large = Condition::arg(2).gt(5); // of write(2): the number of bytes
    /// let sandbox = Sandbox::new().seccomp(Filter::deny_list().rule("write", [large], Action::Errno(27)));
    /// let try_it = |text: &str| sandbox.command("sh").args(["-c", &format!("echo {text}")]).output();
    /// assert!(try_it("1234")?.outcome.success() && !try_it("123456")?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn gt(self, value: u64) -> Condition {
        self.test(Test::Gt(value))
    }

    /// It is greater or equal.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::{Action, Condition, Filter};
    /// let large = Condition::arg(2).ge(6);
    /// let sandbox = Sandbox::new().seccomp(Filter::deny_list().rule("write", [large], Action::Errno(27)));
    /// let try_it = |text: &str| sandbox.command("sh").args(["-c", &format!("echo {text}")]).output();
    /// assert!(try_it("1234")?.outcome.success() && !try_it("12345")?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn ge(self, value: u64) -> Condition {
        self.test(Test::Ge(value))
    }

    /// Of the bits in `mask`, those in `value` are set, and no others.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::{Action, Condition, Filter};
    /// let namespaces = 0x7e02_0000; // CLONE_NEW*
    /// let plain = Condition::arg(0).low32().masked_eq(namespaces, 0);
    /// let filter = Filter::deny_list().deny("clone", Action::Errno(1)).rule("clone", [plain], Action::Allow);
    /// let sandbox = Sandbox::new().seccomp(filter);
    /// assert!(sandbox.command("sh").args(["-c", "true | true"]).status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn masked_eq(self, mask: u64, value: u64) -> Condition {
        self.test(Test::MaskedEq(mask, value))
    }

    fn test(self, test: Test) -> Condition {
        Condition { argument: self, test }
    }
}

impl From<&str> for Syscall {
    fn from(name: &str) -> Self {
        Self::Name(Cow::Owned(name.to_owned()))
    }
}

impl From<String> for Syscall {
    fn from(name: String) -> Self {
        Self::Name(Cow::Owned(name))
    }
}

impl From<u32> for Syscall {
    fn from(number: u32) -> Self {
        Self::Number(number)
    }
}
