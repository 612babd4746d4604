//! Any policy, from any setters in any order, is either refused or compiled into a plan that the stage can read and that
//! says what the policy says. Nothing is launched.
#![no_main]

#[path = "../../src/plan.rs"]
#[allow(dead_code, unused_imports)]
mod plan;

use std::time::Duration;

use plan::{Plan, decode, flag};
use stockade::landlock::{Access, Rules};
use stockade::seccomp::{Action, Filter};
use stockade::{Capabilities, Layers, Overlay, Resource, Rootfs, Sandbox, Securebits, fuzzing};

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u64 {
        match self.byte() {
            byte @ 0..=99 => byte.into(),
            byte @ 100..=163 => 1 << (byte - 100),
            byte @ 164..=227 => (1u64 << (byte - 164)).wrapping_neg(),
            _ => (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte())),
        }
    }

    fn id(&mut self) -> u32 {
        self.number() as u32
    }

    /// One that is there, one that is not, or something else altogether.
    fn path(&mut self) -> String {
        const PATHS: [&str; 12] =
            ["/", "/tmp", "/usr", "/etc/passwd", "/dev/null", "/no/such", "", "relative", "/a/../b", "/x//y/.", "/proc", "/dev"];
        match self.byte() {
            byte @ 0..=199 => PATHS[usize::from(byte) % PATHS.len()].to_owned(),
            byte => self.text(byte),
        }
    }

    fn text(&mut self, len: u8) -> String {
        let taken = self.0.len().min(usize::from(len));
        let (text, rest) = self.0.split_at(taken);
        self.0 = rest;
        String::from_utf8_lossy(text).into_owned()
    }

    fn rootfs(&mut self) -> Rootfs {
        let what = self.byte();
        let rootfs = match what % 3 {
            0 => Rootfs::empty(),
            1 => Rootfs::system(),
            _ => Rootfs::overlay(self.overlay()),
        };
        let rootfs = if what & 64 != 0 { rootfs.size(self.number()) } else { rootfs };
        if what & 128 != 0 { rootfs.read_only() } else { rootfs }
    }

    fn overlay(&mut self) -> Overlay {
        let overlay = Overlay::new(self.path());
        (0..self.byte() % 3).fold(overlay, |overlay, _| overlay.lower(self.path()))
    }

    fn rules(&mut self) -> Rules {
        (0..self.byte() % 8).fold(Rules::new(), |rules, _| match self.byte() % 8 {
            0 => rules.path(self.path(), Access::from_bits_truncate(self.number())),
            1 => rules.optional_path(self.path(), Access::from_bits_retain(self.number())),
            2 => rules.no_files(),
            3 => rules.tcp_bind(self.number() as u16),
            4 => rules.tcp_connect(self.number() as u16),
            5 => rules.no_tcp(),
            6 => rules.scope_signals(),
            _ => rules.scope_abstract_sockets(),
        })
    }

    fn filter(&mut self) -> Filter {
        match self.byte() % 4 {
            0 => Filter::deny_list().deny(self.number() as u32, Action::Errno(self.number() as u16)),
            1 => Filter::allow_list().allow("write"),
            2 => Filter::no_network(),
            _ => Filter::pure_compute(),
        }
    }
}

/// What the plan must say, as far as it is simple to know.
#[derive(Default)]
struct Expected {
    new_privileges: bool,
    filters: bool,
    no_network: bool,
    no_nested: bool,
    pid_1: bool,
    capabilities: Capabilities,
    ambient: Capabilities,
    landlock: bool,
}

fn setter(sandbox: Sandbox, bytes: &mut Bytes<'_>, expected: &mut Expected) -> Sandbox {
    match bytes.byte() % 60 {
        0 => sandbox.user_ns(),
        1 => sandbox.pid_ns(),
        2 => sandbox.mount_ns(),
        3 => sandbox.net_ns(),
        4 => sandbox.ipc_ns(),
        5 => sandbox.uts_ns(),
        6 => sandbox.cgroup_ns(),
        7 => sandbox.time_ns(),
        8 => sandbox.monotonic_offset(bytes.number() as i64),
        9 => sandbox.boottime_offset(bytes.number() as i64),
        10 => sandbox.uid(bytes.id()),
        11 => sandbox.gid(bytes.id()),
        12 => sandbox.groups((0..bytes.byte()).map(|_| bytes.id()).collect::<Vec<_>>()),
        13 => sandbox.uid_map(bytes.id(), bytes.id(), bytes.id()),
        14 => sandbox.gid_map(bytes.id(), bytes.id(), bytes.id()),
        15 => sandbox.map_subordinate_ids(),
        16 => sandbox.map_host_root(),
        17 => {
            expected.pid_1 = true;
            sandbox.as_pid_1()
        }
        18 => sandbox.chroot(bytes.path()),
        19 | 20 => sandbox.rootfs(bytes.rootfs()),
        21 | 22 => sandbox.bind_ro(bytes.path(), bytes.path()),
        23 => sandbox.bind_rw(bytes.path(), bytes.path()),
        24 => sandbox.tmpfs(bytes.path(), bytes.number()),
        25 => sandbox.proc(bytes.path()),
        26 => sandbox.dev(bytes.path()),
        27 => sandbox.overlay(bytes.path(), bytes.overlay()),
        28 => sandbox.mask(bytes.path()),
        29 => sandbox.symlink(bytes.path(), bytes.path()),
        30 => sandbox.dir(bytes.path()),
        31 => sandbox.hostname(bytes.path()),
        32 => sandbox.domainname(bytes.path()),
        33 => {
            expected.no_nested = true;
            sandbox.no_nested_user_ns()
        }
        34 | 35 => {
            expected.landlock = true;
            sandbox.landlock(bytes.rules())
        }
        36 => sandbox.landlock_mounts(),
        37 => {
            expected.landlock = false;
            sandbox.without_landlock()
        }
        38 => {
            expected.capabilities = Capabilities::from_bits_retain(bytes.number());
            sandbox.keep_capabilities(expected.capabilities)
        }
        39 => {
            expected.ambient = Capabilities::from_bits_truncate(bytes.number());
            sandbox.ambient_capabilities(expected.ambient)
        }
        40 => sandbox.securebits(Securebits::from_bits_truncate(bytes.id())),
        41 => {
            expected.new_privileges = true;
            sandbox.allow_new_privileges()
        }
        42 => sandbox.memory_limit(bytes.number()).best_effort(Layers::MEMORY),
        43 => sandbox.swap_limit(bytes.number()),
        44 => sandbox.cpu_limit(f64::from_bits(bytes.number())).best_effort(Layers::CPU),
        45 => sandbox.cpu_weight(bytes.id()).best_effort(Layers::CPU),
        46 => sandbox.cpuset(bytes.path()).best_effort(Layers::CPUSET),
        47 => sandbox.pids_limit(bytes.id()).best_effort(Layers::PIDS),
        48 => sandbox.cpu_time_limit(Duration::from_nanos(bytes.number())).best_effort(Layers::CPU_TIME),
        49 => sandbox.current_dir(bytes.path()),
        50 => {
            let resource = Resource::ALL[usize::from(bytes.byte()) % Resource::ALL.len()];
            sandbox.rlimit(resource, bytes.number())
        }
        51 => sandbox.apparmor_profile(bytes.path()).best_effort(Layers::APPARMOR),
        52 => sandbox.selinux_context(bytes.path()).best_effort(Layers::SELINUX),
        53 | 54 => {
            expected.filters = true;
            sandbox.seccomp(bytes.filter())
        }
        55 => {
            expected.filters = false;
            sandbox.without_seccomp()
        }
        56 => {
            expected.no_network = true;
            sandbox.no_network()
        }
        57 => sandbox.record_denials(),
        58 => sandbox.wall_time_limit(Duration::from_nanos(bytes.number())),
        _ => sandbox.output_limit(bytes.number()).setup_timeout(Duration::from_nanos(bytes.number())),
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let mut expected = Expected::default();
    let mut sandbox = if bytes.byte() % 16 == 0 {
        expected = Expected { filters: true, no_nested: true, ..expected };
        Sandbox::hardened()
    } else {
        Sandbox::new()
    };
    while !bytes.0.is_empty() {
        sandbox = setter(sandbox, &mut bytes, &mut expected);
    }
    let Ok(prepared) = sandbox.prepare() else { return };
    let bytes = fuzzing::plan(&prepared);
    let plan = decode::<Plan<'_>>(&bytes).expect("the stage can read it");
    assert_eq!(plan.flags & flag::NO_NEW_PRIVS != 0, !expected.new_privileges);
    assert_eq!(plan.flags & flag::PROGRAM_IS_INIT != 0, expected.pid_1);
    assert_eq!(plan.flags & flag::NO_USER_NS != 0, expected.no_nested);
    assert_eq!(!plan.filter.is_empty(), expected.filters || expected.no_network);
    assert_eq!(plan.keep, (expected.capabilities | expected.ambient).bits());
    assert_eq!(plan.ambient & !plan.keep, 0);
    assert_eq!(prepared.report().in_force().contains(Layers::SECCOMP), !plan.filter.is_empty());
    assert_eq!(prepared.report().in_force().contains(Layers::LANDLOCK), !plan.landlock.is_empty());
    assert!(plan.mounts.iter().count() == plan.mounts.len() as usize);
    let again = sandbox.prepare().expect("what was accepted once is so again");
    let again = fuzzing::plan(&again);
    let again = decode::<Plan<'_>>(&again).expect("the stage can read it");
    assert_eq!((plan.flags, plan.mounts.len(), plan.filter.len()), (again.flags, again.mounts.len(), again.filter.len()));
});
