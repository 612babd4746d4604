//! Channels: from the host to a sandbox, and between two sandboxes of one host process.

use stockade::Sandbox;

use crate::lab::{Lab, Pair, Ran, Twins};

pub fn pairs() -> Vec<Pair> {
    let mut pairs = vec![];
    for (name, put, get) in
        [("shm", "shm-put", "shm-get"), ("msg", "msg-put", "msg-get"), ("sem", "sem-put", "sem-get")]
    {
        pairs.push(Pair::new(name, move |lab| across(lab, put, get, &lab.unique().to_string())));
    }
    for (name, put, get) in [
        ("mq", "mq-put", "mq-get"),
        ("abstract-socket", "abstract-put", "abstract-get"),
        ("bound-socket", "path-put", "path-get"),
        ("dev-shm", "dev-shm-put", "dev-shm-get"),
        ("tmp", "tmp-put", "tmp-get"),
        ("locks", "lock-put", "lock-get"),
    ] {
        pairs.push(Pair::new(name, move |lab| across(lab, put, get, &format!("stockade-hostile-{}", lab.unique()))));
    }
    pairs.push(
        Pair::new("locks-on-programs", |lab| {
            across(lab, "shared-lock-put", "shared-lock-get", &lab.unique().to_string())
        })
        .undecided("a read lock on a file that both see read-only is seen by the other (F_GETLK, flock)"),
    );
    pairs.push(
        Pair::new("watched-programs", |lab| across(lab, "watched-put", "watched-get", ""))
            .undecided("that a file which both see is opened is told to the other (inotify)"),
    );
    pairs.push(Pair::new("terminals", terminals));
    pairs
}

/// Somebody holds a thing, and another looks for it.
fn across(lab: &Lab, put: &str, get: &str, name: &str) -> Twins {
    let attempt = [get, name];
    let _host = lab.holder(&[put, name]);
    let control = lab.unrooted(&Sandbox::new(), &attempt);
    // Landlock lets nobody open a message queue: without it the namespaces must hold alone.
    let sandboxes = [lab.hardened(), lab.hardened().without_landlock()];
    let mut inside: Vec<Ran> = sandboxes.iter().map(|sandbox| lab.inside(sandbox, &attempt)).collect();
    let _neighbour = lab.holder_in(&mut Lab::command(&sandboxes[1], &[put, name]));
    inside.extend(sandboxes.iter().map(|sandbox| lab.inside(sandbox, &attempt)));
    // What the lock files leave.
    let _ = std::fs::remove_file(format!("/tmp/{name}"));
    Twins { inside, control }
}

/// The other's terminals, by number.
fn terminals(lab: &Lab) -> Twins {
    let mut host = lab.holder(&["pty-put"]);
    let path = format!("/dev/pts/{}", host.says());
    let _neighbour = lab.holder_in(&mut Lab::command(&lab.hardened(), &["pty-put"]));
    let attempt = ["open-write", &path];
    let inside: Vec<Ran> =
        [attempt, ["open-write", "/dev/pts/0"]].map(|args| lab.inside(&lab.hardened(), &args)).into();
    Twins { inside, control: lab.unrooted(&Sandbox::new(), &attempt) }
}
