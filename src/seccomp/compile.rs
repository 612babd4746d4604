//! From rules to a program for the kernel (classic BPF): a decision graph whose equal parts are one, over ranges of numbers
//! first and arguments then, written from its end to its start, since jumps only go forward.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::str::FromStr as _;
use std::sync::LazyLock;

use super::{Action, Condition, Filter, Rule, Syscall, Test};
use crate::error::Error;

/// The kernel takes no longer program (`BPF_MAXINSNS`).
const LONGEST: usize = 4096;
/// What graphs may grow to before they are given up.
const MOST_NODES: usize = 1 << 16;
/// How deep a graph is searched for tests that were already decided, and how many nodes are looked at in all.
const DEPTH: usize = 48;
const FUEL: usize = 100_000;
const ENOSYS: u16 = 38;
const MAX_ERRNO: u16 = 4095;

/// `AUDIT_ARCH_*`: what the kernel says in `seccomp_data.arch` of a call in this program's own convention.
pub(crate) const ARCH: u32 = if cfg!(target_arch = "x86_64") {
    0xC000_003E
} else if cfg!(target_arch = "aarch64") {
    0xC000_00B7
} else {
    0xC000_00F3 // riscv64
};
/// Numbers from here on are calls of x32 on x86-64 (`__X32_SYSCALL_BIT`), and no calls elsewhere.
pub(crate) const X32: u32 = 0x4000_0000;

/// What a launch still calls once the filter is on, up to execve(2): a process that is parked has all to do that its program
/// decides. It passes with the secret, which only calls of up to four arguments can have.
pub(crate) const LAST_CALLS: &[&str] = &[
    "recvmsg",
    "pread64",
    "fcntl",
    "dup3",
    "close",
    "close_range",
    "ioctl",
    "openat",
    "openat2",
    "fchdir",
    "chdir",
    "getcwd",
    "prlimit64",
    "clock_gettime",
    "sendmsg",
    "write",
    "rt_sigprocmask",
    "execve",
    "exit_group",
    "restart_syscall",
];

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

pub(crate) const KILL: u32 = 0x8000_0000;
pub(crate) const TRAP: u32 = 0x0003_0000;
pub(crate) const ERRNO: u32 = 0x0005_0000;
pub(crate) const NOTIFY: u32 = 0x7fc0_0000;
pub(crate) const LOG: u32 = 0x7ffc_0000;
pub(crate) const ALLOW: u32 = 0x7fff_0000;

/// How a filter is used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    /// What the launch has in its fifth and sixth argument; nobody else may know it.
    pub secret: [u64; 2],
    /// A call that is answered with `Kill` is told to the agent.
    pub naming: bool,
    /// So is every call that is not allowed, or logged.
    pub recording: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Program {
    /// `struct sock_filter`s, for the kernel.
    pub code: Vec<u8>,
    /// The same without secret and agent, for the agent to learn the answer; empty where it is not asked.
    pub verdict: Vec<u8>,
    /// The agent is asked (`SECCOMP_FILTER_FLAG_NEW_LISTENER`).
    pub listener: bool,
    /// And asks the host.
    pub asks_host: bool,
}

impl Filter {
    pub(crate) fn compile(&self, how: How) -> Result<Program, Error> {
        let tables = self.layers().map(table).collect::<Result<Vec<_>, _>>()?;
        let code = program(&tables, Some(how))?;
        let listener = may_ask(&code);
        let verdict = if listener { program(&tables, None)? } else { vec![] };
        let asks_host = may_ask(&verdict);
        Ok(Program { code, verdict, listener, asks_host })
    }

    /// Whether this may be one of the words that its program compares with.
    pub(crate) fn compares_with(&self, word: u32) -> bool {
        let near = |value: u64| {
            [value.wrapping_sub(1), value, value.wrapping_add(1)]
                .into_iter()
                .flat_map(|value| [value & 0xffff_ffff, value >> 32])
                .any(|half| half == u64::from(word))
        };
        let is_of = |condition: &Condition| match condition.test {
            Test::Eq(value)
            | Test::Ne(value)
            | Test::Lt(value)
            | Test::Le(value)
            | Test::Gt(value)
            | Test::Ge(value) => near(value),
            Test::MaskedEq(mask, value) => near(mask) || near(value) || near(mask & value),
        };
        // Numbers of calls are small, but for those of x32; -1 is none.
        let is_a_number = word < 1 << 16 || word.wrapping_sub(X32) < 1 << 16 || word > u32::MAX - (1 << 16);
        let mut rules = self.layers().flat_map(|layer| &layer.rules);
        is_a_number
            || word == ARCH
            || rules.any(|rule| {
                let is_named = matches!(rule.call, Syscall::Number(number) if near(u64::from(number)));
                is_named || rule.conditions.iter().any(is_of)
            })
    }

    /// The filters that must all agree.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Filter> {
        std::iter::once(self).chain(&self.also)
    }
}

impl Action {
    /// The kernel's order.
    pub(crate) fn strictness(self) -> u8 {
        match self {
            Self::Allow => 0,
            Self::Log => 1,
            Self::Notify => 2,
            Self::Errno(_) => 3,
            Self::Trap => 4,
            Self::Kill => 5,
        }
    }

    fn stricter(self, other: Self) -> Self {
        if other.strictness() > self.strictness() { other } else { self }
    }

    /// Whether the call is made.
    pub(crate) fn lets_pass(self) -> bool {
        matches!(self, Self::Allow | Self::Log)
    }

    fn plain(self) -> u32 {
        match self {
            Self::Allow => ALLOW,
            Self::Log => LOG,
            Self::Notify => NOTIFY,
            Self::Errno(errno) => ERRNO | u32::from(errno),
            Self::Trap => TRAP,
            Self::Kill => KILL,
        }
    }

    /// What the kernel is told.
    pub(crate) fn verdict(self, how: Option<How>) -> u32 {
        match how {
            Some(how) if self != Self::Allow && (how.recording || (how.naming && self == Self::Kill)) => NOTIFY,
            _ => self.plain(),
        }
    }
}

// Names

/// The kernel's name of a call.
pub(crate) fn name_of(number: u32) -> Option<&'static str> {
    syscalls::Sysno::new(usize::try_from(number).ok()?).map(|call| call.name())
}

pub(crate) fn number_of(name: &str) -> Option<u32> {
    // The table's own way from name to number compares with each.
    static NUMBERS: LazyLock<HashMap<&'static str, u32>> = LazyLock::new(|| {
        let last = u32::try_from(syscalls::Sysno::last().id()).unwrap_or(0);
        (0..=last).filter_map(|number| Some((name_of(number)?, number))).collect()
    });
    NUMBERS.get(name).copied()
}

fn known_elsewhere(name: &str) -> bool {
    syscalls::x86_64::Sysno::from_str(name).is_ok()
        || syscalls::aarch64::Sysno::from_str(name).is_ok()
        || syscalls::riscv64::Sysno::from_str(name).is_ok()
        || syscalls::x86::Sysno::from_str(name).is_ok()
        || syscalls::arm::Sysno::from_str(name).is_ok()
}

/// `None` for a call that this architecture does not have.
pub(crate) fn resolve(call: &Syscall, preset: bool) -> Result<Option<u32>, Error> {
    match call {
        Syscall::Number(number) if *number >= X32 => {
            let reason = format!("{number} is no system call's number: it must be less than {X32:#x}");
            Err(Error::invalid("seccomp", reason))
        }
        Syscall::Number(number) => Ok(Some(*number)),
        Syscall::Name(name) => match number_of(name) {
            None if !preset && !known_elsewhere(name) => {
                let reason =
                    format!("no system call is known by the name {name:?}; a new one can be given by its number");
                Err(Error::invalid("seccomp", reason))
            }
            number => Ok(number),
        },
    }
}

// What is said about each call

/// What one layer says about a call: the first whose conditions hold, or else the last.
#[derive(Debug, Clone)]
struct Ruling {
    own: Vec<(Vec<Condition>, Action)>,
    preset: Vec<(Vec<Condition>, Action)>,
    base: Action,
}

#[derive(Debug)]
struct Table {
    named: BTreeMap<u32, Ruling>,
    otherwise: Action,
    newest: u32,
}

impl Table {
    fn unnamed(&self, number: u32) -> Action {
        if number > self.newest { Action::Errno(ENOSYS) } else { self.otherwise }
    }

    fn x32(&self) -> Action {
        match self.otherwise {
            // The host could let it pass.
            Action::Allow | Action::Log | Action::Notify => Action::Kill,
            Action::Errno(_) => Action::Errno(ENOSYS),
            refused => refused,
        }
    }
}

fn table(filter: &Filter) -> Result<Table, Error> {
    check(filter.otherwise)?;
    let mut table =
        Table { named: BTreeMap::new(), otherwise: filter.otherwise, newest: filter.newest.unwrap_or(u32::MAX) };
    for Rule { call, conditions, action, preset } in &filter.rules {
        check(*action)?;
        conditions.iter().try_for_each(check_condition)?;
        let Some(number) = resolve(call, *preset)? else { continue };
        let base = table.unnamed(number);
        let ruling = table.named.entry(number).or_insert(Ruling { own: vec![], preset: vec![], base });
        if conditions.is_empty() {
            *ruling = Ruling { own: vec![], preset: vec![], base: *action };
        } else {
            let rules = if *preset { &mut ruling.preset } else { &mut ruling.own };
            rules.push((conditions.clone(), *action));
        }
    }
    let clone_is_ruled = number_of("clone").is_some_and(|number| table.named.contains_key(&number));
    if let Some(number) = number_of("clone3")
        && (clone_is_ruled || !table.otherwise.lets_pass())
    {
        let base = Action::Errno(ENOSYS);
        table.named.entry(number).or_insert(Ruling { own: vec![], preset: vec![], base });
    }
    Ok(table)
}

fn check(action: Action) -> Result<(), Error> {
    match action {
        Action::Errno(errno) if errno > MAX_ERRNO => {
            Err(Error::invalid("seccomp", format!("{errno} is no error number: it must be {MAX_ERRNO} at most")))
        }
        _ => Ok(()),
    }
}

fn check_condition(condition: &Condition) -> Result<(), Error> {
    let argument = condition.argument;
    let (value, mask) = match condition.test {
        Test::MaskedEq(mask, value) => (value, mask),
        Test::Eq(value) | Test::Ne(value) | Test::Lt(value) | Test::Le(value) | Test::Gt(value) | Test::Ge(value) => {
            (value, u64::MAX)
        }
    };
    if argument.index > 5 {
        let reason = format!("there is no argument {}: the first is 0, the last is 5", argument.index);
        return Err(Error::invalid("seccomp", reason));
    }
    if argument.low32 && (value > u64::from(u32::MAX) || (mask != u64::MAX && mask > u64::from(u32::MAX))) {
        let reason = format!("argument {} is looked at in 32 bits, and {value:#x} has more", argument.index);
        return Err(Error::invalid("seccomp", reason));
    }
    if value & !mask != 0 {
        let reason = format!("argument {} can never be {value:#x} under the mask {mask:#x}", argument.index);
        return Err(Error::invalid("seccomp", reason));
    }
    Ok(())
}

// The graph

type Id = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Op {
    Eq,
    Gt,
    Ge,
    /// Any of the bits.
    Set,
}

/// A test of one word of `seccomp_data`, after a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Probe {
    word: u32,
    mask: u32,
    op: Op,
    k: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Node {
    Return(u32),
    Branch { probe: Probe, yes: Id, no: Id },
}

impl Probe {
    /// What must be in the accumulator.
    fn key(self) -> (u32, u32) {
        (self.word, self.mask)
    }

    fn holds(self, value: u32) -> bool {
        match self.op {
            Op::Eq => value == self.k,
            Op::Gt => value > self.k,
            Op::Ge => value >= self.k,
            Op::Set => value & self.k != 0,
        }
    }

    /// What it says where `fact` is known to have said `outcome`.
    fn given(self, fact: Probe, outcome: bool) -> Option<bool> {
        if self.key() != fact.key() {
            return None;
        }
        let (low, high, not) = match (fact.op, outcome) {
            (Op::Eq, true) => (fact.k, fact.k, None),
            (Op::Eq, false) => (0, u32::MAX, Some(fact.k)),
            (Op::Gt, true) => (fact.k.saturating_add(1), u32::MAX, None),
            (Op::Gt, false) => (0, fact.k, None),
            (Op::Ge, true) => (fact.k, u32::MAX, None),
            (Op::Ge, false) => (0, fact.k.saturating_sub(1), None),
            (Op::Set, _) => return (self == fact).then_some(outcome),
        };
        match self.op {
            _ if low == high => Some(self.holds(low)),
            Op::Eq => (self.k < low || self.k > high || not == Some(self.k)).then_some(false),
            Op::Gt | Op::Ge if self.holds(low) => Some(true),
            Op::Gt | Op::Ge if !self.holds(high) => Some(false),
            _ => None,
        }
    }
}

struct Graph {
    nodes: Vec<Node>,
    ids: HashMap<Node, Id>,
    /// Tests that were decided on the way are left out while this lasts. It makes most programs shorter, but can make parts
    /// different that were equal.
    fuel: usize,
}

impl Graph {
    fn node(&self, id: Id) -> Node {
        self.nodes.get(id).copied().unwrap_or(Node::Return(KILL))
    }

    fn put(&mut self, node: Node) -> Id {
        *self.ids.entry(node).or_insert_with(|| {
            self.nodes.push(node);
            self.nodes.len() - 1
        })
    }

    fn verdict(&mut self, verdict: u32) -> Id {
        self.put(Node::Return(verdict))
    }

    fn branch(&mut self, probe: Probe, yes: Id, no: Id) -> Id {
        if yes == no {
            return yes;
        }
        let (yes, no) = if self.fuel > 0 {
            let yes = self.knowing(yes, probe, true, DEPTH, &mut HashMap::new());
            (yes, self.knowing(no, probe, false, DEPTH, &mut HashMap::new()))
        } else {
            (yes, no)
        };
        if yes == no { yes } else { self.put(Node::Branch { probe, yes, no }) }
    }

    /// The same decisions, where `fact` is known to have said `outcome`.
    fn knowing(&mut self, id: Id, fact: Probe, outcome: bool, depth: usize, memo: &mut HashMap<Id, Id>) -> Id {
        let Node::Branch { probe, yes, no } = self.node(id) else { return id };
        self.fuel = self.fuel.saturating_sub(1);
        if depth == 0 || self.fuel == 0 {
            return id;
        }
        if let Some(known) = memo.get(&id) {
            return *known;
        }
        let result = match probe.given(fact, outcome) {
            Some(true) => self.knowing(yes, fact, outcome, depth - 1, memo),
            Some(false) => self.knowing(no, fact, outcome, depth - 1, memo),
            None => {
                let yes = self.knowing(yes, fact, outcome, depth - 1, memo);
                let no = self.knowing(no, fact, outcome, depth - 1, memo);
                if yes == no { yes } else { self.put(Node::Branch { probe, yes, no }) }
            }
        };
        memo.insert(id, result);
        result
    }

    /// One word against one value; what is always or never so needs no test.
    fn word(&mut self, word: u32, op: Op, k: u32, yes: Id, no: Id) -> Id {
        match (op, k) {
            (Op::Gt, u32::MAX) => no,
            (Op::Ge, 0) => yes,
            _ => self.branch(Probe { word, mask: u32::MAX, op, k }, yes, no),
        }
    }

    fn masked(&mut self, word: u32, mask: u32, k: u32, yes: Id, no: Id) -> Id {
        match (mask, k) {
            (0, _) => yes,
            (u32::MAX, k) => self.word(word, Op::Eq, k, yes, no),
            (mask, 0) => self.branch(Probe { word, mask: u32::MAX, op: Op::Set, k: mask }, no, yes),
            (mask, k) if mask == k && mask.is_power_of_two() => {
                self.branch(Probe { word, mask: u32::MAX, op: Op::Set, k: mask }, yes, no)
            }
            (mask, k) => self.branch(Probe { word, mask, op: Op::Eq, k }, yes, no),
        }
    }

    fn condition(&mut self, Condition { argument, test }: Condition, yes: Id, no: Id) -> Id {
        let start = ARGUMENTS + 8 * u32::from(argument.index);
        let words = if cfg!(target_endian = "little") { (start + 4, start) } else { (start, start + 4) };
        let words = (if argument.low32 { None } else { Some(words.0) }, words.1);
        match test {
            Test::Eq(value) => self.masked_wide(words, u64::MAX, value, yes, no),
            Test::Ne(value) => self.masked_wide(words, u64::MAX, value, no, yes),
            Test::MaskedEq(mask, value) => self.masked_wide(words, mask, value, yes, no),
            Test::Gt(value) => self.above(words, Op::Gt, value, yes, no),
            Test::Ge(value) => self.above(words, Op::Ge, value, yes, no),
            Test::Le(value) => self.above(words, Op::Gt, value, no, yes),
            Test::Lt(value) => self.above(words, Op::Ge, value, no, yes),
        }
    }

    fn masked_wide(&mut self, (high, low): (Option<u32>, u32), mask: u64, value: u64, yes: Id, no: Id) -> Id {
        let ((mask_high, mask_low), (value_high, value_low)) = (halves(mask), halves(value));
        let then = self.masked(low, mask_low, value_low, yes, no);
        high.map_or(then, |high| self.masked(high, mask_high, value_high, then, no))
    }

    fn above(&mut self, (high, low): (Option<u32>, u32), op: Op, value: u64, yes: Id, no: Id) -> Id {
        let (value_high, value_low) = halves(value);
        let tie = self.word(low, op, value_low, yes, no);
        let Some(high) = high else { return tie };
        let below = self.word(high, Op::Eq, value_high, tie, no);
        self.word(high, Op::Gt, value_high, yes, below)
    }

    /// What all layers say about one call, the strictest of it.
    fn call(&mut self, number: u32, tables: &[Table], how: Option<How>) -> Id {
        if tables.iter().all(|table| table.answers(number).nth(1).is_none()) {
            let answers = tables.iter().flat_map(|table| table.answers(number));
            return self.verdict(answers.fold(Action::Allow, Action::stricter).verdict(how));
        }
        // The answers that may have come before each layer, and after the last.
        let mut floors = vec![vec![Action::Allow]];
        for table in tables {
            let mut next = vec![];
            for floor in floors.last().into_iter().flatten() {
                for answer in table.answers(number).map(|answer| floor.stricter(answer)) {
                    if !next.contains(&answer) {
                        next.push(answer);
                    }
                }
            }
            floors.push(next);
        }
        // From the last layer to the first: what is left to ask, for each of them.
        let mut after = HashMap::new();
        for floor in floors.pop().into_iter().flatten() {
            after.insert(floor, self.verdict(floor.verdict(how)));
        }
        for (table, floors) in tables.iter().zip(floors).rev() {
            let mut before = HashMap::new();
            for floor in floors {
                let then = |answer| after.get(&floor.stricter(answer)).copied().unwrap_or_default();
                let node = match table.named.get(&number) {
                    None => then(table.unnamed(number)),
                    Some(ruling) => {
                        let mut node = then(ruling.base);
                        for (conditions, action) in ruling.own.iter().chain(&ruling.preset).rev() {
                            let (no, mut yes) = (node, then(*action));
                            for condition in conditions.iter().rev() {
                                yes = self.condition(*condition, yes, no);
                            }
                            node = yes;
                        }
                        node
                    }
                };
                before.insert(floor, node);
            }
            after = before;
        }
        after.get(&Action::Allow).copied().unwrap_or_default()
    }

    /// The launch's own calls pass with the secret, and need it only where they would not pass anyway.
    fn unless_secret(&mut self, [first, second]: [u64; 2], node: Id) -> Id {
        let allow = self.verdict(ALLOW);
        let then = self.condition(Condition::arg(5).eq(second), allow, node);
        self.condition(Condition::arg(4).eq(first), then, node)
    }

    fn number(&mut self, op: Op, k: u32, yes: Id, no: Id) -> Id {
        self.put(Node::Branch { probe: Probe { word: NUMBER, mask: u32::MAX, op, k }, yes, no })
    }

    /// A balanced tree over ranges of numbers.
    fn tree(&mut self, blocks: &[Block]) -> Id {
        match blocks {
            [] => self.verdict(KILL),
            [block] => block.node,
            _ => {
                let (left, right) = blocks.split_at(blocks.len() / 2);
                let start = right.first().map_or(0, |block| block.start);
                let (yes, no) = (self.tree(right), self.tree(left));
                self.number(Op::Ge, start, yes, no)
            }
        }
    }
}

impl Table {
    fn answers(&self, number: u32) -> impl Iterator<Item = Action> {
        let ruling = self.named.get(&number);
        let base = ruling.map_or(self.unnamed(number), |ruling| ruling.base);
        let rules = ruling.into_iter().flat_map(|ruling| ruling.own.iter().chain(&ruling.preset));
        std::iter::once(base).chain(rules.map(|(_, action)| *action))
    }
}

fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

/// From this number on, up to the next one's.
#[derive(Debug, Clone, Copy)]
struct Block {
    start: u32,
    node: Id,
}

fn program(tables: &[Table], how: Option<How>) -> Result<Vec<u8>, Error> {
    let short = |fuel| {
        let mut graph = Graph { nodes: vec![], ids: HashMap::new(), fuel };
        let root = graph.whole(tables, how)?;
        write(&graph, root)
    };
    short(FUEL).or_else(|| short(0)).ok_or_else(|| {
        let reason = format!("the rules make a program of more than {LONGEST} instructions, the kernel's limit");
        Error::invalid("seccomp", reason)
    })
}

impl Graph {
    /// `None` where it grows too large.
    fn whole(&mut self, tables: &[Table], how: Option<How>) -> Option<Id> {
        let mut ranges = vec![];
        let last_calls = LAST_CALLS.iter().filter_map(|name| number_of(name)).collect::<BTreeSet<_>>();
        let allow = self.verdict(ALLOW);
        // Where what is said may change: at each call that is named, after it, and after the newest.
        let named = tables.iter().flat_map(|table| table.named.keys().copied()).chain(last_calls.iter().copied());
        let newest = tables.iter().filter_map(|table| table.newest.checked_add(1));
        let starts = named.flat_map(|number| [number, number + 1]).chain(newest).chain([0]).collect::<BTreeSet<_>>();
        for start in starts {
            let mut node = self.call(start, tables, how);
            if let Some(how) = how
                && node != allow
                && last_calls.contains(&start)
            {
                node = self.unless_secret(how.secret, node);
            }
            ranges.push(Block { start, node });
            if self.nodes.len() > MOST_NODES {
                return None;
            }
        }
        if cfg!(target_arch = "x86_64") {
            let x32 = tables.iter().fold(Action::Allow, |action, table| action.stricter(table.x32()));
            // -1 is what a tracer makes of a call that it wants skipped, and no call of x32.
            let none = self.call(u32::MAX, tables, how);
            ranges.retain(|block| block.start < X32);
            ranges.push(Block { start: X32, node: self.verdict(x32.verdict(how)) });
            ranges.push(Block { start: u32::MAX, node: none });
        }
        ranges.dedup_by_key(|block| block.node);
        let blocks = self.blocks(&ranges);
        let tree = self.tree(&blocks);
        let foreign = self.verdict(KILL);
        Some(self.put(Node::Branch {
            probe: Probe { word: ARCHITECTURE, mask: u32::MAX, op: Op::Eq, k: ARCH },
            yes: tree,
            no: foreign,
        }))
    }

    /// A single number between two ranges of one outcome is one test for equality, not two for order.
    fn blocks(&mut self, ranges: &[Block]) -> Vec<Block> {
        let mut blocks = vec![];
        let mut rest = ranges;
        while let [first, others @ ..] = rest {
            let mut block = *first;
            rest = others;
            let mut singles = vec![];
            while let [single, next, others @ ..] = rest
                && single.start.checked_add(1) == Some(next.start)
                && next.node == first.node
                && singles.len() < 2
            {
                singles.push(*single);
                rest = others;
            }
            for single in singles.iter().rev() {
                block.node = self.number(Op::Eq, single.start, single.node, block.node);
            }
            blocks.push(block);
        }
        blocks
    }
}

// The program

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

impl Op {
    fn code(self) -> u16 {
        match self {
            Self::Eq => 0x15,
            Self::Gt => 0x25,
            Self::Ge => 0x35,
            Self::Set => 0x45,
        }
    }
}

/// `struct sock_filter`
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u16,
    yes: u8,
    no: u8,
    k: u32,
}

/// Whether a program can come to `SECCOMP_RET_USER_NOTIF`: what it cannot reach is not in it.
fn may_ask(program: &[u8]) -> bool {
    let [c0, c1] = RETURN.to_ne_bytes();
    let [k0, k1, k2, k3] = NOTIFY.to_ne_bytes();
    program.as_chunks().0.contains(&[c0, c1, 0, 0, k0, k1, k2, k3])
}

/// Where a node begins, counted from the program's end.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// For those who come with anything in the accumulator.
    entry: usize,
    /// For those who come with what it tests.
    loaded: usize,
}

/// A program, its last instruction first.
struct Writer<'a> {
    graph: &'a Graph,
    code: Vec<Instruction>,
    places: HashMap<Id, Place>,
    /// Where a far place can be reached from close by.
    relays: HashMap<usize, usize>,
}

/// `None` where it is too long.
fn write(graph: &Graph, root: Id) -> Option<Vec<u8>> {
    let reached = reached(graph, root);
    let mut writer = Writer { graph, code: vec![], places: HashMap::new(), relays: HashMap::new() };
    // A node is made after those that it leads to, so this is from the end to the start.
    for (id, needs_entry) in reached {
        writer.node(id, needs_entry)?;
        if writer.code.len() > LONGEST {
            return None;
        }
    }
    let bytes = writer.code.iter().rev().flat_map(|instruction| {
        let [a, b] = instruction.code.to_ne_bytes();
        let [c, d, e, f] = instruction.k.to_ne_bytes();
        [a, b, instruction.yes, instruction.no, c, d, e, f]
    });
    Some(bytes.collect())
}

/// The nodes of the program, and whether one comes to them without what they test in the accumulator.
fn reached(graph: &Graph, root: Id) -> BTreeMap<Id, bool> {
    let mut reached = BTreeMap::from([(root, true)]);
    let mut left = vec![root];
    while let Some(id) = left.pop() {
        let Node::Branch { probe, yes, no } = graph.node(id) else { continue };
        for next in [yes, no] {
            let stranger = !matches!(graph.node(next), Node::Branch { probe: other, .. } if other.key() == probe.key());
            reached.entry(next).and_modify(|entry| *entry |= stranger).or_insert_with(|| {
                left.push(next);
                stranger
            });
        }
    }
    reached
}

impl Writer<'_> {
    fn push(&mut self, code: u16, yes: u8, no: u8, k: u32) -> usize {
        self.code.push(Instruction { code, yes, no, k });
        self.code.len() - 1
    }

    fn node(&mut self, id: Id, needs_entry: bool) -> Option<()> {
        let place = match self.graph.node(id) {
            Node::Return(verdict) => {
                let entry = self.push(RETURN, 0, 0, verdict);
                Place { entry, loaded: entry }
            }
            Node::Branch { probe, yes, no } => {
                let (far_yes, far_no) = (self.target(yes, probe)?, self.target(no, probe)?);
                let (yes, no) = (self.within_reach(yes, far_yes)?, self.within_reach(no, far_no)?);
                let (yes, no) = (self.distance(yes)?, self.distance(no)?);
                let loaded = self.push(probe.op.code(), u8::try_from(yes).ok()?, u8::try_from(no).ok()?, probe.k);
                if needs_entry && probe.mask != u32::MAX {
                    self.push(AND, 0, 0, probe.mask);
                }
                let entry = if needs_entry { self.push(LOAD, 0, 0, probe.word) } else { loaded };
                Place { entry, loaded }
            }
        };
        self.places.insert(id, place);
        Some(())
    }

    fn target(&self, id: Id, from: Probe) -> Option<usize> {
        let place = self.places.get(&id)?;
        let same = matches!(self.graph.node(id), Node::Branch { probe, .. } if probe.key() == from.key());
        Some(if same { place.loaded } else { place.entry })
    }

    /// How many instructions the next one skips to get there.
    fn distance(&self, target: usize) -> Option<usize> {
        self.code.len().checked_sub(target)?.checked_sub(1)
    }

    /// A conditional jump skips 255 at most; beyond, it goes by way of one that skips any number, or of the same return
    /// once more.
    fn within_reach(&mut self, id: Id, target: usize) -> Option<usize> {
        // One less, for the relay of the other branch.
        let close = |writer: &Self, target| writer.distance(target).is_some_and(|distance| distance < 255);
        if close(self, target) {
            return Some(target);
        }
        if let Some(relay) = self.relays.get(&target).copied().filter(|relay| close(self, *relay)) {
            return Some(relay);
        }
        let relay = match self.graph.node(id) {
            Node::Return(verdict) => self.push(RETURN, 0, 0, verdict),
            Node::Branch { .. } => {
                let distance = u32::try_from(self.distance(target)?).ok()?;
                self.push(JUMP, 0, 0, distance)
            }
        };
        self.relays.insert(target, relay);
        Some(relay)
    }
}
