//! A host that launches by the crates `hakoniwa` and `unshare`, on demand: see `benches/common/host.rs`.
//!
//! Its arguments: how many MiB it touches, the static program, the filter's rules. Its lines: `run WAY PROGRAM`, and for
//! sleepers `hold WAY SLOT`, `ready SLOT`, `close SLOT`, `wait SLOT`. It has one thread: both crates fork, and go on in the fork.

#[path = "../../common/host.rs"]
#[allow(dead_code)] // the bench has the other end
mod host;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::FromRawFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mebibytes, program, rules] = arguments.as_slice() else {
        return Err("arguments: MEBIBYTES PROGRAM RULES".into());
    };
    let (lines, answers) = streams()?;
    let ways = Ways { program: program.into(), rules: std::fs::read_to_string(rules)? };
    let mut sleepers = BTreeMap::<String, Sleeper>::new();
    host::serve(mebibytes.parse()?, BufReader::new(lines), answers, |line| {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["run", way, program] => ways.run(way, program),
            ["hold", way, slot] => {
                let start = Instant::now();
                sleepers.insert((*slot).to_owned(), ways.hold(way)?);
                Ok(start.elapsed())
            }
            ["ready", slot] => sleepers.get_mut(*slot).ok_or("no such sleeper")?.ready(),
            ["close", slot] => {
                sleepers.get_mut(*slot).ok_or("no such sleeper")?.close();
                Ok(Duration::ZERO)
            }
            ["wait", slot] => sleepers.remove(*slot).ok_or("no such sleeper")?.wait(),
            _ => Err(format!("what is: {line}").into()),
        }
    })
}

/// The questions and answers, out of the way: what is launched inherits nothing but the null device.
fn streams() -> Result<(File, File)> {
    let [lines, answers] = [0, 1].map(|fd| {
        // SAFETY: it makes a new descriptor, which is owned here.
        let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 100) };
        if copy < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: nobody else has it.
        Ok(unsafe { File::from_raw_fd(copy) })
    });
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for fd in [0, 1] {
        // SAFETY: nothing has been read or written by these numbers.
        if unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), fd) } < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
    }
    Ok((lines?, answers?))
}

struct Ways {
    program: PathBuf,
    rules: String,
}

/// What `hakoniwa` is asked for.
struct Launch<'a> {
    program: &'a str,
    hold: bool,
}

impl Ways {
    fn run(&self, way: &str, program: &str) -> Result<Duration> {
        match way {
            "unshare" => {
                let mut command = namespaces(program);
                let start = Instant::now();
                let status = command.status().map_err(|error| error.to_string())?;
                finished(start, status.success(), &format!("{status:?}"))
            }
            "hakoniwa" | "hakoniwa-hardened" => {
                let launch = Launch { program, hold: false };
                let container = self.container(way)?;
                let start = Instant::now();
                let status = command(&container, &launch).status()?;
                finished(start, status.success(), &status.reason)
            }
            _ => Err(format!("there is no way {way}").into()),
        }
    }

    fn hold(&self, way: &str) -> Result<Sleeper> {
        let program = self.program.to_str().ok_or("the program's path is no text")?;
        if way == "unshare" {
            let mut command = namespaces(program);
            command.arg("hold").stdin(unshare::Stdio::piped()).stdout(unshare::Stdio::piped());
            return Ok(Sleeper::Unshare(command.spawn().map_err(|error| error.to_string())?));
        }
        let container = self.container(way)?;
        let mut command = command(&container, &Launch { program: "/static", hold: true });
        command.stdin(hakoniwa::Stdio::piped()).stdout(hakoniwa::Stdio::piped());
        Ok(Sleeper::Hakoniwa(Box::new(command.spawn()?)))
    }

    fn container(&self, way: &str) -> Result<hakoniwa::Container> {
        use hakoniwa::{Container, Namespace};
        let mut container = Container::new();
        for namespace in [Namespace::Network, Namespace::Ipc, Namespace::Uts, Namespace::Cgroup] {
            container.unshare(namespace);
        }
        container.bindmount_ro(self.program.to_str().ok_or("the program's path is no text")?, "/static");
        if way == "hakoniwa" {
            for path in ["/usr", "/bin", "/lib", "/lib64", "/etc"] {
                container.bindmount_ro(path, path);
            }
            container.tmpfsmount("/tmp");
            return Ok(container);
        }
        self.harden(&mut container)?;
        Ok(container)
    }

    /// As far as it can what `Sandbox::hardened` has.
    fn harden(&self, container: &mut hakoniwa::Container) -> Result<()> {
        use hakoniwa::Rlimit;
        for path in ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"] {
            match std::fs::read_link(path) {
                Ok(to) => drop(container.symlink(to.to_str().ok_or("a link that is no text")?, path)),
                Err(_) if Path::new(path).is_dir() => drop(container.bindmount_ro(path, path)),
                Err(_) => {}
            }
        }
        for name in ["ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives"] {
            let path = format!("/etc/{name}");
            if Path::new(&path).exists() {
                container.bindmount_ro(&path, &path);
            }
        }
        container.devfsmount("/dev").tmpfsmount("/tmp").tmpfsmount("/work");
        container.uidmap(1000).gidmap(1000).hostname("sandbox");
        for (limit, value) in [(Rlimit::Nofile, 1024), (Rlimit::Fsize, 256 << 20), (Rlimit::Core, 1)] {
            container.setrlimit(limit, value, value);
        }
        let mut ruleset = hakoniwa::landlock::Ruleset::default();
        ruleset.restrict(hakoniwa::landlock::Resource::FS, hakoniwa::landlock::CompatMode::Relax);
        for (path, access) in [("/", "r-x"), ("/tmp", "rwx"), ("/work", "rwx"), ("/dev", "rwx"), ("/proc", "rwx")] {
            ruleset.allow_path(path, access.parse()?);
        }
        container.landlock_ruleset(ruleset);
        self.filter(container)
    }

    #[cfg(not(feature = "seccomp"))]
    fn filter(&self, _: &mut hakoniwa::Container) -> Result<()> {
        Err(format!("built without libseccomp (Debian's libseccomp-dev): {} bytes of rules", self.rules.len()).into())
    }

    #[cfg(feature = "seccomp")]
    fn filter(&self, container: &mut hakoniwa::Container) -> Result<()> {
        use hakoniwa::seccomp::{Action, ArgCmp, ArgCmpOp, Filter};
        let mut filter = Filter::new(Action::Errno(1));
        for line in self.rules.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            match words.as_slice() {
                [name, "allow"] => drop(filter.add_rule(Action::Allow, name)),
                [name, "errno", errno] => drop(filter.add_rule(Action::Errno(errno.parse()?), name)),
                [name, "if", conditions @ ..] => {
                    let mut all = vec![];
                    for condition in conditions.chunks_exact(4) {
                        let [index, op, value, second] = condition else { continue };
                        let op = match *op {
                            "EQ" => ArgCmpOp::Eq,
                            "NE" => ArgCmpOp::Ne,
                            "LT" => ArgCmpOp::Lt,
                            "LE" => ArgCmpOp::Le,
                            "GT" => ArgCmpOp::Gt,
                            "GE" => ArgCmpOp::Ge,
                            _ => ArgCmpOp::MaskedEq,
                        };
                        all.push(ArgCmp::new(index.parse()?, op, value.parse()?, second.parse()?));
                    }
                    filter.add_rule_conditional(Action::Allow, name, &all);
                }
                _ => return Err(format!("not a rule: {line}").into()),
            }
        }
        container.seccomp_filter(filter);
        Ok(())
    }
}

fn command(container: &hakoniwa::Container, launch: &Launch<'_>) -> hakoniwa::Command {
    let mut command = container.command(launch.program);
    if launch.hold {
        command.arg("hold");
    }
    command
}

fn namespaces(program: &str) -> unshare::Command {
    use unshare::Namespace::{Cgroup, Ipc, Mount, Net, Pid, User, Uts};
    let mut command = unshare::Command::new(program);
    command.unshare(&[User, Pid, Mount, Net, Ipc, Uts, Cgroup]);
    // SAFETY: they cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    command.set_id_maps(
        vec![unshare::UidMap { inside_uid: 0, outside_uid: uid, count: 1 }],
        vec![unshare::GidMap { inside_gid: 0, outside_gid: gid, count: 1 }],
    );
    command
}

fn finished(start: Instant, success: bool, how: &str) -> Result<Duration> {
    let time = start.elapsed();
    if success { Ok(time) } else { Err(how.to_owned().into()) }
}

enum Sleeper {
    Hakoniwa(Box<hakoniwa::Child>),
    Unshare(unshare::Child),
}

impl Sleeper {
    fn ready(&mut self) -> Result<Duration> {
        let start = Instant::now();
        match self {
            Self::Hakoniwa(child) => child.stdout.as_mut().ok_or("no stdout")?.read_exact(&mut [0])?,
            Self::Unshare(child) => child.stdout.as_mut().ok_or("no stdout")?.read_exact(&mut [0])?,
        }
        Ok(start.elapsed())
    }

    fn close(&mut self) {
        match self {
            Self::Hakoniwa(child) => drop(child.stdin.take()),
            Self::Unshare(child) => drop(child.stdin.take()),
        }
    }

    fn wait(mut self) -> Result<Duration> {
        self.close();
        let start = Instant::now();
        match self {
            Self::Hakoniwa(mut child) => {
                let status = child.wait()?;
                finished(start, status.success(), &status.reason)
            }
            Self::Unshare(mut child) => {
                let status = child.wait()?;
                finished(start, status.success(), &format!("{status:?}"))
            }
        }
    }
}
