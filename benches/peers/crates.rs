//! The peers that are crates. They are linked into a program of its own, `benches/crates`, which is built here, and launches
//! on demand.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::common::Result;
use crate::common::host::Host;
use crate::filter::Rules;
use crate::ways::{Held, Places, Target, Way};

/// The program that has them, with the versions that are in its lock file.
pub struct Crates {
    program: PathBuf,
    rules: PathBuf,
    pub hakoniwa: String,
    pub unshare: String,
}

impl Crates {
    /// Builds it: in a workspace of its own, and so in a directory of its own.
    pub fn build(places: &Places) -> Result<Self> {
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/crates");
        let lock = std::fs::read_to_string(package.join("Cargo.lock")).map_err(|_| "benches/crates is not here")?;
        let version = |name: &str| {
            let found = lock.split_once(&format!("name = \"{name}\"\nversion = \""));
            found.and_then(|(_, rest)| rest.split('"').next()).unwrap_or("?").to_owned()
        };
        let target = std::env::current_exe()?;
        // target/release/deps/peers-1234
        let target = target.ancestors().nth(3).ok_or("no target directory")?.join("crates");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = |features: &[&str]| -> Result<()> {
            let mut command = Command::new(&cargo);
            command
                .args(["build", "--release", "--locked", "--quiet", "--manifest-path"])
                .arg(package.join("Cargo.toml"));
            command.arg("--target-dir").arg(&target).args(features).stdin(Stdio::null());
            let output = command.output()?;
            let text = String::from_utf8_lossy(&output.stderr);
            let first =
                || text.lines().find(|line| line.starts_with("error")).unwrap_or("cargo cannot build it").to_owned();
            if output.status.success() { Ok(()) } else { Err(first().into()) }
        };
        if build(&["--features", "seccomp"]).is_err() {
            build(&[])?;
        }
        let rules = places.directory.join("rules");
        std::fs::write(&rules, Rules::hardened().lines())?;
        let program = target.join("release/stockade-bench-crates");
        Ok(Self { program, rules, hakoniwa: version("hakoniwa"), unshare: version("unshare") })
    }

    pub fn host(&self, mebibytes: usize, places: &Places) -> Result<Arc<Mutex<Host>>> {
        let mut command = Command::new(&self.program);
        command.arg(mebibytes.to_string()).arg(&places.program).arg(&self.rules).stderr(Stdio::null());
        Ok(Arc::new(Mutex::new(Host::start(&mut command)?)))
    }
}

/// A way of a host process's.
pub struct Remote<'a> {
    pub places: &'a Places,
    pub host: Arc<Mutex<Host>>,
    pub way: &'static str,
    pub root: bool,
}

fn ask(host: &Mutex<Host>, line: &str) -> Result<Duration> {
    host.lock().unwrap_or_else(PoisonError::into_inner).launch(line)
}

impl Way for Remote<'_> {
    fn run(&self, target: Target, _: usize) -> Result<Duration> {
        ask(&self.host, &format!("run {} {}", self.way, self.places.path(target, self.root).display()))
    }

    fn hold(&self, slot: usize) -> Result<Held> {
        ask(&self.host, &format!("hold {} {slot}", self.way))?;
        let [ready, close, wait] = [0; 3].map(|_| Arc::clone(&self.host));
        Ok(Held::new(
            move || ask(&ready, &format!("ready {slot}")).map(drop),
            move || drop(ask(&close, &format!("close {slot}"))),
            move || ask(&wait, &format!("wait {slot}")).map(drop),
        ))
    }
}
