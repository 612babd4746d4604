//! The kernel's surface: what needs a capability, and what a filter must refuse.

use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use stockade::{Command, Sandbox, Stdio};

use crate::common;
use crate::lab::{Control, Lab, Marker, Pair, Ran, Twins};

pub fn pairs() -> Vec<Pair> {
    use Control::{Capable, Host, NoFilter, Unfiltered};
    let capabilities =
        ["mount", "umount", "pivot_root", "fsopen", "open_tree", "mount_setattr", "cgroup-mount", "setns"];
    let mut pairs: Vec<Pair> = capabilities.into_iter().map(|attack| Pair::simple(attack, Capable)).collect();
    // Two layers refuse user namespaces.
    pairs.extend(["unshare-user", "clone-user", "clone3-user", "high-clone"].map(|attack| {
        Pair::new(attack, move |lab| Twins {
            inside: [lab.hardened(), lab.hardened().without_seccomp()].map(|s| lab.inside(&s, &[attack])).into(),
            control: lab.control(Unfiltered, &[attack]),
        })
    }));
    pairs.extend([
        Pair::simple("unshare", Capable),
        Pair::simple("proc-mount", Capable),
        Pair::simple("hostname", Capable),
        Pair::simple("reboot", Capable),
        Pair::simple("capabilities", Capable),
        Pair::simple("change-user", Capable).root_shows(),
        // Only the machine's own superuser may; outside it is one, without a sandbox's cut in capabilities.
        Pair::simple("module", Host).root_shows(),
        Pair::simple("kexec", Host).root_shows(),
        Pair::simple("clock-set", Host).root_shows(),
        Pair::simple("clock-adjust", Host).root_shows(),
        Pair::simple("bpf", Host).root_shows(),
        Pair::simple("swap", Host).root_shows(),
        Pair::simple("acct", Host).root_shows(),
        Pair::simple("ioperm", Host).root_shows(),
        Pair::simple("fanotify", Host).root_shows(),
        Pair::simple("realtime", Host).root_shows(),
        Pair::new("quota", quota).root_shows(),
        // What anybody may without a filter.
        Pair::filtered("syslog", Host).root_shows(),
        Pair::filtered("perf", Host).root_shows(),
        Pair::filtered("userfaultfd", NoFilter),
        Pair::filtered("personality", NoFilter),
        Pair::filtered("high-personality", NoFilter),
        Pair::filtered("io_uring", NoFilter),
        Pair::filtered("io_uring-open", NoFilter),
        Pair::filtered("int80", NoFilter),
        Pair::filtered("int80-unshare", Unfiltered),
        Pair::filtered("x32", NoFilter),
        Pair::filtered("key-add", NoFilter),
        Pair::new("key-of-the-host", key_of_the_host),
        Pair::new("key-of-a-neighbour", key_of_a_neighbour),
        Pair::new("key-described", key_described),
        Pair::new("key-listed", key_listed),
        Pair::new("ns-parent", namespace_parent),
        Pair::new("set-uid", set_uid).root_shows(),
        Pair::new("file-capability", file_capability).root_shows(),
        Pair::new("inheritable", inheritable).root_shows(),
        Pair::new("tiocsti", terminal_input).root_shows(),
        Pair::new("tioclinux", console).root_shows(),
    ]);
    pairs
}

fn quota(lab: &Lab) -> Twins {
    let marker = Marker::new();
    let sandbox = lab.hardened().bind_rw(marker.path(), "/data");
    Twins {
        inside: vec![lab.inside(&sandbox, &["quota", "/data"])],
        control: lab.outside(&["quota", marker.path().to_str().unwrap()]),
    }
}

/// The keyring of the user, which all its processes have.
fn key_of_the_host(lab: &Lab) -> Twins {
    let name = common::marker("key");
    let _holder = lab.holder(&["key-put", &name]);
    Twins {
        inside: vec![lab.inside(&lab.hardened(), &["key-find", &name])],
        control: lab.outside(&["key-find", &name]),
    }
}

fn key_of_a_neighbour(lab: &Lab) -> Twins {
    let (name, other) = (common::marker("key"), common::marker("key"));
    // By what the filter leaves: without one it must hold too.
    let without_filter = common::all_namespaces();
    let mut put = without_filter.command(&lab.program);
    let _holder = lab.holder_in(put.args(["key-put", &name]));
    let mut shared = Sandbox::new().command(&lab.program);
    let _open = lab.holder_in(shared.args(["key-put", &other]));
    Twins {
        inside: vec![
            lab.inside(&lab.hardened(), &["key-find", &name]),
            lab.unrooted(&without_filter, &["key-find", &name]),
        ],
        control: lab.unrooted(&Sandbox::new(), &["key-find", &other]),
    }
}

/// By its number, which can be guessed.
fn key_described(lab: &Lab) -> Twins {
    let name = common::marker("key");
    let mut holder = lab.holder(&["key-put", &name]);
    let number = holder.says();
    Twins {
        inside: vec![lab.inside(&lab.hardened(), &["key-describe", &number])],
        control: lab.unrooted(&Sandbox::new(), &["key-describe", &number]),
    }
}

/// Through procfs.
fn key_listed(lab: &Lab) -> Twins {
    let name = common::marker("key");
    let _holder = lab.holder(&["key-put", &name]);
    Twins {
        inside: vec![lab.inside(&lab.hardened(), &["key-list", &name])],
        control: lab.unrooted(&Sandbox::new(), &["key-list", &name]),
    }
}

/// The user namespace above: from outside it can be asked for.
fn namespace_parent(lab: &Lab) -> Twins {
    let sandbox = lab.hardened();
    let inside = ["user", "pid"].map(|kind| lab.inside(&sandbox, &["ns-parent", &format!("/proc/self/ns/{kind}")]));
    let holder = lab.holder_in(&mut Lab::command(&sandbox, &["hold"]));
    let above = format!("/proc/{}/ns/user", holder.id());
    Twins { inside: inside.into(), control: lab.outside(&["ns-parent", &above]) }
}

/// Run by an ordinary user outside.
fn as_user(program: &Path, args: &[&str]) -> Ran {
    let mut command = std::process::Command::new(program);
    command.args(args);
    if common::is_root() {
        std::os::unix::process::CommandExt::uid(&mut command, 1000);
        std::os::unix::process::CommandExt::gid(&mut command, 1000);
    }
    Lab::ran_outside(command.output().unwrap())
}

/// A copy of the attacks that every user may run.
fn copy(lab: &Lab, marker: &Marker, mode: u32) -> std::path::PathBuf {
    let program = marker.path().join("copy");
    lab.copy_to(&program);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
    program
}

fn inside_of_a_bind(sandbox: Sandbox, marker: &Marker) -> Ran {
    let sandbox = sandbox.bind_rw(marker.path(), "/data");
    Lab::ran(sandbox.command("/data/copy").arg("privileges").output())
}

fn set_uid(lab: &Lab) -> Twins {
    let marker = Marker::new();
    let program = copy(lab, &marker, 0o6755);
    Twins {
        inside: vec![
            inside_of_a_bind(lab.hardened(), &marker),
            // Without no_new_privs it is the mount that refuses.
            inside_of_a_bind(lab.hardened().allow_new_privileges(), &marker),
        ],
        control: as_user(&program, &["privileges"]),
    }
}

fn file_capability(lab: &Lab) -> Twins {
    let marker = Marker::new();
    let program = copy(lab, &marker, 0o755);
    // Version 2, effective, permitted: CAP_NET_RAW.
    let mut value = vec![1, 0, 0, 2];
    value.extend([0, 0x20, 0, 0]);
    value.extend([0; 12]);
    let set = rustix::fs::setxattr(&program, c"security.capability", &value, rustix::fs::XattrFlags::empty());
    assert!(set.is_ok() || !common::is_root(), "{set:?}");
    Twins {
        inside: vec![
            inside_of_a_bind(lab.hardened(), &marker),
            inside_of_a_bind(lab.hardened().allow_new_privileges(), &marker),
        ],
        control: as_user(&program, &["privileges"]),
    }
}

/// A host program that has inheritable and ambient capabilities itself.
fn inheritable(lab: &Lab) -> Twins {
    raise_inheritable();
    Twins {
        inside: vec![
            lab.inside(&lab.hardened(), &["capabilities"]),
            lab.inside(
                &lab.furnish(Sandbox::new().user_ns().pid_ns().rootfs(stockade::Rootfs::system())),
                &["capabilities"],
            ),
        ],
        control: lab.outside(&["capabilities"]),
    }
}

/// Of this thread, as far as it has any.
#[allow(unsafe_code)]
fn raise_inheritable() {
    let header = [0x2008_0522_u32, 0];
    let mut sets = [0_u32; 6];
    // SAFETY: version 3 takes two structs of three words each.
    unsafe {
        libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr());
        (sets[2], sets[5]) = (sets[1], sets[4]);
        libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr());
        for capability in 0..41 {
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0);
        }
    }
}

/// A terminal of the host's, somebody's session on it.
fn terminal_input(lab: &Lab) -> Twins {
    let slave = || {
        let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, vec![]).unwrap();
        (master, open_terminal(name.to_str().unwrap()).unwrap())
    };
    let (_master, terminal) = slave();
    // The session's leader, who types there.
    let mut owner = std::process::Command::new("setsid");
    owner.args(["--ctty", "sleep", "100"]).stdin(terminal.try_clone().unwrap());
    let mut owner = owner.spawn().unwrap();
    let stat = format!("/proc/{}/stat", owner.id());
    let has_terminal = || {
        let text = std::fs::read_to_string(&stat).unwrap_or_default();
        text.contains("(sleep)") && text.rsplit(')').next().unwrap().split_whitespace().nth(4) != Some("0")
    };
    assert!(common::eventually(std::time::Duration::from_secs(10), has_terminal));
    let mut command = Lab::command(&lab.hardened(), &["tiocsti"]);
    let inside = Lab::ran(command.stdin(Stdio::from(std::os::fd::OwnedFd::from(terminal))).output());
    owner.kill().unwrap();
    owner.wait().unwrap();
    // Nobody's session: the first to ask has it.
    let (_other, terminal) = slave();
    let control = Lab::ran_outside(lab.plain(&["tiocsti"]).stdin(terminal).output().unwrap());
    Twins { inside: vec![inside], control }
}

/// Not to become this process's own.
fn open_terminal(path: &str) -> std::io::Result<std::fs::File> {
    std::fs::File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path)
}

/// A console of the host's that was handed over.
fn console(lab: &Lab) -> Twins {
    let Ok(terminal) = open_terminal("/dev/tty1") else {
        let missing = if Path::new("/dev/tty1").exists() { Ran::Refused } else { Ran::Absent };
        let inside = lab.inside(&lab.hardened(), &["open-write", "/dev/tty1"]);
        return Twins { inside: vec![inside], control: missing("/dev/tty1".into()) };
    };
    let mut command: Command = Lab::command(&lab.hardened(), &["tioclinux"]);
    let inside = Lab::ran(command.fd(3, terminal.try_clone().unwrap()).output());
    // In a shell of the host's it would be 3 as well.
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "exec \"$0\" tioclinux 3<&0"]).arg(&lab.program).stdin(terminal);
    Twins { inside: vec![inside], control: Lab::ran_outside(shell.output().unwrap()) }
}
