//! Any filter, compiled in any way, answers any call as its rules mean it; the interpreter takes any program.
#![no_main]

/// The crate's own has more, which the filters do not use.
mod error {
    #[derive(Debug)]
    pub struct Error;

    impl Error {
        pub fn invalid(_: &'static str, _: impl Into<String>) -> Self {
            Self
        }
    }
}
#[path = "../../src/seccomp/mod.rs"]
#[allow(dead_code, unused_imports)]
mod seccomp;

use seccomp::compile::NOTIFY;
use seccomp::evaluate::{Call, Meaning};
use seccomp::interpret::interpret;
use seccomp::{Action, Condition, Filter, How};

/// Values that meet each other often enough.
const VALUES: [u64; 12] =
    [0, 1, 2, 3, 0x7e02_0000, 0xffff_ffff, 1 << 32, 1 << 40, (1 << 40) + 1, u64::MAX - 1, u64::MAX, 9];

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn value(&mut self) -> u64 {
        match self.byte() {
            wide @ 128..=159 => (0..8).fold(u64::from(wide), |value, _| value << 8 | u64::from(self.byte())),
            byte => VALUES[usize::from(byte) % VALUES.len()],
        }
    }

    fn number(&mut self) -> u32 {
        u32::from(self.byte()) << (self.byte() % 3)
    }

    fn action(&mut self) -> Action {
        match self.byte() % 7 {
            0 => Action::Allow,
            1 => Action::Log,
            2 => Action::Trap,
            3 => Action::Kill,
            4 => Action::Notify,
            _ => Action::Errno(u16::from(self.byte()) * 16),
        }
    }

    fn condition(&mut self) -> Condition {
        let what = self.byte();
        let argument = Condition::arg(what % 6);
        let argument = if what & 128 == 0 { argument } else { argument.low32() };
        let value = if what & 128 == 0 { self.value() } else { self.value() & 0xffff_ffff };
        match self.byte() % 7 {
            0 => argument.eq(value),
            1 => argument.ne(value),
            2 => argument.lt(value),
            3 => argument.le(value),
            4 => argument.gt(value),
            5 => argument.ge(value),
            _ => argument.masked_eq(value, value & self.value()),
        }
    }

    fn filter(&mut self) -> Filter {
        let mut filter = match self.byte() % 16 {
            0 => Filter::default_profile(),
            1 => Filter::hardened(),
            2 => Filter::judge(),
            3 => Filter::no_network(),
            4 => Filter::pure_compute(),
            _ => Filter::allow_list(),
        };
        if self.byte() % 2 == 0 {
            filter = filter.otherwise(self.action());
        }
        for _ in 0..self.byte() {
            if self.0.is_empty() {
                break;
            }
            let number = self.number();
            let conditions = (0..self.byte() % 4).map(|_| self.condition()).collect::<Vec<_>>();
            filter = filter.rule(number, conditions, self.action());
        }
        filter
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // As a program, and as a call, it is anything.
    let (data, program) = bytes.split_at(bytes.len().min(64));
    interpret(program, data);

    let mut bytes = Bytes(bytes);
    let mut filter = bytes.filter();
    for _ in 0..bytes.byte() % 3 {
        filter = filter.and(bytes.filter());
    }
    let how = bytes.byte();
    let how = How { secret: [bytes.value(), bytes.value()], naming: how & 1 != 0, recording: how & 2 != 0 };
    // Too long for the kernel: not for us to judge.
    let Ok(program) = filter.compile(how) else { return };
    let meaning = Meaning::of(&filter);
    for _ in 0..32 {
        let mut number = bytes.number();
        if bytes.byte() % 16 == 0 {
            number = !number ^ (number << 23);
        }
        let mut call = Call::native(number, std::array::from_fn(|_| bytes.value()));
        if bytes.byte() % 8 == 0 {
            call.arguments[4..].copy_from_slice(&how.secret);
        }
        if bytes.byte() % 32 == 1 {
            call.arch ^= 1 << (bytes.byte() % 32);
        }
        assert_eq!(
            interpret(&program.code, &call.bytes()),
            meaning.evaluate(Some(how), &call),
            "{filter:?} {how:?} {call:x?}"
        );
        assert!(program.listener || interpret(&program.code, &call.bytes()) != NOTIFY, "{filter:?} {how:?} {call:x?}");
        if program.listener {
            assert_eq!(
                interpret(&program.verdict, &call.bytes()),
                meaning.evaluate(None, &call),
                "{filter:?} {call:x?}"
            );
        }
        if bytes.0.is_empty() {
            break;
        }
    }
});
