//! All rows: which there are, what their isolation is, and what is not on this machine.

use std::cell::OnceCell;
use std::process::Command;
use std::sync::{Arc, Mutex};

use stockade::Sandbox;

use crate::common::host::Host;
use crate::common::launches::{all_namespaces, isolated, limits, rootfs};
use crate::common::{Record, Result, memory};
use crate::crates::{Crates, Remote};
use crate::filter;
use crate::floor::Floor;
use crate::tools::{self, Found};
use crate::ways::{Bare, Limits, Ours, Places, Plain, Target, Tool, Way};

/// One row, or two: for a dynamic and for a static program.
pub struct Entry<'a> {
    /// Its isolation and who provides it: `root/bwrap`.
    pub name: String,
    pub peer: String,
    /// In words.
    pub isolation: String,
    pub state: State<'a>,
    /// Of this crate, or one that it is compared with in any case: it must not fail.
    pub ours: bool,
    pub dynamic_only: bool,
    pub rated: bool,
    pub sleeps: bool,
}

pub enum State<'a> {
    Here(Box<dyn Way + 'a>),
    /// And why.
    Absent(String),
}

impl<'a> Entry<'a> {
    fn new(name: &str, peer: &str, isolation: &str, way: Result<Box<dyn Way + 'a>>) -> Self {
        let state = way.map_or_else(|error| State::Absent(error.to_string()), State::Here);
        let (name, peer, isolation) = (name.to_owned(), peer.to_owned(), isolation.to_owned());
        let rated = RATED.contains(&name.as_str());
        Self { name, peer, isolation, state, ours: false, dynamic_only: false, rated, sleeps: true }
    }

    fn ours(self) -> Self {
        Self { ours: true, ..self }
    }

    pub fn group(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    pub fn way(&self) -> Option<&dyn Way> {
        match &self.state {
            State::Here(way) => Some(way.as_ref()),
            State::Absent(_) => None,
        }
    }

    pub fn absent(&self) -> &str {
        match &self.state {
            State::Here(_) => "",
            State::Absent(why) => why,
        }
    }

    pub fn record(&self, name: &str) -> Record {
        Record::new(name).text("peer", self.peer.as_str()).text("isolation", self.isolation.as_str())
    }
}

const STOCKADE: &str = concat!("stockade ", env!("CARGO_PKG_VERSION"));
const NS: &str = "7 namespaces";
const ROOT: &str = "7 namespaces, pivoted root";
const LIMITS: &str = "7 namespaces, pivoted root, memory, tasks and CPU limited";
const HARDENED: &str = "root, no capabilities, no_new_privs, filter, limits of memory, tasks, files";

/// Those that are wanted, by their names.
pub fn all<'a>(places: &'a Places, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Entry<'a>>> {
    let mut entries = mine(places, wanted)?;
    tool_entries(places, wanted, &mut entries);
    entries.extend(crate_entries(places, wanted));
    if entries.is_empty() {
        return Err("no row has such a name".into());
    }
    // By isolation, and in each what was added first comes first.
    const GROUPS: [&str; 5] = ["none", "ns", "root", "limits", "hardened"];
    let place = |entry: &Entry<'_>| GROUPS.iter().position(|group| *group == entry.group()).unwrap_or(GROUPS.len());
    entries.sort_by_key(place);
    Ok(entries)
}

fn mine<'a>(places: &'a Places, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Entry<'a>>> {
    let program = places.program.as_path();
    let all = if crate::cgroups().is_some() { Limits::All } else { Limits::None };
    let limited = if all == Limits::None { "; no cgroup can be limited here" } else { "" };
    let bare = "; no loopback device, one mapped id";
    let floor = |name: &str, isolation: &str, root: bool, limits: Limits| {
        let filter = (name == "hardened/floor").then(filter::compiled).transpose();
        let made = filter.and_then(|filter| Floor::new(places, root, filter));
        let made = made.map(|floor| Box::new(Bare { places, floor, limits }) as Box<dyn Way>);
        Entry::new(name, "floor", &format!("{isolation}{bare}"), made)
    };
    let ours = |name: &str, isolation: &str, sandbox: Sandbox| -> Result<Entry<'a>> {
        let (prepared, root) = (sandbox.prepare()?, !name.starts_with("ns/"));
        let (pool, peer) = match name {
            "hardened/pool" => (Some(prepared.pool(8)?), format!("{STOCKADE}, from a pool")),
            _ => (None, STOCKADE.to_owned()),
        };
        // Of those in the pool there are more than are asked for.
        let sleeps = pool.is_none();
        let way: Box<dyn Way> = Box::new(Ours { places, prepared, pool, root });
        Ok(Entry { sleeps, ..Entry::new(name, &peer, isolation, Ok(way)).ours() })
    };
    let limits_words = format!("{LIMITS}{limited}");
    let hardened_words = format!("8 namespaces, {HARDENED}, Landlock{limited}");
    let mut entries = vec![];
    for name in
        ["none/std", "ns/floor", "ns/stockade", "root/floor", "root/stockade", "limits/floor", "limits/stockade"]
            .into_iter()
            .chain(["hardened/floor", "hardened/stockade", "hardened/pool"])
            .filter(|name| wanted(name))
    {
        let entry = match name {
            "none/std" => Entry::new(name, "std::process::Command", "none", Ok(Box::new(Plain(places)))).ours(),
            "ns/floor" => floor(name, NS, false, Limits::None),
            "ns/stockade" => ours(name, NS, all_namespaces())?,
            "root/floor" => floor(name, ROOT, true, Limits::None),
            "root/stockade" => ours(name, ROOT, rootfs(program))?,
            "limits/floor" => floor(name, &limits_words, true, all),
            "limits/stockade" => ours(name, &limits_words, limits(program))?,
            "hardened/floor" => {
                let half = if all == Limits::None { Limits::None } else { Limits::MemoryAndTasks };
                floor(name, &format!("7 namespaces, {HARDENED}; no Landlock{limited}"), true, half)
            }
            _ => ours(name, &hardened_words, isolated(program))?,
        };
        entries.push(entry);
    }
    Ok(entries)
}

/// Those whose launches per second are counted.
const RATED: [&str; 11] = [
    "none/std",
    "ns/floor",
    "ns/stockade",
    "ns/unshare",
    "root/stockade",
    "root/bwrap",
    "root/crun",
    "hardened/floor",
    "hardened/stockade",
    "hardened/pool",
    "hardened/bwrap",
];

/// What a tool is made by.
type Make<'m, 'a> = &'m dyn Fn(&Found) -> Result<Tool<'a>>;

fn tool_entries<'a>(places: &'a Places, wanted: &dyn Fn(&str) -> bool, entries: &mut Vec<Entry<'a>>) {
    let none = crate::cgroups().is_none();
    let cgroups = |limits: Limits| if none { Limits::None } else { limits };
    let hand = if none { "; no cgroup can be limited here" } else { "; in a cgroup made by the bench" };
    let dev = "; and a /dev, which it insists on";
    let mut add = |name: &str, program: &str, peer: &str, isolation: String, make: Make<'_, 'a>| {
        if !wanted(name) {
            return;
        }
        let Some(found) = tools::find(program) else {
            let reason = Err(format!("there is no {program} on this machine").into());
            return entries.push(Entry::new(name, peer, &isolation, reason));
        };
        let tried = || -> Result<Box<dyn Way + 'a>> {
            let tool = make(&found)?;
            tool.trial()?;
            Ok(Box::new(tool))
        };
        let peer = format!("{peer} {}", found.version);
        entries.push(Entry::new(name, peer.trim(), &isolation, tried()));
    };
    add("ns/unshare", "unshare", "util-linux unshare", format!("{NS}; no loopback device, one mapped id"), &|found| {
        Ok(tools::unshare(found, places))
    });
    add("root/bwrap", "bwrap", "bubblewrap", format!("{ROOT}; one mapped id"), &|found| {
        Ok(tools::bwrap(found, places, Limits::None))
    });
    add("root/crun", "crun", "crun", format!("{ROOT}, no cgroups{dev}"), &|found| {
        tools::runtime(found, "crun", places, false, false)
    });
    add("limits/bwrap", "bwrap", "bubblewrap", format!("{LIMITS}; one mapped id{hand}"), &|found| {
        Ok(tools::bwrap(found, places, cgroups(Limits::All)))
    });
    for runtime in ["crun", "runc"] {
        add(&format!("limits/{runtime}"), runtime, runtime, format!("{LIMITS}{dev}"), &|found| {
            tools::runtime(found, runtime, places, true, false)
        });
    }
    add("limits/lxc", "lxc-execute", "lxc-execute", format!("{LIMITS}{dev}; under its own init"), &|found| {
        tools::lxc(found, places, false)
    });
    let half = cgroups(Limits::MemoryAndTasks);
    add(
        "hardened/bwrap",
        "bwrap",
        "bubblewrap",
        format!("7 namespaces, {HARDENED}; no Landlock; one mapped id{hand}"),
        &|found| tools::bwrap_hardened(found, places, half),
    );
    for runtime in ["crun", "runc"] {
        let isolation = format!("7 namespaces, {HARDENED} (but for ioctl); no Landlock");
        add(&format!("hardened/{runtime}"), runtime, runtime, isolation, &|found| {
            tools::runtime(found, runtime, places, true, true)
        });
    }
    let isolation = format!("7 namespaces, {HARDENED} (but for ioctl); no Landlock; under its own init");
    add("hardened/lxc", "lxc-execute", "lxc-execute", isolation, &|found| tools::lxc(found, places, true));
    let isolation = format!(
        "5 namespaces (pid, mnt, net, ipc, uts), the host's root read-only, no capabilities, no_new_privs, its own filter; \
         no Landlock{hand}"
    );
    add("hardened/firejail", "firejail", "firejail", isolation, &|found| tools::firejail(found, places, half));
}

/// How much a host process has touched, in MiB.
const SIZES: [usize; 3] = [0, 1024, 4096];

/// Host processes, which launch on demand: of this program, and of the one that has the crates.
struct Hosts<'a> {
    places: &'a Places,
    crates: OnceCell<std::result::Result<Crates, String>>,
}

type Shared = std::result::Result<Arc<Mutex<Host>>, String>;

impl<'a> Hosts<'a> {
    fn crates(&self) -> std::result::Result<&Crates, String> {
        let crates = self.crates.get_or_init(|| Crates::build(self.places).map_err(|error| error.to_string()));
        crates.as_ref().map_err(String::clone)
    }

    fn own(&self, mebibytes: usize) -> Shared {
        self.room_for(mebibytes)?;
        let start = || -> Result<Host> {
            let mut command = Command::new(std::env::current_exe()?);
            Host::start(command.args(["--host", &mebibytes.to_string()]).arg(&self.places.program))
        };
        start().map(|host| Arc::new(Mutex::new(host))).map_err(|error| error.to_string())
    }

    fn linked(&self, mebibytes: usize) -> Shared {
        self.room_for(mebibytes)?;
        self.crates()?.host(mebibytes, self.places).map_err(|error| error.to_string())
    }

    fn room_for(&self, mebibytes: usize) -> std::result::Result<(), String> {
        let available = memory::fields("/proc/meminfo", &["MemAvailable:"]).unwrap_or(0) >> 10;
        // A fork may need as much again.
        let enough = usize::try_from(available).unwrap_or(0) >= 2 * mebibytes + 512;
        if enough { Ok(()) } else { Err(format!("this machine has {available} MiB of memory to spare")) }
    }

    fn entry(&self, name: &str, way: &'static str, isolation: &str, host: &Shared) -> Entry<'a> {
        let version = |name: &str, of: fn(&Crates) -> &str| match self.crates() {
            Ok(crates) => format!("crate {name} {}", of(crates)),
            Err(_) => format!("crate {name}"),
        };
        let peer = match way {
            "std" => "std::process::Command".to_owned(),
            "stockade" => STOCKADE.to_owned(),
            "unshare" => version("unshare", |crates| &crates.unshare),
            _ => version("hakoniwa", |crates| &crates.hakoniwa),
        };
        let tried = || -> Result<Box<dyn Way + 'a>> {
            let root = !matches!(way, "std" | "unshare");
            let remote = Remote { places: self.places, host: host.clone()?, way, root };
            remote.run(Target::Dynamic, 0)?;
            Ok(Box::new(remote))
        };
        Entry::new(name, &peer, isolation, tried())
    }
}

fn crate_entries<'a>(places: &'a Places, wanted: &dyn Fn(&str) -> bool) -> Vec<Entry<'a>> {
    let hosts = Hosts { places, crates: OnceCell::new() };
    let one_id = format!("{ROOT}; one mapped id");
    let one_ns = format!("{NS}; no loopback device, one mapped id");
    let rows = [
        ("ns/unshare-crate", "unshare", one_ns.as_str()),
        ("root/hakoniwa", "hakoniwa", one_id.as_str()),
        (
            "hardened/hakoniwa",
            "hakoniwa-hardened",
            "7 namespaces, root, no_new_privs, filter (but for ioctl), Landlock, limits of files; none of memory and tasks, which \
             it takes from systemd only; its bounding set stays; one mapped id",
        ),
    ];
    let mut entries = vec![];
    let mut small = None;
    for (name, way, isolation) in rows.into_iter().filter(|(name, ..)| wanted(name)) {
        let host = small.get_or_insert_with(|| hosts.linked(0));
        entries.push(hosts.entry(name, way, isolation, host));
    }
    for size in SIZES {
        let (mut own, mut linked) = (None, None);
        for (who, way, isolation) in [
            ("std", "std", "none"),
            ("stockade", "stockade", ROOT),
            ("hakoniwa", "hakoniwa", &one_id),
            ("unshare-crate", "unshare", &one_ns),
        ] {
            let name = format!("rss-{size}/{who}");
            if wanted(&name) {
                let host = match way {
                    "std" | "stockade" => own.get_or_insert_with(|| hosts.own(size)),
                    _ => linked.get_or_insert_with(|| hosts.linked(size)),
                };
                let entry = hosts.entry(&name, way, isolation, host);
                let ours = matches!(way, "std" | "stockade") && entry.way().is_some();
                entries.push(Entry { dynamic_only: true, sleeps: false, ours, ..entry });
            }
        }
    }
    entries
}
