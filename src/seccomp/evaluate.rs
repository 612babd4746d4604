//! What the rules mean, said once more and in another way than the compiler does, for tests and for fuzzing.

use super::compile::{ARCH, How, KILL, LAST_CALLS, NOTIFY, X32, number_of, resolve};
use super::{Action, Condition, Filter, Rule, Test};

/// A system call as the kernel shows it to a filter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub arch: u32,
    pub number: u32,
    pub arguments: [u64; 6],
}

impl Call {
    pub(crate) fn native(number: u32, arguments: [u64; 6]) -> Self {
        Self { arch: ARCH, number, arguments }
    }

    /// As `struct seccomp_data`.
    pub(crate) fn bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..4].copy_from_slice(&self.number.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.arch.to_ne_bytes());
        bytes[8..16].copy_from_slice(&0x7f00_1234_5678_u64.to_ne_bytes());
        for (argument, bytes) in self.arguments.iter().zip(bytes[16..].chunks_exact_mut(8)) {
            bytes.copy_from_slice(&argument.to_ne_bytes());
        }
        bytes
    }
}

/// A filter whose calls are known by number. Its rules must be valid ones.
pub(crate) struct Meaning {
    layers: Vec<Layer>,
    last_calls: Vec<Option<u32>>,
    clone: Option<u32>,
    clone3: Option<u32>,
}

struct Layer {
    otherwise: Action,
    newest: Option<u32>,
    rules: Vec<(u32, Rule)>,
}

impl Meaning {
    pub(crate) fn of(filter: &Filter) -> Self {
        let layers = filter.layers().map(|layer| Layer {
            otherwise: layer.otherwise,
            newest: layer.newest,
            rules: layer.rules.iter().filter_map(|rule| Some((number_of_rule(rule)?, rule.clone()))).collect(),
        });
        Self {
            layers: layers.collect(),
            last_calls: LAST_CALLS.iter().map(|name| number_of(name)).collect(),
            clone: number_of("clone"),
            clone3: number_of("clone3"),
        }
    }

    /// What the kernel must say of a call; `None` as how: without secret and agent.
    pub(crate) fn evaluate(&self, how: Option<How>, call: &Call) -> u32 {
        if call.arch != ARCH {
            return KILL;
        }
        let actions = self.layers.iter().map(|layer| self.answer(layer, call));
        let action = actions.reduce(|first, second| if rank(second) < rank(first) { second } else { first });
        let action = action.unwrap_or(Action::Kill);
        let Some(how) = how else { return value(action) };
        if self.last_calls.contains(&Some(call.number)) && call.arguments[4..] == how.secret {
            return value(Action::Allow);
        }
        match action {
            Action::Kill if how.naming || how.recording => NOTIFY,
            Action::Log | Action::Notify | Action::Errno(_) | Action::Trap if how.recording => NOTIFY,
            action => value(action),
        }
    }

    fn answer(&self, layer: &Layer, call: &Call) -> Action {
        let x32 = cfg!(target_arch = "x86_64") && call.number >= X32 && call.number != u32::MAX;
        if x32 {
            return match layer.otherwise {
                Action::Kill | Action::Allow | Action::Log | Action::Notify => Action::Kill,
                Action::Trap => Action::Trap,
                Action::Errno(_) => Action::Errno(38),
            };
        }
        let about = |call| layer.rules.iter().filter(move |(number, _)| Some(*number) == call);
        let rules = about(Some(call.number)).map(|(_, rule)| rule).collect::<Vec<_>>();
        // What comes before the last unconditional rule is forgotten.
        let last = rules.iter().rposition(|rule| rule.conditions.is_empty());
        let since = &rules[last.unwrap_or(0)..];
        for preset in [false, true] {
            for rule in since.iter().filter(|rule| rule.preset == preset && !rule.conditions.is_empty()) {
                if rule.conditions.iter().all(|condition| holds(condition, call)) {
                    return rule.action;
                }
            }
        }
        if let Some(rule) = last.and_then(|last| rules.get(last)) {
            return rule.action;
        }
        let refuses = !matches!(layer.otherwise, Action::Allow | Action::Log);
        let clone3 = self.clone3 == Some(call.number);
        if rules.is_empty() && clone3 && (refuses || about(self.clone).next().is_some()) {
            return Action::Errno(38);
        }
        if layer.newest.is_some_and(|newest| call.number > newest) { Action::Errno(38) } else { layer.otherwise }
    }
}

fn rank(action: Action) -> i32 {
    // The kernel compares the values as signed numbers; the least wins.
    (value(action) & 0xffff_0000).cast_signed()
}

fn value(action: Action) -> u32 {
    match action {
        Action::Kill => 0x8000_0000,
        Action::Trap => 0x0003_0000,
        Action::Errno(errno) => 0x0005_0000 + u32::from(errno),
        Action::Notify => 0x7fc0_0000,
        Action::Log => 0x7ffc_0000,
        Action::Allow => 0x7fff_0000,
    }
}

fn number_of_rule(rule: &Rule) -> Option<u32> {
    resolve(&rule.call, rule.preset).expect("a valid rule")
}

fn holds(condition: &Condition, call: &Call) -> bool {
    let mut argument = call.arguments[usize::from(condition.argument.index)];
    if condition.argument.low32 {
        argument &= 0xffff_ffff;
    }
    match condition.test {
        Test::Eq(value) => argument == value,
        Test::Ne(value) => argument != value,
        Test::Lt(value) => argument < value,
        Test::Le(value) => argument <= value,
        Test::Gt(value) => argument > value,
        Test::Ge(value) => argument >= value,
        Test::MaskedEq(mask, value) => argument & mask == value,
    }
}
