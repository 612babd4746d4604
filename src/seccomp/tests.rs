#[cfg(not(miri))]
mod kernel;

use super::compile::{ALLOW, ARCH, ERRNO, How, KILL, LAST_CALLS, LOG, NOTIFY, TRAP, X32, name_of, number_of};
use super::evaluate::{Call, Meaning};
use super::interpret::interpret;
use super::{Action, Condition, Filter, Test};
use crate::error::Error;

const SECRET: [u64; 2] = [0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00];
const PLAIN: How = How { secret: SECRET, naming: false, recording: false };
const NAMING: How = How { naming: true, ..PLAIN };
const RECORDING: How = How { naming: true, recording: true, ..PLAIN };
const EPERM: u32 = ERRNO | 1;
const ENOSYS: u32 = ERRNO | 38;

fn presets() -> Vec<(&'static str, Filter)> {
    vec![
        ("default_profile", Filter::default_profile()),
        ("hardened", Filter::hardened()),
        ("judge", Filter::judge()),
        ("pure_compute", Filter::pure_compute()),
        ("no_network", Filter::no_network()),
        ("hardened and no_network", Filter::hardened().and(Filter::no_network())),
        ("judge and no_network", Filter::judge().and(Filter::no_network()).and(Filter::default_profile())),
    ]
}

fn nr(name: &str) -> u32 {
    number_of(name).unwrap_or_else(|| panic!("{name}"))
}

fn ask(filter: &Filter, name: &str, arguments: [u64; 6]) -> u32 {
    let program = filter.compile(PLAIN).unwrap();
    interpret(&program.code, &Call::native(nr(name), arguments).bytes())
}

fn first(argument: u64) -> [u64; 6] {
    [argument, 0, 0, 0, 0, 0]
}

/// Numbers that look random, and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// Values at which the answers of a filter may change, and their neighbours.
fn edges(filter: &Filter) -> Vec<u64> {
    let mut edges = vec![0, 1, u64::MAX, 1 << 32, SECRET[0], SECRET[1], SECRET[0] ^ (1 << 40), SECRET[1] ^ 1];
    for condition in filter.layers().flat_map(|layer| &layer.rules).flat_map(|rule| &rule.conditions) {
        let (value, mask) = match condition.test {
            Test::MaskedEq(mask, value) => (value, mask),
            Test::Eq(v) | Test::Ne(v) | Test::Lt(v) | Test::Le(v) | Test::Gt(v) | Test::Ge(v) => (v, 0),
        };
        edges.extend([value, value.wrapping_add(1), value.wrapping_sub(1), value ^ (1 << 35), value | !mask, mask]);
    }
    edges.sort_unstable();
    edges.dedup();
    edges
}

fn agree(what: &str, filter: &Filter, numbers: impl IntoIterator<Item = u32>, tries: u32, dice: &mut Dice) {
    let (edges, meaning) = (edges(filter), Meaning::of(filter));
    let programs = [PLAIN, NAMING, RECORDING].map(|how| (how, filter.compile(how).unwrap()));
    for number in numbers {
        for attempt in 0..tries {
            let mut call = Call::native(number, std::array::from_fn(|_| dice.pick(&edges)));
            if attempt % 3 == 0 {
                call.arguments[4..].copy_from_slice(&SECRET);
            }
            for (how, program) in &programs {
                let (found, meant) = (interpret(&program.code, &call.bytes()), meaning.evaluate(Some(*how), &call));
                assert_eq!(found, meant, "{what}, {how:?}: {call:x?} {:?}", name_of(number));
                assert!(found != NOTIFY || program.listener, "{what}, {how:?}: {call:x?}");
                if program.listener {
                    let (found, meant) = (interpret(&program.verdict, &call.bytes()), meaning.evaluate(None, &call));
                    assert_eq!(found, meant, "{what}, verdict: {call:x?}");
                    assert!(found != NOTIFY || program.asks_host, "{what}: {call:x?}");
                }
            }
        }
    }
}

fn corners() -> [u32; 7] {
    [X32 - 1, X32, X32 + 1, X32 + 59, 0x8000_0000, u32::MAX - 1, u32::MAX]
}

#[test]
fn presets_do_what_their_rules_say() {
    let mut dice = Dice(1);
    for (name, filter) in presets() {
        agree(name, &filter, (0..=1024).chain(corners()), 12, &mut dice);
        let ruled = filter.layers().flat_map(|layer| &layer.rules).filter(|rule| !rule.conditions.is_empty());
        let ruled = ruled.filter_map(|rule| super::compile::resolve(&rule.call, true).unwrap()).collect::<Vec<_>>();
        agree(name, &filter, ruled, 1500, &mut dice);
    }
}

fn condition(dice: &mut Dice) -> Condition {
    let values = [0, 1, 2, 3, 7, 8, 0xffff_ffff, 1 << 32, (1 << 32) + 1, u64::MAX - 1, u64::MAX, SECRET[0]];
    let masks = [0, 1, 2, 4, 0xff, 0x7e02_0000, 0xffff_ffff, 0xffff_ffff_0000_0000, 1 << 40, u64::MAX];
    let (mut value, mut mask) = (dice.pick(&values), dice.pick(&masks));
    let mut argument = Condition::arg(u8::try_from(dice.below(6)).unwrap());
    if dice.below(3) == 0 {
        argument = argument.low32();
        value &= 0xffff_ffff;
        mask &= 0xffff_ffff;
    }
    match dice.below(7) {
        0 => argument.eq(value),
        1 => argument.ne(value),
        2 => argument.lt(value),
        3 => argument.le(value),
        4 => argument.gt(value),
        5 => argument.ge(value),
        _ => argument.masked_eq(mask, value & mask),
    }
}

fn action(dice: &mut Dice) -> Action {
    use Action::{Allow, Errno, Kill, Log, Notify, Trap};
    dice.pick(&[Allow, Log, Notify, Errno(1), Errno(38), Trap, Kill])
}

fn filter(dice: &mut Dice, numbers: u64, rules: u64) -> Filter {
    let mut filter = Filter::allow_list().otherwise(action(dice));
    for _ in 0..dice.below(rules) {
        let call = u32::try_from(dice.below(numbers)).unwrap();
        let conditions = (0..dice.below(4)).map(|_| condition(dice)).collect::<Vec<_>>();
        let action = action(dice);
        filter = filter.push(call.into(), conditions, action, dice.below(4) == 0);
    }
    if dice.below(3) == 0 {
        filter.newest = Some(u32::try_from(dice.below(numbers + 8)).unwrap());
    }
    filter
}

#[test]
fn any_filter_does_what_its_rules_say() {
    let mut dice = Dice(7);
    for round in 0..400 {
        // Few numbers with many rules each, and many with few.
        let (numbers, rules) = dice.pick(&[(5, 30), (64, 60), (500, 120)]);
        let mut any = filter(&mut dice, numbers, rules);
        for _ in 0..dice.below(3) {
            any = any.and(filter(&mut dice, numbers, rules / 2));
        }
        let sample = (0..24).map(|_| u32::try_from(dice.below(numbers + 10)).unwrap()).collect::<Vec<_>>();
        agree(&format!("{round}"), &any, sample.into_iter().chain(corners()), 20, &mut dice);
    }
}

/// Conditional jumps skip 255 instructions at most.
#[test]
fn long_programs_do_what_their_rules_say() {
    let mut dice = Dice(3);
    for per_call in [1, 40, 400] {
        let mut long = Filter::deny_list();
        for rule in 0..360_u32 {
            let conditions =
                [Condition::arg(0).low32().eq(u64::from(rule)), Condition::arg(1).gt(u64::from(rule) << 20)];
            let action = [Action::Errno(1), Action::Kill, Action::Trap, Action::Errno(2)][rule as usize % 4];
            long = long.rule(rule / per_call, conditions, action);
        }
        let program = long.compile(PLAIN).unwrap();
        assert!(program.code.len() / 8 > 1200, "{}", program.code.len() / 8);
        let jumps = program.code.chunks(8).filter(|instruction| instruction[..2] == 5_u16.to_ne_bytes());
        assert!(jumps.count() > 0, "nothing was out of reach");
        agree("long", &long, (0..=360 / per_call + 1).chain(corners()), 60, &mut dice);
    }
}

#[test]
fn names_and_numbers() {
    for call in (0..600).filter_map(syscalls::Sysno::new) {
        let number = u32::try_from(call.id()).unwrap();
        assert_eq!((name_of(number), number_of(call.name())), (Some(call.name()), Some(number)));
    }
    assert_eq!((name_of(X32), number_of("raed")), (None, None));
    assert!(LAST_CALLS.iter().all(|name| number_of(name).is_some()));
    // A name in a preset that no architecture has is a slip.
    for (preset, filter) in presets() {
        for rule in filter.layers().flat_map(|layer| &layer.rules) {
            assert!(super::compile::resolve(&rule.call, false).is_ok(), "{preset}: {:?}", rule.call);
        }
    }
}

/// What stands for the secret is found by its value: nothing else may have it.
#[test]
fn all_that_a_program_compares_with_is_known() {
    let odd = Filter::deny_list()
        .rule("ioctl", [Condition::arg(1).low32().eq(0x1234_5678)], Action::Kill)
        .rule("ioctl", [Condition::arg(1).le(0x9abc_def0_1357_9bdf)], Action::Errno(1))
        .rule("prctl", [Condition::arg(0).gt(0xfffe_0000_0001_0000)], Action::Trap)
        .rule("kill", [Condition::arg(0).masked_eq(0xff00_ff00_ff00_ff00, 0x1100_2200_3300_4400)], Action::Errno(2))
        .deny(77_777, Action::Errno(3));
    for (name, filter) in presets().into_iter().chain([("odd", odd)]) {
        for how in [PLAIN, NAMING, RECORDING] {
            let program = filter.compile(how).unwrap();
            for instruction in program.code.as_chunks::<8>().0 {
                let code = u16::from_ne_bytes([instruction[0], instruction[1]]);
                let k = u32::from_ne_bytes([instruction[4], instruction[5], instruction[6], instruction[7]]);
                let is_secret = SECRET.iter().any(|half| [*half, half >> 32].contains(&u64::from(k)));
                #[allow(clippy::cast_possible_truncation)]
                let is_secret = is_secret || SECRET.iter().any(|half| *half as u32 == k);
                // BPF_JMP | BPF_JEQ | BPF_K
                assert!(code != 0x15 || is_secret || filter.compares_with(k), "{name}: {k:#x}");
            }
        }
    }
    assert!(!Filter::hardened().compares_with(0x5bd1_e995));
}

#[test]
fn the_size_of_presets() {
    for (name, filter, most) in [
        ("default_profile", Filter::default_profile(), 75),
        ("hardened", Filter::hardened(), 110),
        ("judge", Filter::judge(), 140),
        ("pure_compute", Filter::pure_compute(), 90),
        ("no_network", Filter::no_network(), 20),
    ] {
        let instructions = filter.compile(PLAIN).unwrap().code.len() / 8;
        assert!(instructions <= most, "{name}: {instructions}");
    }
}

#[test]
fn foreign_architectures_end_the_process_first() {
    let i386 = 0x4000_0003;
    for (name, filter) in presets() {
        for how in [PLAIN, RECORDING] {
            let program = filter.compile(how).unwrap();
            for number in [0, nr("write"), 11] {
                let call = Call { arch: i386, ..Call::native(number, [SECRET[0], 0, 0, 0, SECRET[0], SECRET[1]]) };
                assert_eq!(interpret(&program.code, &call.bytes()), KILL, "{name}");
            }
        }
    }
    assert_ne!(ARCH, i386);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn x32_is_never_allowed() {
    for (filter, answer) in [
        (Filter::deny_list(), KILL),
        (Filter::allow_list(), KILL),
        (Filter::allow_list().otherwise(Action::Log), KILL),
        (Filter::allow_list().otherwise(Action::Notify), KILL),
        (Filter::allow_list().otherwise(Action::Errno(1)), ENOSYS),
        (Filter::default_profile(), ENOSYS),
        (Filter::allow_list().otherwise(Action::Trap), TRAP),
        (Filter::default_profile().and(Filter::no_network()), KILL),
    ] {
        let program = filter.compile(PLAIN).unwrap();
        for number in [X32, X32 | nr("write"), X32 | 512, u32::MAX - 1] {
            let call = Call::native(number, [0, 0, 0, 0, SECRET[0], SECRET[1]]);
            assert_eq!(interpret(&program.code, &call.bytes()), answer, "{number:#x}");
        }
    }
    // -1 is no call of x32: it is not named.
    let deny_list = Filter::deny_list().compile(PLAIN).unwrap();
    assert_eq!(interpret(&deny_list.code, &Call::native(u32::MAX, [0; 6]).bytes()), ALLOW);
}

#[test]
fn the_secret_lets_the_last_calls_pass_and_nothing_else() {
    let nothing = Filter::allow_list();
    let program = nothing.compile(NAMING).unwrap();
    let whole = [9, 9, 9, 9, SECRET[0], SECRET[1]];
    let wrong = [SECRET[0] ^ 1, SECRET[0] ^ (1 << 63), 0, SECRET[1]];
    for number in 0..=1024 {
        let last = LAST_CALLS.iter().any(|name| nr(name) == number);
        let ask = |arguments| interpret(&program.code, &Call::native(number, arguments).bytes());
        let refused = if nr("clone3") == number { ENOSYS } else { NOTIFY };
        assert_eq!(ask(whole), if last { ALLOW } else { refused });
        for wrong in wrong {
            assert_eq!(ask([9, 9, 9, 9, wrong, SECRET[1]]), refused);
            assert_eq!(ask([9, 9, 9, 9, SECRET[0], wrong ^ SECRET[0] ^ SECRET[1] ^ 2]), refused);
        }
        // What the agent asks knows no secret.
        let verdict = interpret(&program.verdict, &Call::native(number, whole).bytes());
        assert_eq!(verdict, if nr("clone3") == number { ENOSYS } else { KILL });
    }
    // Where a call is allowed anyway, nobody looks.
    let (with, without) = (Filter::deny_list().compile(PLAIN).unwrap(), Filter::deny_list().compile(PLAIN).unwrap());
    assert_eq!(with, without);
    assert!(with.code.len() / 8 < 12);
}

#[test]
fn what_is_told_to_the_agent() {
    let filter = Filter::deny_list()
        .deny("mkdirat", Action::Errno(13))
        .deny("mount", Action::Kill)
        .deny("kcmp", Action::Trap)
        .deny("getpid", Action::Log)
        .deny("openat", Action::Notify);
    let calls = ["mkdirat", "mount", "kcmp", "getpid", "openat", "read"].map(nr);
    let answers = |how: How| {
        let program = filter.compile(how).unwrap();
        calls.map(|number| interpret(&program.code, &Call::native(number, [0; 6]).bytes()))
    };
    let plain = [ERRNO | 13, KILL, TRAP, LOG, NOTIFY, ALLOW];
    assert_eq!(answers(PLAIN), plain);
    assert_eq!(answers(NAMING), [ERRNO | 13, NOTIFY, TRAP, LOG, NOTIFY, ALLOW]);
    assert_eq!(answers(RECORDING), [NOTIFY, NOTIFY, NOTIFY, NOTIFY, NOTIFY, ALLOW]);
    let verdict = filter.compile(RECORDING).unwrap().verdict;
    assert_eq!(calls.map(|number| interpret(&verdict, &Call::native(number, [0; 6]).bytes())), plain);
}

/// A listener is a descriptor, and wakes the agent when the program ends: only those have one who may ask.
#[test]
fn who_has_a_listener_and_who_asks_the_host() {
    let both = |filter: &Filter, how| {
        let program = filter.compile(how).unwrap();
        assert_eq!(program.verdict.is_empty(), !program.listener);
        (program.listener, program.asks_host)
    };
    for errors_only in [Filter::default_profile(), Filter::hardened()] {
        assert_eq!(both(&errors_only, NAMING), (false, false));
        assert_eq!(both(&errors_only, RECORDING), (true, false));
        assert_eq!(both(&errors_only.clone().deny("mount", Action::Kill), NAMING), (true, false));
        let asking = errors_only.deny("mount", Action::Notify);
        assert_eq!([PLAIN, NAMING, RECORDING].map(|how| both(&asking, how)), [(true, true); 3]);
        // Another filter is stricter, and nothing is left to ask.
        let refused = Filter::allow_list().otherwise(Action::Errno(1));
        assert_eq!(both(&asking.and(refused), NAMING), (false, false));
    }
    assert_eq!(both(&Filter::judge(), NAMING), (true, false));
    assert_eq!(both(&Filter::allow_list(), NAMING), (true, false));
    assert_eq!(both(&Filter::allow_list(), PLAIN), (false, false));
    // The calls of x32 are answered with Kill.
    assert_eq!(both(&Filter::deny_list(), NAMING), (cfg!(target_arch = "x86_64"), false));
}

#[test]
fn clone3_is_enosys_unless_it_is_named() {
    assert_eq!(ask(&Filter::allow_list(), "clone3", [0; 6]), ENOSYS);
    assert_eq!(ask(&Filter::allow_list().allow("clone"), "clone3", [0; 6]), ENOSYS);
    assert_eq!(ask(&Filter::allow_list().otherwise(Action::Errno(1)), "clone3", [0; 6]), ENOSYS);
    assert_eq!(ask(&Filter::allow_list().allow("clone3"), "clone3", [0; 6]), ALLOW);
    assert_eq!(ask(&Filter::deny_list(), "clone3", [0; 6]), ALLOW);
    let flags = Condition::arg(0).low32().masked_eq(0x1000_0000, 0x1000_0000);
    assert_eq!(ask(&Filter::deny_list().rule("clone", [flags], Action::Errno(1)), "clone3", [0; 6]), ENOSYS);
    for (name, filter) in presets().into_iter().filter(|(name, _)| *name != "no_network") {
        assert_eq!(ask(&filter, "clone3", [0; 6]), ENOSYS, "{name}");
    }
    assert_eq!(ask(&Filter::default_profile().allow("clone3"), "clone3", [0; 6]), ALLOW);
}

#[test]
fn namespaces_cannot_be_made() {
    for (filter, answer) in [(Filter::default_profile(), EPERM), (Filter::hardened(), EPERM), (Filter::judge(), KILL)] {
        for flag in [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000_u64] {
            for more in [0, 17, 0x11_0000_0000] {
                assert_eq!(ask(&filter, "clone", first(flag | more)), answer, "{flag:#x}");
            }
        }
        assert_eq!(ask(&filter, "clone", first(0x3d_0f00)), ALLOW); // a thread
        assert_eq!(ask(&filter, "clone", first(0x4111)), ALLOW); // vfork
        for call in ["unshare", "setns", "mount", "umount2", "pivot_root", "fsopen", "open_tree", "keyctl", "bpf"] {
            assert_eq!(ask(&filter, call, [0; 6]), answer, "{call}");
        }
    }
}

#[test]
fn sockets() {
    const EPROTONOSUPPORT: u32 = ERRNO | 93;
    const EAFNOSUPPORT: u32 = ERRNO | 97;
    let (default, hardened) = (Filter::default_profile(), Filter::hardened());
    let closed = Filter::hardened().and(Filter::no_network());
    // domain, type, protocol: default, hardened, without network
    for (arguments, answers) in [
        ([1, 1, 0], [ALLOW, ALLOW, ALLOW]),
        ([1, 5, 0], [ALLOW, ALLOW, ALLOW]),
        ([2, 1 | 0o2_004_000, 6], [ALLOW, ALLOW, EAFNOSUPPORT]),
        ([2, 2, 17], [ALLOW, ALLOW, EAFNOSUPPORT]),
        ([10, 2, 58], [ALLOW, ALLOW, EAFNOSUPPORT]),
        ([2, 1, 132], [ALLOW, EPROTONOSUPPORT, EPROTONOSUPPORT]),
        ([2, 5, 0], [ALLOW, EPROTONOSUPPORT, EPROTONOSUPPORT]),
        ([16, 3, 0], [ALLOW, ALLOW, EAFNOSUPPORT]),
        ([16, 3, 12], [ALLOW, EAFNOSUPPORT, EAFNOSUPPORT]),
        ([17, 3, 0], [ALLOW, EAFNOSUPPORT, EAFNOSUPPORT]),
        ([38, 5, 0], [EPERM, EAFNOSUPPORT, EAFNOSUPPORT]),
        ([39, 1, 0], [ALLOW, EAFNOSUPPORT, EAFNOSUPPORT]),
        ([40, 1, 0], [EPERM, EAFNOSUPPORT, EAFNOSUPPORT]),
    ] {
        let [domain, kind, protocol] = arguments;
        for upper in [0, 7 << 32] {
            let arguments = [domain | upper, kind | upper, protocol | upper, 0, 0, 0];
            let found = [&default, &hardened, &closed].map(|filter| ask(filter, "socket", arguments));
            assert_eq!(found, answers, "{arguments:?}");
        }
    }
    for filter in [&hardened, &closed, &Filter::judge()] {
        assert_eq!(ask(filter, "socketpair", first(1)), ALLOW);
        for family in [2, 10, 16, 30, 30 | 1 << 32] {
            assert_eq!(ask(filter, "socketpair", first(family)), EAFNOSUPPORT, "{family}");
        }
        assert_eq!(ask(filter, "io_setup", [0; 6]), ENOSYS);
    }
    for filter in [&hardened, &closed, &Filter::no_network(), &Filter::judge()] {
        assert_eq!(ask(filter, "io_uring_setup", [0; 6]), ENOSYS);
    }
}

#[test]
fn terminals_and_personalities() {
    for filter in [Filter::hardened(), Filter::judge()] {
        for upper in [0, 1 << 32, 0xffff_ffff << 32] {
            assert_eq!(ask(&filter, "ioctl", [0, 0x5412 | upper, 0, 0, 0, 0]), EPERM);
            assert_eq!(ask(&filter, "ioctl", [0, 0x541c | upper, 0, 0, 0, 0]), EPERM);
            assert_eq!(ask(&filter, "ioctl", [0, 0x5401 | upper, 0, 0, 0, 0]), ALLOW);
        }
        assert_eq!(ask(&filter, "personality", first(0xffff_ffff)), ALLOW);
        assert_eq!(ask(&filter, "personality", first(0x004_0000)), EPERM);
    }
}

#[test]
fn the_callers_word_comes_before_the_presets() {
    let family = |family| [Condition::arg(0).low32().eq(family)];
    let filter = Filter::hardened().rule("socket", family(2), Action::Kill).deny("mkdirat", Action::Errno(30));
    assert_eq!(ask(&filter, "socket", [2, 1, 0, 0, 0, 0]), KILL);
    assert_eq!(ask(&filter, "socket", [1, 1, 0, 0, 0, 0]), ALLOW);
    assert_eq!(ask(&filter, "mkdirat", [0; 6]), ERRNO | 30);
    assert_eq!(ask(&filter.clone().deny("socket", Action::Trap), "socket", [1, 1, 0, 0, 0, 0]), TRAP);
    // A number is the same call as its name.
    assert_eq!(ask(&filter.allow(nr("socket")), "socket", [38, 1, 0, 0, 0, 0]), ALLOW);
    // In the order in which they were said, and what has no condition last.
    let filter = Filter::deny_list().deny("socket", Action::Errno(3)).rule("socket", family(1), Action::Errno(1)).rule(
        "socket",
        [Condition::arg(0).lt(5)],
        Action::Errno(2),
    );
    assert_eq!(
        [0, 1, 4, 5].map(|family| ask(&filter, "socket", first(family))),
        [2, 1, 2, 3].map(|errno| ERRNO | errno)
    );
}

#[test]
fn the_stricter_of_two() {
    let order = [Action::Allow, Action::Log, Action::Notify, Action::Errno(1), Action::Trap, Action::Kill];
    let of = |action| Filter::allow_list().otherwise(action);
    for (one, first) in order.into_iter().enumerate() {
        for (two, second) in order.into_iter().enumerate() {
            let found = ask(&of(first).and(of(second)), "read", [0; 6]);
            assert_eq!(found, order[one.max(two)].verdict(None));
        }
    }
    assert_eq!(ask(&of(Action::Errno(5)).and(of(Action::Errno(6))), "read", [0; 6]), ERRNO | 5);
}

#[test]
fn calls_that_are_newer_than_a_preset() {
    let new = |filter: Filter| {
        let program = filter.compile(PLAIN).unwrap();
        interpret(&program.code, &Call::native(600, [0; 6]).bytes())
    };
    assert_eq!(new(Filter::default_profile()), ENOSYS);
    assert_eq!(new(Filter::judge()), ENOSYS);
    assert_eq!(new(Filter::judge().otherwise(Action::Kill)), KILL);
    assert_eq!(new(Filter::pure_compute()), KILL);
}

#[test]
fn what_makes_no_sense_is_an_error() {
    let list = Filter::allow_list;
    let argument = Condition::arg;
    for (filter, word) in [
        (list().allow("raed"), "raed"),
        (list().allow(X32), "number"),
        (list().deny("read", Action::Errno(4096)), "4096"),
        (list().otherwise(Action::Errno(9999)), "9999"),
        (list().rule("read", [argument(6).eq(1)], Action::Allow), "argument 6"),
        (list().rule("read", [argument(1).low32().eq(1 << 32)], Action::Allow), "32 bits"),
        (list().rule("read", [argument(1).low32().masked_eq(1 << 32, 0)], Action::Allow), "32 bits"),
        (list().rule("read", [argument(1).masked_eq(1, 2)], Action::Allow), "mask"),
        (list().and(list().allow("raed")), "raed"),
    ] {
        match filter.compile(PLAIN) {
            Err(Error::Invalid { setting: "seccomp", reason }) => assert!(reason.contains(word), "{reason}"),
            other => panic!("{word}: {other:?}"),
        }
    }
    // Names of other architectures are known.
    for name in ["_llseek", "riscv_flush_icache", "arch_prctl", "chown32"] {
        list().allow(name).compile(PLAIN).unwrap();
    }
}

#[test]
fn a_program_that_is_too_long_is_an_error() {
    let mut filter = Filter::deny_list();
    for value in 0..6000_u64 {
        filter =
            filter.rule("read", [Condition::arg(0).eq(value * 3)], Action::Errno(u16::try_from(value % 4000).unwrap()));
    }
    let Err(Error::Invalid { reason, .. }) = filter.compile(PLAIN) else { panic!("compiled") };
    assert!(reason.contains("4096"), "{reason}");
}

#[test]
fn the_interpreter_takes_anything() {
    let data = Call::native(0, [0; 6]).bytes();
    let instruction = |code: u16, yes: u8, no: u8, k: u32| {
        let mut bytes = code.to_ne_bytes().to_vec();
        bytes.extend([yes, no]);
        bytes.extend(k.to_ne_bytes());
        bytes
    };
    assert_eq!(interpret(&[], &data), KILL);
    assert_eq!(interpret(&[6, 0, 0], &data), KILL);
    assert_eq!(interpret(&instruction(0x06, 0, 0, ALLOW), &data), ALLOW);
    for broken in [
        instruction(0x20, 0, 0, 64),       // a word beyond the call
        instruction(0x20, 0, 0, 2),        // no word
        instruction(0x05, 0, 0, u32::MAX), // out of the program
        instruction(0x15, 255, 255, 0),
        instruction(0x20, 0, 0, 0), // off the end
        instruction(0x99, 0, 0, 0), // nothing that is known
    ] {
        assert_eq!(interpret(&broken, &data), KILL);
        assert_eq!(interpret(&[broken, instruction(0x06, 0, 0, KILL)].concat(), &data), KILL);
    }
    let endless = instruction(0x05, 0, 0, 0).repeat(5000);
    assert_eq!(interpret(&endless, &data), KILL);
    assert_eq!(interpret(&instruction(0x20, 0, 0, 60), &data[..40]), KILL);
}
