//! Which devices may be opened or made: the rules, and what each cgroup version makes of them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use bitflags::bitflags;

use super::limits::Setting;
use super::{bpf, sweep};
use crate::error::Error;

bitflags! {
    /// What may be done with a device.
    ///
    /// ```
    /// # use stockade::DeviceAccess;
    /// let both = DeviceAccess::READ | DeviceAccess::WRITE;
    /// assert!(!both.contains(DeviceAccess::MKNOD));
    /// ```
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct DeviceAccess: u8 {
        /// Its node may be made (mknod(2); `m`).
        const MKNOD = 1;
        /// It may be opened to be read (`r`).
        const READ = 2;
        /// It may be opened to be written to (`w`).
        const WRITE = 4;
    }
}

/// A kind of device.
///
/// ```
/// # use stockade::{DeviceKind, DeviceRule};
/// assert_eq!(DeviceRule::new(DeviceKind::Block), DeviceRule::block());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceKind {
    /// Both kinds (`a`).
    All,
    /// Block devices (`b`).
    Block,
    /// Character devices (`c`).
    Char,
}

/// Some devices, and what may be done with them; what is not narrowed down means all.
///
/// ```
/// use stockade::{DeviceAccess, DeviceRule};
///
/// let null = DeviceRule::char().major(1).minor(3);
/// let terminals = DeviceRule::char().major(136).access(DeviceAccess::READ | DeviceAccess::WRITE);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "a rule does nothing until it is among the DeviceRules of a sandbox"]
pub struct DeviceRule {
    kind: DeviceKind,
    major: Option<u32>,
    minor: Option<u32>,
    access: DeviceAccess,
}

impl DeviceRule {
    /// All devices of a kind.
    ///
    /// ```
    /// # use stockade::{DeviceKind, DeviceRule, DeviceRules, Sandbox};
    /// let nothing = DeviceRules::deny([DeviceRule::new(DeviceKind::All)]);
    /// let sandbox = Sandbox::new().device_rules(nothing);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(!sandbox.command("head").args(["-c1", "/dev/zero"]).output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn new(kind: DeviceKind) -> Self {
        Self { kind, major: None, minor: None, access: DeviceAccess::all() }
    }

    /// All character devices.
    ///
    /// ```
    /// # use stockade::{DeviceKind, DeviceRule};
    /// assert_eq!(DeviceRule::char(), DeviceRule::new(DeviceKind::Char));
    /// ```
    pub fn char() -> Self {
        Self::new(DeviceKind::Char)
    }

    /// All block devices.
    ///
    /// ```
    /// # use stockade::{DeviceRule, DeviceRules, Sandbox};
    /// let no_disks = DeviceRules::deny([DeviceRule::block()]);
    /// let sandbox = Sandbox::new().device_rules(no_disks);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(sandbox.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn block() -> Self {
        Self::new(DeviceKind::Block)
    }

    /// Those of this major number only, at most 4095: the number of a driver (`/proc/devices`).
    ///
    /// ```
    /// # use stockade::{DeviceRule, DeviceRules, Error, Sandbox};
    /// let too_large = DeviceRule::char().major(4096);
    /// let sandbox = Sandbox::new().device_rules(DeviceRules::allow_only([too_large]));
    /// assert!(matches!(sandbox.prepare(), Err(Error::Invalid { setting: "device_rules", .. })));
    /// ```
    pub fn major(mut self, number: u32) -> Self {
        self.major = Some(number);
        self
    }

    /// Those of this minor number only, at most 1048575.
    ///
    /// ```
    /// # use stockade::{DeviceRule, DeviceRules, Sandbox};
    /// let zero = DeviceRule::char().major(1).minor(5);
    /// let sandbox = Sandbox::new().device_rules(DeviceRules::standard().and(zero));
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(sandbox.command("head").args(["-c1", "/dev/zero"]).output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn minor(mut self, number: u32) -> Self {
        self.minor = Some(number);
        self
    }

    /// For this only. A rule for no access at all is an error when the policy is prepared.
    ///
    /// ```
    /// # use stockade::{DeviceAccess, DeviceRule, DeviceRules, Error, Sandbox};
    /// let none = DeviceRule::char().access(DeviceAccess::empty());
    /// let sandbox = Sandbox::new().device_rules(DeviceRules::allow_only([none]));
    /// assert!(matches!(sandbox.prepare(), Err(Error::Invalid { setting: "device_rules", .. })));
    /// ```
    pub fn access(mut self, access: DeviceAccess) -> Self {
        self.access = access;
        self
    }
}

/// A list of the devices that a sandbox may use, or of those that it may not; see
/// [`device_rules`](crate::Sandbox::device_rules).
///
/// An access is allowed by one rule that allows all of it: who opens a device to be read and written needs a rule with
/// both. It is denied by any rule that denies some of it. Rules for the very same devices count as one. What a program
/// was handed open stays open, and what nodes there are to be opened is another matter: that is what
/// [`dev`](crate::Sandbox::dev) and binds are for.
///
/// ```
/// # use stockade::{DeviceRules, Sandbox};
/// let sandbox = Sandbox::new().device_rules(DeviceRules::standard());
/// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
/// assert!(sandbox.command("head").args(["-c1", "/dev/urandom"]).output()?.outcome.success());
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "rules do nothing until a sandbox has them"]
pub struct DeviceRules {
    pub(super) allows: bool,
    rules: Vec<DeviceRule>,
}

impl DeviceRules {
    /// These are allowed, and all others denied.
    ///
    /// ```
    /// # use stockade::{DeviceRule, DeviceRules, Sandbox};
    /// let only_null = DeviceRules::allow_only([DeviceRule::char().major(1).minor(3)]);
    /// let sandbox = Sandbox::new().device_rules(only_null);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(sandbox.command("cat").arg("/dev/null").output()?.outcome.success());
    /// assert!(!sandbox.command("head").args(["-c1", "/dev/zero"]).output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn allow_only(rules: impl IntoIterator<Item = DeviceRule>) -> Self {
        Self { allows: true, rules: rules.into_iter().collect() }
    }

    /// These are denied, and all others allowed.
    ///
    /// ```
    /// # use stockade::{DeviceRule, DeviceRules, Sandbox};
    /// let no_zero = DeviceRules::deny([DeviceRule::char().major(1).minor(5)]);
    /// let sandbox = Sandbox::new().device_rules(no_zero);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(sandbox.command("cat").arg("/dev/null").output()?.outcome.success());
    /// assert!(!sandbox.command("head").args(["-c1", "/dev/zero"]).output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn deny(rules: impl IntoIterator<Item = DeviceRule>) -> Self {
        Self { allows: false, rules: rules.into_iter().collect() }
    }

    /// An allow list of what [`Sandbox::dev`](crate::Sandbox::dev) has: null, zero, full, random, urandom, tty, and
    /// pseudo-terminals.
    ///
    /// ```
    /// # use stockade::{DeviceRules, Sandbox};
    /// let sandbox = Sandbox::new().device_rules(DeviceRules::standard());
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(sandbox.command("cat").arg("/dev/null").output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn standard() -> Self {
        let one = |major, minor| DeviceRule::char().major(major).minor(minor);
        let memory = [3, 5, 7, 8, 9].map(|minor| one(1, minor));
        let terminals = [one(5, 0), one(5, 2), DeviceRule::char().major(136)];
        Self::allow_only(memory.into_iter().chain(terminals))
    }

    /// One rule more.
    ///
    /// ```
    /// # use stockade::{DeviceRule, DeviceRules, Sandbox};
    /// let rules = DeviceRules::allow_only([DeviceRule::block()]).and(DeviceRule::char());
    /// let sandbox = Sandbox::new().device_rules(rules);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(sandbox.command("cat").arg("/dev/null").output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn and(mut self, rule: DeviceRule) -> Self {
        self.rules.push(rule);
        self
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let invalid = |reason: &str| Err(Error::invalid("device_rules", reason));
        for rule in &self.rules {
            if rule.access.is_empty() {
                return invalid("a rule for no access at all");
            }
            if rule.major.is_some_and(|major| major > 0xfff) || rule.minor.is_some_and(|minor| minor > 0xf_ffff) {
                return invalid("a major number is at most 4095, a minor number at most 1048575");
            }
        }
        if self.rules.len() > MOST {
            return invalid("more than 300 rules");
        }
        Ok(())
    }

    /// The rules, those for the same devices in one.
    fn merged(&self) -> Vec<DeviceRule> {
        let mut merged: Vec<DeviceRule> = vec![];
        for rule in &self.rules {
            let same =
                |other: &&mut DeviceRule| (other.kind, other.major, other.minor) == (rule.kind, rule.major, rule.minor);
            match merged.iter_mut().find(same) {
                Some(other) => other.access |= rule.access,
                None => merged.push(*rule),
            }
        }
        merged
    }
}

/// A program of that many rules is well below what the kernel takes from anybody, 4096 instructions.
const MOST: usize = 300;

/// Version 1: what to write to `devices.deny` and `devices.allow`. A new cgroup allows what its parent does.
pub(super) fn v1(rules: &DeviceRules) -> Vec<Setting> {
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    let mut settings = vec![];
    if rules.allows {
        settings.push(Setting::new("devices.deny", "a".into()));
    }
    let file = if rules.allows { "devices.allow" } else { "devices.deny" };
    for rule in rules.merged() {
        let kinds = match rule.kind {
            DeviceKind::All => "bc",
            DeviceKind::Block => "b",
            DeviceKind::Char => "c",
        };
        let letters = [(DeviceAccess::READ, 'r'), (DeviceAccess::WRITE, 'w'), (DeviceAccess::MKNOD, 'm')];
        let access: String =
            letters.iter().filter(|(access, _)| rule.access.contains(*access)).map(|(_, letter)| letter).collect();
        for kind in kinds.chars() {
            let line = format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor));
            settings.push(Setting::new(file, line));
        }
    }
    settings
}

pub(super) const ROOT: &str = "run as root of the initial user namespace (version 2: CAP_BPF and CAP_NET_ADMIN), or leave \
                               device_rules() out: a private /dev, by dev(), has no other devices";

/// Version 2: the program, tried on a cgroup below `parent`.
pub(super) fn load(rules: &DeviceRules, parent: &Path) -> io::Result<OwnedFd> {
    let program = bpf::load(&program(rules))?;
    sweep::attempt(parent, |below| fs::File::open(below).and_then(|cgroup| bpf::attach(&program, &cgroup)))??;
    Ok(program)
}

/// One instruction of BPF, as the kernel has it: operation, registers, offset of a jump, number.
pub(super) type Instruction = [u8; 8];

fn instruction(operation: u8, to: u8, from: u8, jump: u8, number: u32) -> Instruction {
    let [a, b, c, d] = number.to_ne_bytes();
    let registers = if cfg!(target_endian = "big") { to << 4 | from } else { from << 4 | to };
    let [x, y] = i16::from(jump).to_ne_bytes();
    [operation, registers, x, y, a, b, c, d]
}

/// Version 2: a program that the kernel asks (`BPF_PROG_TYPE_CGROUP_DEVICE`). What it is given is a `struct
/// bpf_cgroup_dev_ctx`: access in the upper half of a word and kind in the lower, then major and minor.
pub(super) fn program(rules: &DeviceRules) -> Vec<Instruction> {
    const LOAD_WORD: u8 = 0x61;
    const AND: u8 = 0x54;
    const SHIFT_RIGHT: u8 = 0x74;
    const COPY: u8 = 0xbc;
    const SET: u8 = 0xb7;
    const JUMP_IF_EQUAL: u8 = 0x15;
    const JUMP_UNLESS_EQUAL: u8 = 0x55;
    const EXIT: u8 = 0x95;
    // What it returns, or looks at; what it is given.
    const RESULT: u8 = 0;
    const CONTEXT: u8 = 1;
    let [kind, access, major, minor, some] = [2, 3, 4, 5, 6];

    let load = |to, offset| instruction(LOAD_WORD, to, CONTEXT, offset, 0);
    let mut program = vec![
        load(kind, 0),
        instruction(COPY, access, kind, 0, 0),
        instruction(AND, kind, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, access, 0, 0, 16),
        load(major, 4),
        load(minor, 8),
    ];
    for rule in rules.merged() {
        // Tests, each of which goes on to the next rule if it does not hold; then the answer.
        let mut tests: Vec<(u8, u8, u32)> = vec![];
        match rule.kind {
            DeviceKind::All => {}
            DeviceKind::Block => tests.push((JUMP_UNLESS_EQUAL, kind, 1)),
            DeviceKind::Char => tests.push((JUMP_UNLESS_EQUAL, kind, 2)),
        }
        tests.extend(rule.major.map(|number| (JUMP_UNLESS_EQUAL, major, number)));
        tests.extend(rule.minor.map(|number| (JUMP_UNLESS_EQUAL, minor, number)));
        let mut last = vec![];
        if !rule.access.is_all() {
            let mask = if rules.allows { !rule.access } else { rule.access };
            last.push(instruction(COPY, some, access, 0, 0));
            last.push(instruction(AND, some, 0, 0, u32::from(mask.bits())));
            let jump = if rules.allows { JUMP_UNLESS_EQUAL } else { JUMP_IF_EQUAL };
            last.push(instruction(jump, some, 0, 2, 0));
        }
        let answer = [instruction(SET, RESULT, 0, 0, u32::from(rules.allows)), instruction(EXIT, 0, 0, 0, 0)];
        let mut behind = u8::try_from(tests.len() + last.len() + answer.len()).unwrap_or(u8::MAX);
        for (operation, register, number) in tests {
            behind = behind.saturating_sub(1);
            program.push(instruction(operation, register, 0, behind, number));
        }
        program.extend(last);
        program.extend(answer);
    }
    program.push(instruction(SET, RESULT, 0, 0, u32::from(!rules.allows)));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program says, as the kernel would run it.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let [operation, both, x, y, number @ ..] = program[at];
            let (to, from) = (usize::from(both & 15), usize::from(both >> 4));
            let (jump, number) = (i16::from_ne_bytes([x, y]), u64::from(u32::from_ne_bytes(number)));
            let jump = usize::try_from(jump).unwrap();
            at += 1;
            match operation {
                0x61 => registers[to] = u64::from(context[jump / 4]),
                0x54 => registers[to] &= number,
                0x74 => registers[to] >>= number,
                0xbc => registers[to] = registers[from],
                0xb7 => registers[to] = number,
                0x15 if registers[to] == number => at += jump,
                0x55 if registers[to] != number => at += jump,
                0x15 | 0x55 => {}
                0x95 => return registers[0] == 1,
                other => unreachable!("{other:#x}"),
            }
        }
    }

    const BLOCK: u32 = 1;
    const CHAR: u32 = 2;
    const MKNOD: u32 = 1;
    const READ: u32 = 2;
    const WRITE: u32 = 4;

    #[test]
    fn an_allow_list() {
        let zero = DeviceRule::char().major(1).minor(5).access(DeviceAccess::READ);
        let rules = DeviceRules::allow_only([DeviceRule::char().major(1).minor(3), zero]);
        let program = program(&rules);
        for (allowed, kind, access, major, minor) in [
            (true, CHAR, READ, 1, 3),
            (true, CHAR, READ | WRITE | MKNOD, 1, 3),
            (false, BLOCK, READ, 1, 3),
            (false, CHAR, READ, 2, 3),
            (false, CHAR, READ, 1, 4),
            (true, CHAR, READ, 1, 5),
            (false, CHAR, READ | WRITE, 1, 5),
            (false, CHAR, MKNOD, 1, 5),
        ] {
            assert_eq!(run(&program, kind, access, major, minor), allowed, "{kind} {access} {major}:{minor}");
        }
        let lines: Vec<_> = v1(&rules).into_iter().map(|setting| (setting.file, setting.value)).collect();
        assert_eq!(
            lines,
            [("devices.deny", "a"), ("devices.allow", "c 1:3 rwm"), ("devices.allow", "c 1:5 r")]
                .map(|(file, value)| (file.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn a_deny_list() {
        let rules = DeviceRules::deny([
            DeviceRule::block(),
            DeviceRule::new(DeviceKind::All).major(7).access(DeviceAccess::WRITE),
        ]);
        let program = program(&rules);
        for (allowed, kind, access, major) in [
            (false, BLOCK, READ, 8),
            (true, CHAR, READ, 8),
            (true, CHAR, READ, 7),
            (false, CHAR, READ | WRITE, 7),
            (false, CHAR, WRITE, 7),
        ] {
            assert_eq!(run(&program, kind, access, major, 0), allowed, "{kind} {access} {major}");
        }
        let lines: Vec<_> = v1(&rules).into_iter().map(|setting| setting.value).collect();
        assert_eq!(lines, ["b *:* rwm", "b 7:* w", "c 7:* w"]);
    }

    #[test]
    fn nothing_and_everything() {
        assert!(!run(&program(&DeviceRules::allow_only([])), CHAR, READ, 1, 3));
        assert!(run(&program(&DeviceRules::deny([])), CHAR, READ, 1, 3));
        assert!(!run(&program(&DeviceRules::deny([DeviceRule::new(DeviceKind::All)])), BLOCK, MKNOD, 1, 3));
        assert!(run(&program(&DeviceRules::standard()), CHAR, READ | WRITE, 136, 17));
        let twice = DeviceRule::char().major(1).access(DeviceAccess::READ);
        let both = DeviceRules::allow_only([twice]).and(twice.access(DeviceAccess::WRITE));
        assert!(run(&program(&both), CHAR, READ | WRITE, 1, 3), "rules for the same devices are one");
    }

    #[test]
    fn rules_that_make_no_sense() {
        let check = |rule| DeviceRules::allow_only([rule]).check();
        assert!(check(DeviceRule::char().access(DeviceAccess::empty())).is_err());
        assert!(check(DeviceRule::char().major(4096)).is_err());
        assert!(check(DeviceRule::char().minor(1 << 20)).is_err());
        assert!(check(DeviceRule::char().major(4095).minor((1 << 20) - 1)).is_ok());
        assert!(DeviceRules::deny(vec![DeviceRule::char(); 301]).check().is_err());
    }
}
