//! A host for plugins in C: shared objects of strangers, which it loads into a sandboxed closure and never into itself.
//!
//! ```console
//! $ cargo run --example plugin_host
//! ```
//!
//! One plugin does what it should; typed requests go to it by a channel, and bulk data by memory that both see. The
//! other tries one bad thing after the other, each in a sandbox of its own, and the host says what came of each: it exits with 1 if one
//! of them worked. What can be reached without a sandbox is tried without one first. It needs cc, and works as root and as
//! an ordinary user.
//!
//! The host has one thread; with more it would start a [`stockade::Zygote`] first of all, and give that a function and its
//! arguments in place of a closure.

use std::error::Error;
use std::ffi::{CStr, CString};
use std::fs;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stockade::{Channel, Child, Layer, Limit, Outcome, Region, Resource, Sandbox, Support, Verdict};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What a plugin is asked for.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Sum(Vec<i64>),
    Upper(String),
    /// Of the first so many bytes of the memory that both see.
    Invert(usize),
    /// Of the hostile one: what to try, and with what.
    Attack(String, String),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Answer {
    Number(i64),
    Text(String),
    Done,
    /// There is no such function in it.
    Unknown,
}

/// The channel, and the memory, as the plugin's process has them.
const CHANNEL: u32 = 3;
const MEMORY: u32 = 4;
const MEMORY_BYTES: usize = 1 << 20;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("plugin_host: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let good = compile(directory.path(), "good", include_str!("plugin_host/good.c"))?;
    let hostile = compile(directory.path(), "hostile", include_str!("plugin_host/hostile.c"))?;
    serve(&good)?;
    withstand(&hostile)
}

fn compile(directory: &Path, name: &str, source: &str) -> Result<PathBuf> {
    let (file, plugin) = (directory.join(name).with_extension("c"), directory.join(name).with_extension("so"));
    fs::write(&file, source)?;
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&plugin, &file]).status()?;
    if built.success() { Ok(plugin) } else { Err(format!("{name}.c does not compile").into()) }
}

/// For strangers' code: of the host's files it sees its own and the system's, and nothing of the network.
fn sandbox(plugin: &Path) -> Sandbox {
    let sandbox = Sandbox::hardened()
        .bind_ro(plugin, "/plugin.so")
        .wall_time_limit(Duration::from_secs(2))
        .rlimit(Resource::AddressSpace, 1 << 30);
    // An ordinary user needs a delegated cgroup for it; the limit of the address space holds anyway.
    if Support::probe().missing(Layer::Memory).is_none() { sandbox.memory_limit(128 << 20) } else { sandbox }
}

/// A plugin that runs, and the way to it.
struct Plugin {
    process: Child,
    channel: Channel<Request, Answer>,
    memory: Region,
}

impl Plugin {
    fn start(sandbox: &Sandbox, path: &'static CStr) -> Result<Plugin> {
        let (channel, theirs) = Channel::pair()?;
        let memory = Region::read_write(MEMORY_BYTES)?;
        let closure = sandbox.closure().fd(CHANNEL, theirs.into_fd());
        let closure = closure.fd(MEMORY, memory.as_fd().try_clone_to_owned()?);
        let process = closure.spawn(move || i32::from(plugin_main(path).is_err()))?;
        Ok(Plugin { process, channel: channel.timeout(Duration::from_secs(5)), memory })
    }
}

/// In the sandbox: loads the plugin, and answers for it until the host has no more requests.
fn plugin_main(path: &CStr) -> Result<()> {
    let host = Channel::<Answer, Request>::inherited(CHANNEL)?;
    let memory = Region::inherited(MEMORY, MEMORY_BYTES)?;
    let library = Library::open(path)?;
    while let Ok(request) = host.receive() {
        host.send(&library.answer(request, &memory))?;
    }
    Ok(())
}

/// What dlopen(3) gives. It is never closed: the process ends.
struct Library(*mut libc::c_void);

#[allow(unsafe_code)] // C: that is what the sandbox is for
impl Library {
    fn open(path: &CStr) -> Result<Library> {
        // SAFETY: whatever its initialisers do, they do it in here.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() { Err("the plugin cannot be loaded".into()) } else { Ok(Library(handle)) }
    }

    fn find(&self, name: &CStr) -> Option<*mut libc::c_void> {
        // SAFETY: the handle is dlopen's.
        let symbol = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        Some(symbol).filter(|symbol| !symbol.is_null())
    }

    fn answer(&self, request: Request, memory: &Region) -> Answer {
        self.try_answer(request, memory).unwrap_or(Answer::Unknown)
    }

    fn try_answer(&self, request: Request, memory: &Region) -> Option<Answer> {
        // SAFETY: the functions are of these types, or the plugin is broken, which is its sandbox's business.
        unsafe {
            match request {
                Request::Sum(numbers) => {
                    type Sum = unsafe extern "C" fn(*const i64, usize) -> i64;
                    let sum = std::mem::transmute::<*mut libc::c_void, Sum>(self.find(c"sum")?);
                    Some(Answer::Number(sum(numbers.as_ptr(), numbers.len())))
                }
                Request::Upper(text) => {
                    type Upper = unsafe extern "C" fn(*mut u8, usize);
                    let upper = std::mem::transmute::<*mut libc::c_void, Upper>(self.find(c"upper")?);
                    let mut bytes = text.into_bytes();
                    upper(bytes.as_mut_ptr(), bytes.len());
                    Some(Answer::Text(String::from_utf8_lossy(&bytes).into_owned()))
                }
                Request::Invert(count) => {
                    type Invert = unsafe extern "C" fn(*mut u8, usize);
                    let invert = std::mem::transmute::<*mut libc::c_void, Invert>(self.find(c"invert")?);
                    invert(memory.as_ptr(), count.min(memory.len()));
                    Some(Answer::Done)
                }
                Request::Attack(what, argument) => {
                    type Attack = unsafe extern "C" fn(*const libc::c_char, *const libc::c_char) -> i64;
                    let attack = std::mem::transmute::<*mut libc::c_void, Attack>(self.find(c"attack")?);
                    let (what, argument) = (CString::new(what).ok()?, CString::new(argument).ok()?);
                    Some(Answer::Number(attack(what.as_ptr(), argument.as_ptr())))
                }
            }
        }
    }
}

/// The plugin that does what it should.
fn serve(path: &Path) -> Result<()> {
    let plugin = Plugin::start(&sandbox(path), c"/plugin.so")?;
    let sum = plugin.channel.call(&Request::Sum((1..=100).collect()))?;
    println!("the sum of 1 to 100: {sum:?}");
    let text = plugin.channel.call(&Request::Upper("quietly".into()))?;
    println!("louder: {text:?}");
    // What is too much to be sent is not sent.
    plugin.memory.write(0, &vec![5; MEMORY_BYTES])?;
    let done = plugin.channel.call(&Request::Invert(MEMORY_BYTES))?;
    let mut last = [0];
    plugin.memory.read(MEMORY_BYTES - 1, &mut last)?;
    println!("a MiB, inverted where it lies: {done:?}, the last byte is {}", last[0]);
    if (sum, text, last) != (Answer::Number(5050), Answer::Text("QUIETLY".into()), [250]) {
        return Err("the plugin does not do what it should".into());
    }
    // The end of the channel is the plugin's.
    drop(plugin.channel);
    println!("it ended with {:?}", plugin.process.wait()?.verdict);
    Ok(())
}

/// The plugin with bad intentions. True: nothing that it tried has worked.
fn withstand(path: &Path) -> Result<bool> {
    let secret = tempfile::NamedTempFile::new()?;
    fs::write(secret.path(), "a file of the host's")?;
    let file = secret.path().to_string_lossy().into_owned();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();

    // The control, without a sandbox to speak of: what follows would work.
    let open = Sandbox::new().wall_time_limit(Duration::from_secs(5));
    let here = CString::new(path.as_os_str().as_bytes())?;
    for (what, argument) in [("a file of the host's", &file), ("the network", &port)] {
        let (answer, _) = attempt(&open, Box::leak(here.clone().into_boxed_c_str()), what, argument)?;
        println!("without a sandbox, {what}: {}", if answer == Some(0) { "works" } else { "does not work" });
        if answer != Some(0) {
            return Ok(false);
        }
    }
    let nothing = String::new();
    let captured = fs::File::options().read(true).write(true).open(secret.path())?;
    let number = captured.as_raw_fd().to_string();
    let attempts = [
        ("a file of the host's", &file),
        ("the network", &port),
        ("a descriptor of the host's", &number),
        ("another program", &nothing),
        ("a fork bomb", &nothing),
        ("all of the memory", &nothing),
        ("never to answer", &nothing),
        ("nonsense in its answer", &nothing),
        ("to flood the host", &nothing),
        ("to crash", &nothing),
    ];
    // Whatever is in the system's directories may be executed, unless that is refused.
    let sandbox = sandbox(path).seccomp(no_exec());
    let mut withstood = true;
    for (what, argument) in attempts {
        let (answer, outcome) = attempt(&sandbox, c"/plugin.so", what, argument)?;
        // Where there is no answer the host has seen through it.
        let worked = answer == Some(0);
        let how = match (answer, &outcome.verdict) {
            (_, Verdict::LimitExceeded(limit)) => format!("stopped by its limit ({limit:?})"),
            (_, Verdict::Signaled(signal)) => format!("ended by {signal}"),
            (_, Verdict::SyscallDenied(denied)) => format!("ended for {}", denied.syscall),
            (Some(errno), _) if errno > 0 => format!("refused: {}", errno_name(errno)),
            (_, verdict) => format!("given up ({verdict:?})"),
        };
        println!("{what}: {}", if worked { "WORKED".into() } else { how });
        withstood &= !worked;
        if what == "never to answer" {
            withstood &= outcome.verdict == Verdict::LimitExceeded(Limit::WallTime);
        }
    }
    Ok(withstood)
}

fn no_exec() -> stockade::seccomp::Filter {
    use stockade::seccomp::{Action, Filter};
    Filter::deny_list().deny("execve", Action::Kill).deny("execveat", Action::Kill)
}

fn errno_name(errno: i64) -> String {
    std::io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or(0)).to_string()
}

/// What the plugin says of its attempt, if it says anything, and how it ended.
fn attempt(sandbox: &Sandbox, path: &'static CStr, what: &str, argument: &str) -> Result<(Option<i64>, Outcome)> {
    let plugin = Plugin::start(sandbox, path)?;
    let answer = match plugin.channel.call(&Request::Attack(what.into(), argument.into())) {
        Ok(Answer::Number(errno)) => Some(errno),
        Ok(_) => None,
        // It lies, floods, or has ended: it gets no second chance.
        Err(error) => {
            println!("  ({error})");
            None
        }
    };
    drop(plugin.channel);
    if answer.is_none() {
        // Its own end tells most, if it comes by itself.
        if let Some(outcome) = plugin.process.wait_timeout(Duration::from_secs(3))? {
            return Ok((answer, outcome));
        }
        plugin.process.kill()?;
    }
    Ok((answer, plugin.process.wait()?))
}
