//! `no_network()`: sockets of AF_UNIX only, without a network namespace.

use std::io::Read as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use stockade::{Layer, Layers, Rootfs, Sandbox, Support, Verdict};

use crate::common::{self, is_root};
use crate::programs::{PROBE, attempt, probe};

fn program() -> &'static str {
    PROBE.to_str().unwrap()
}

fn kinds() -> Vec<Sandbox> {
    let mut kinds = vec![Sandbox::new(), Sandbox::new().pid_ns(), Sandbox::new().user_ns(), Sandbox::new().as_pid_1()];
    if is_root() {
        kinds.push(Sandbox::new().uid(1000));
    }
    kinds
}

/// Family, type, protocol, with their names.
const FAMILIES: [(&str, &str); 9] = [
    ("AF_INET stream", "socket,2,1,0"),
    ("AF_INET datagrams", "socket,2,2,0"),
    ("AF_INET6", "socket,10,1,0"),
    ("AF_INET, with the upper half of the register set", "socket,4294967298,1,0"),
    ("AF_NETLINK", "socket,16,3,0"),
    ("AF_PACKET", "socket,17,3,0"),
    ("AF_VSOCK", "socket,40,1,0"),
    ("AF_ALG", "socket,38,5,0"),
    ("AF_TIPC pairs", "socketpair,30,1,0"),
];

#[test]
fn unix_sockets_work_and_no_others() {
    let directory = common::directory();
    common::open(&directory);
    for (index, sandbox) in kinds().into_iter().enumerate() {
        let own = format!("{}-{index}", common::marker("own"));
        let unix =
            ["pair".into(), format!("unix,{}/{index}", directory.path().display()), format!("own-abstract,{own}")];
        for sandbox in [sandbox.clone(), sandbox.clone().no_network()] {
            let found: Vec<_> = probe(&sandbox, program(), &unix).into_iter().map(|(_, errno)| errno).collect();
            assert_eq!(found, [0; 3], "{sandbox:?}");
            let _ = std::fs::remove_file(directory.path().join(index.to_string()));
        }
        let refused = sandbox.clone().no_network();
        for (name, what) in FAMILIES {
            assert_eq!(attempt(&refused, program(), what), libc::EAFNOSUPPORT, "{name}: {sandbox:?}");
        }
        // The twins, of what every kernel and everybody has.
        for (name, what) in [FAMILIES[0], FAMILIES[1], FAMILIES[3], FAMILIES[4]] {
            assert_eq!(attempt(&sandbox, program(), what), 0, "{name}: {sandbox:?}");
        }
        assert_ne!(attempt(&sandbox, program(), FAMILIES[5].1), libc::EAFNOSUPPORT, "AF_PACKET: {sandbox:?}");
    }
}

#[test]
fn no_ring_makes_a_socket() {
    for sandbox in kinds() {
        assert_eq!(attempt(&sandbox.clone().no_network(), program(), "io_uring"), libc::ENOSYS, "{sandbox:?}");
        let twin = attempt(&sandbox, program(), "io_uring");
        let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
        let disabled = disabled.is_ok_and(|level| level.trim() != "0");
        assert!(twin == 0 || disabled && twin == libc::EPERM, "{twin}: {sandbox:?}");
    }
}

#[test]
fn abstract_sockets_of_the_host() {
    let name = common::marker("host");
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let connect = format!("abstract,{name}");
    let support = Support::probe();
    let remark = support.layers().find(|(layer, _)| *layer == Layer::Landlock).and_then(|(_, remark)| remark.ok());
    let scoped = remark.and_then(|remark| remark.strip_prefix("ABI ")?.parse::<u32>().ok()).is_some_and(|abi| abi >= 6);
    for sandbox in kinds() {
        assert_eq!(attempt(&sandbox, program(), &connect), 0, "the twin: {sandbox:?}");
        let sandbox = sandbox.no_network();
        let report = sandbox.check().unwrap();
        let in_reach =
            report.notes().iter().any(|note| note.contains("abstract unix sockets of the host are in reach"));
        if scoped {
            assert_eq!(attempt(&sandbox, program(), &connect), libc::EPERM, "{sandbox:?}");
            assert!(!in_reach && report.in_force().contains(Layers::LANDLOCK), "{report}");
        } else {
            assert_eq!(attempt(&sandbox, program(), &connect), 0, "{sandbox:?}");
            assert!(in_reach, "{report}");
        }
        // A network namespace has abstract names of its own, whatever the kernel's Landlock.
        assert_eq!(attempt(&sandbox.net_ns(), program(), &connect), libc::ECONNREFUSED);
    }
    drop(listener);
}

#[test]
fn what_is_handed_over_works() {
    // Documented: the filter is about making sockets.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let sandbox = Sandbox::new().pid_ns().no_network();
    let mut command = sandbox.command(program());
    let outcome = command.args(["send,7", "send,8"]).fd(7, client).fd(8, theirs).status().unwrap();
    assert_eq!(outcome.verdict, Verdict::Exited(0));
    drop(command);
    let (mut one, mut two) = (vec![], vec![]);
    server.read_to_end(&mut one).unwrap();
    ours.read_to_end(&mut two).unwrap();
    assert_eq!((&*one, &*two), (&b"x"[..], &b"x"[..]));
}

#[test]
fn it_goes_with_other_filters_and_a_root() {
    use stockade::seccomp::{Action, Filter};
    let filter = Filter::default_profile().deny("mkdir", Action::Errno(77));
    let sandbox = Sandbox::new().rootfs(Rootfs::system()).bind_ro(&*PROBE, "/probe").seccomp(filter).no_network();
    let found = probe(&sandbox, "/probe", &["socket,2,1,0", "mkdir,/tmp/a", "pair", "unix,/tmp/sock"]);
    let errnos: Vec<_> = found.iter().map(|(_, errno)| *errno).collect();
    assert_eq!(errnos, [libc::EAFNOSUPPORT, 77, 0, 0]);
    // It is what was asked for, not part of the filters that are taken back.
    assert_eq!(attempt(&sandbox.without_seccomp(), "/probe", "socket,2,1,0"), libc::EAFNOSUPPORT);
}
