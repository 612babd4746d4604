//! Using up what others need. What the control uses up has a limit too, a higher one.

use std::time::Duration;

use stockade::{Layer, Limit, Resource, Sandbox, Support};

use crate::common;
use crate::lab::{Lab, Pair, Ran, Twins};

pub fn pairs() -> Vec<Pair> {
    vec![
        Pair::new("forks", |lab| tasks(lab, "forks")),
        Pair::new("fork-bomb", |lab| tasks(lab, "fork-bomb")),
        Pair::new("threads", |lab| tasks(lab, "threads")),
        Pair::new("raise-limit", |lab| Twins {
            inside: vec![lab.inside(&lab.hardened(), &["raise-limit"])],
            control: lab.outside(&["raise-limit"]).or_elsewhere("the container has no CAP_SYS_RESOURCE"),
        }),
        Pair::new("open-files", open_files),
        Pair::new("disk", disk),
        Pair::new("dev-shm-size", dev_shm_size),
        Pair::new("inodes", inodes),
        Pair::new("pipes", pipes).root_shows(),
        // Of which the machine has a few thousand.
        Pair::new("many-terminals", |lab| Twins {
            inside: vec![lab.inside(&lab.hardened(), &["many-terminals", "100"])],
            control: lab.outside(&["many-terminals", "100"]),
        }),
        Pair::new("memory", memory),
        Pair::new("address-space", address_space),
        Pair::new("file-size", file_size),
        Pair::new("outlast", outlast),
        Pair::new("flood", flood),
        Pair::new("inotify", inotify),
        Pair::new("starved-neighbour", starved).root_shows(),
    ]
}

/// 60 is what it may, 200 what it tries, 300 what the control may.
fn tasks(lab: &Lab, attack: &'static str) -> Twins {
    let limited = |sandbox: Sandbox, tasks: u32| sandbox.pids_limit(tasks).rlimit(Resource::Processes, tasks.into());
    let attempt = [attack, "200"];
    let inside = lab.inside(&limited(lab.hardened(), 60), &attempt);
    Twins { inside: vec![inside], control: lab.inside(&limited(lab.hardened(), 300), &attempt) }
}

fn open_files(lab: &Lab) -> Twins {
    let files = |number| lab.inside(&lab.hardened().rlimit(Resource::OpenFiles, number), &["open-files", "500"]);
    Twins { inside: vec![files(300)], control: files(700) }
}

fn disk(lab: &Lab) -> Twins {
    let fill =
        |megabytes: u64| lab.inside(&lab.hardened().tmpfs("/data", megabytes << 20), &["fill", "/data/file", "12"]);
    let root = lab.inside(&lab.hardened(), &["create", "/file"]);
    Twins { inside: vec![fill(8), root], control: fill(16) }
}

/// Those that nobody has given a size.
fn dev_shm_size(lab: &Lab) -> Twins {
    let inside = ["/dev/shm/file", "/tmp/file"].map(|path| lab.inside(&lab.hardened(), &["fill", path, "160"]));
    let roomy = lab.hardened().tmpfs("/data", 200 << 20);
    Twins { inside: inside.into(), control: lab.inside(&roomy, &["fill", "/data/file", "160"]) }
}

fn inodes(lab: &Lab) -> Twins {
    let files = |sandbox: Sandbox, path, count| lab.inside(&sandbox, &["inodes", path, count]);
    let data = |megabytes: u64| files(lab.hardened().tmpfs("/data", megabytes << 20), "/data", "4000");
    let mut inside = vec![data(4)];
    if !common::is_slow() {
        inside.extend(["/tmp", "/dev/shm"].map(|path| files(lab.hardened(), path, "40000")));
    }
    Twins { inside, control: data(256) }
}

fn pipes(lab: &Lab) -> Twins {
    // More than `pipe-user-pages-soft`.
    let soft: u64 = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").unwrap().trim().parse().unwrap();
    let attempt = ["pipes".to_owned(), (soft + 4096).to_string()];
    Twins { inside: vec![lab.inside(&lab.hardened(), &attempt)], control: lab.outside(&attempt) }
}

fn memory(lab: &Lab) -> Twins {
    if let Some(missing) = Support::probe().missing(Layer::Memory) {
        return Twins { inside: vec![], control: Ran::Absent(missing.reason.clone()) };
    }
    let touch = |megabytes: u64| {
        let sandbox = lab.hardened().memory_limit(megabytes << 20);
        Lab::ran_into(Lab::command(&sandbox, &["memory", "64"]).output(), Limit::Memory)
    };
    Twins { inside: vec![touch(32)], control: touch(160) }
}

fn address_space(lab: &Lab) -> Twins {
    let touch =
        |megabytes: u64| lab.inside(&lab.hardened().rlimit(Resource::AddressSpace, megabytes << 20), &["memory", "64"]);
    Twins { inside: vec![touch(48)], control: touch(160) }
}

fn file_size(lab: &Lab) -> Twins {
    let write = |megabytes: u64| {
        let sandbox = lab.hardened().rlimit(Resource::FileSize, megabytes << 20);
        Lab::ran_into(Lab::command(&sandbox, &["fill", "/work/file", "8"]).output(), Limit::FileSize)
    };
    Twins { inside: vec![write(4)], control: write(12) }
}

/// Past a deadline, deaf to signals, forking all the time.
fn outlast(lab: &Lab) -> Twins {
    let wanted = if common::is_slow() { 6000 } else { 1200 };
    let within = |limit: Duration| {
        let sandbox = lab.hardened().wall_time_limit(limit);
        Lab::ran_into(Lab::command(&sandbox, &["outlast", &wanted.to_string()]).output(), Limit::WallTime)
    };
    Twins { inside: vec![within(Duration::from_millis(wanted / 4))], control: within(Duration::from_secs(60)) }
}

fn flood(lab: &Lab) -> Twins {
    let write = |megabytes: u64| {
        let sandbox = lab.hardened().output_limit(megabytes << 20);
        Lab::ran_into(Lab::command(&sandbox, &["flood", "4"]).output(), Limit::Output)
    };
    Twins { inside: vec![write(1)], control: write(8) }
}

/// Short of what the user has.
fn inotify(lab: &Lab) -> Twins {
    let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap();
    let attempt = ["inotify".to_owned(), (most.trim().parse::<u32>().unwrap().min(1024) * 3 / 4).to_string()];
    Twins { inside: vec![lab.inside(&lab.hardened(), &attempt)], control: lab.unrooted(&Sandbox::new(), &attempt) }
}

/// One takes all the tasks that it can get. Its neighbour has the same host ids.
fn starved(lab: &Lab) -> Twins {
    let limited = |sandbox: Sandbox| sandbox.pids_limit(60).rlimit(Resource::Processes, 60);
    let _crowd = lab.holder_in(&mut Lab::command(&limited(lab.hardened()), &["crowd"]));
    let inside = lab.inside(&limited(lab.hardened()), &["starved"]);
    if !common::is_root() {
        // It would be all that this user has.
        return Twins { inside: vec![inside], control: Ran::Refused("not with the user's own processes".into()) };
    }
    // A user whom nobody is.
    let weak = || Sandbox::new().uid(2_111_111_111).rlimit(Resource::Processes, 40);
    let mut crowd = weak().command(&lab.program);
    let _other = lab.holder_in(crowd.arg("crowd"));
    Twins { inside: vec![inside], control: lab.unrooted(&weak(), &["starved"]) }
}
