//! User and group ids: the program's, and the maps of its user namespace.

use std::fmt::Write as _;
use std::io;
use std::process::{Command, Stdio};

use crate::caps::Capabilities;
use crate::error::Error;
use crate::plan::flag;
use crate::support::{self, Host, Layer};

/// How many ids a sandbox gets where nothing else is asked for and the caller may map ranges.
const DEFAULT_RANGE: u32 = 65536;

/// Where the host ids of such a range are looked for: above what distributions, directory services and systemd-nspawn
/// (0x80000 to 0x6fffffff) give out, and below 2^31, which some programs cannot do without.
const UNUSED: std::ops::Range<u32> = 0x7000_0000..0x7fff_0000;

/// `count` ids from `inner` on are those from `outer` on outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) inner: u32,
    pub(crate) outer: u32,
    pub(crate) count: u32,
}

/// What a policy says of ids.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ids {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) groups: Vec<u32>,
    pub(crate) uid_map: Vec<Range>,
    pub(crate) gid_map: Vec<Range>,
    pub(crate) subordinate: bool,
    pub(crate) host_root: bool,
}

/// Who writes the maps.
#[derive(Debug, Clone)]
pub(crate) enum Writer {
    /// The stage itself: one id each. Or nobody, without a user namespace.
    Stage,
    /// The host process, which has the capability.
    Host,
    /// newuidmap(1) and newgidmap(1).
    Helpers,
}

/// What a plan says of ids.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    pub(crate) flags: u32,
    pub(crate) uid_map: Vec<Range>,
    pub(crate) gid_map: Vec<Range>,
    pub(crate) writer: Writer,
    pub(crate) agent: Option<(u32, u32)>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

impl Ids {
    /// Whether the caller needs a capability for these, outside a user namespace of the sandbox's own.
    pub(crate) fn need_privilege(&self, host: &Host) -> bool {
        self.uid.is_some_and(|uid| uid != host.uid)
            || self.gid.is_some_and(|gid| gid != host.gid)
            || !self.groups.is_empty()
    }

    pub(crate) fn compile(&self, host: &Host, user_ns: bool) -> Result<Compiled, Error> {
        let uid = self.uid.unwrap_or(host.uid);
        // A user of one's own with the group of somebody else is nobody's wish.
        let gid = self.gid.unwrap_or(self.uid.unwrap_or(host.gid));
        if uid == u32::MAX || gid == u32::MAX || self.groups.contains(&u32::MAX) {
            return Err(Error::invalid("uid", "4294967295 is the kernel's word for no id at all"));
        }
        if self.groups.len() > 1024 {
            return Err(Error::invalid("groups", format!("{} groups; 1024 is the most", self.groups.len())));
        }
        if user_ns { self.compile_maps(host, uid, gid) } else { self.compile_plain(host, uid, gid) }
    }

    fn compile_plain(&self, host: &Host, uid: u32, gid: u32) -> Result<Compiled, Error> {
        for (setting, set) in [
            ("uid_map", !self.uid_map.is_empty()),
            ("gid_map", !self.gid_map.is_empty()),
            ("map_subordinate_ids", self.subordinate),
        ] {
            if set {
                return Err(Error::invalid(setting, "ids are mapped by a user namespace: add user_ns()"));
            }
        }
        let asked = self.uid.is_some() || self.gid.is_some();
        let privileged = host.caps.contains(Capabilities::SETGID);
        let mut flags = if asked { flag::SET_IDS } else { 0 };
        if privileged {
            flags |= flag::SET_GROUPS;
        }
        Ok(Compiled {
            flags,
            uid_map: vec![],
            gid_map: vec![],
            writer: Writer::Stage,
            agent: None,
            uid,
            gid,
            groups: self.groups.clone(),
        })
    }

    fn compile_maps(&self, host: &Host, uid: u32, gid: u32) -> Result<Compiled, Error> {
        let privileged = host.caps.contains(Capabilities::SETUID | Capabilities::SETGID);
        let (uid_map, gid_map) = self.maps(host, uid, gid, privileged)?;
        check_ranges("uid_map", &uid_map)?;
        check_ranges("gid_map", &gid_map)?;
        for (setting, id, map) in [("uid", uid, &uid_map), ("gid", gid, &gid_map)] {
            if !holds(map, id) {
                return Err(Error::invalid(
                    setting,
                    format!("{id} is not mapped; the map is {}", lines(map).trim_end()),
                ));
            }
        }
        if let Some(group) = self.groups.iter().find(|group| !holds(&gid_map, **group)) {
            return Err(Error::invalid("groups", format!("{group} is not mapped")));
        }
        if host.initial && !self.host_root && uid_map.iter().any(|range| range.outer == 0) {
            let reason = "the host's uid 0 would be mapped: without any capability it may still write files such as \
                          core_pattern; map_host_root() accepts that";
            return Err(Error::invalid("uid_map", reason));
        }
        let own = |map: &[Range], id| matches!(map, [Range { outer, count: 1, .. }] if *outer == id);
        let writer = if privileged {
            Writer::Host
        } else if own(&uid_map, host.uid) && own(&gid_map, host.gid) {
            Writer::Stage
        } else {
            Writer::Helpers
        };
        let flags = match writer {
            Writer::Stage if !self.groups.is_empty() => {
                return Err(Error::Unsupported {
                    layer: Layer::IdRanges,
                    reason: "an unprivileged map of a single id goes with setgroups(2) denied".into(),
                    remedy: "leave groups() out, or use map_subordinate_ids()".into(),
                });
            }
            Writer::Stage => flag::MAP_SELF | flag::DENY_SETGROUPS,
            Writer::Host | Writer::Helpers => flag::MAP_HOST | flag::SET_GROUPS,
        };
        let agent = match writer {
            Writer::Stage => None,
            _ => Some((if holds(&uid_map, 0) { 0 } else { uid }, if holds(&gid_map, 0) { 0 } else { gid })),
        };
        let flags = flags | flag::USER_NS | flag::SET_IDS;
        Ok(Compiled { flags, uid_map, gid_map, writer, agent, uid, gid, groups: self.groups.clone() })
    }

    fn maps(&self, host: &Host, uid: u32, gid: u32, privileged: bool) -> Result<(Vec<Range>, Vec<Range>), Error> {
        let single = |inner, outer| vec![Range { inner, outer, count: 1 }];
        let given = |map: &[Range], other: Vec<Range>| if map.is_empty() { other } else { map.to_vec() };
        let (users, groups) = if self.subordinate {
            let behind = |map: Vec<Range>, own| {
                let mut next = 0u32;
                let mut all = if privileged { vec![] } else { vec![Range { inner: 0, outer: own, count: 1 }] };
                next += u32::from(!privileged);
                for Range { outer, count, .. } in map {
                    all.push(Range { inner: next, outer, count });
                    next = next.saturating_add(count);
                }
                all
            };
            let user = user_name(host.uid);
            let sub = |file: &'static str, own| match subordinate_ids(file, &user, host.uid) {
                map if map.is_empty() => Err(Error::Unsupported {
                    layer: Layer::IdRanges,
                    reason: format!("{file} gives {user} no ids"),
                    remedy: format!("add a line '{user}:100000:65536' to {file}"),
                }),
                map => Ok(behind(map, own)),
            };
            (sub("/etc/subuid", host.uid)?, sub("/etc/subgid", host.gid)?)
        } else if privileged {
            let outer = unused_range()?;
            let range = vec![Range { inner: 0, outer, count: DEFAULT_RANGE }];
            (range.clone(), range)
        } else {
            (single(uid, host.uid), single(gid, host.gid))
        };
        Ok((given(&self.uid_map, users), given(&self.gid_map, groups)))
    }
}

fn holds(map: &[Range], id: u32) -> bool {
    map.iter().any(|range| id >= range.inner && id - range.inner < range.count)
}

/// The kernel's rules (user_namespaces(7)), said in words.
fn check_ranges(setting: &'static str, map: &[Range]) -> Result<(), Error> {
    let invalid = |reason| Err(Error::invalid(setting, reason));
    if map.len() > 340 {
        return invalid(format!("{} ranges; the kernel takes 340", map.len()));
    }
    for (index, range) in map.iter().enumerate() {
        let Range { inner, outer, count } = *range;
        if count == 0 {
            return invalid(format!("the range from {inner} on is empty"));
        }
        if inner.checked_add(count).is_none() || outer.checked_add(count).is_none() {
            return invalid(format!("{count} ids from {inner}, or from {outer} on, are more than there are"));
        }
        let meets = |a: u32, b: u32, other: u32| a < b + other && b < a + count;
        let clash = |other: &&Range| meets(inner, other.inner, other.count) || meets(outer, other.outer, other.count);
        if let Some(other) = map.iter().take(index).find(clash) {
            return invalid(format!("the ranges from {inner} and from {} on overlap", other.inner));
        }
    }
    Ok(())
}

/// A map as `/proc/PID/uid_map` takes it.
pub(crate) fn lines(map: &[Range]) -> String {
    map.iter().fold(String::new(), |mut text, range| {
        let _ = writeln!(text, "{} {} {}", range.inner, range.outer, range.count);
        text
    })
}

impl Compiled {
    /// Writes the maps of the stage, process `pid`, from outside.
    pub(crate) fn write(&self, pid: u32) -> io::Result<()> {
        match self.writer {
            Writer::Stage => Ok(()),
            Writer::Host => {
                std::fs::write(format!("/proc/{pid}/uid_map"), lines(&self.uid_map))?;
                std::fs::write(format!("/proc/{pid}/gid_map"), lines(&self.gid_map))
            }
            Writer::Helpers => {
                run_helper("newuidmap", pid, &self.uid_map)?;
                run_helper("newgidmap", pid, &self.gid_map)
            }
        }
    }
}

fn run_helper(helper: &str, pid: u32, map: &[Range]) -> io::Result<()> {
    let numbers = map.iter().flat_map(|range| [range.inner, range.outer, range.count]);
    let run = Command::new(helper)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("{helper}: {error}")))?;
    if run.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&run.stderr);
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{helper}: {}", said.trim())))
}

/// The lines of a file like `/etc/passwd`, cut at the colons.
fn records(file: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
}

fn user_name(uid: u32) -> String {
    let number = uid.to_string();
    let entry = records("/etc/passwd").into_iter().find(|fields| fields.get(2) == Some(&number));
    entry.and_then(|fields| fields.into_iter().next()).unwrap_or(number)
}

/// What `/etc/subuid` or `/etc/subgid` gives a user, by name or by number.
fn subordinate_ids(file: &str, user: &str, uid: u32) -> Vec<Range> {
    let mine = |fields: &Vec<String>| fields.first().is_some_and(|name| *name == user || *name == uid.to_string());
    records(file).into_iter().filter(mine).filter_map(|fields| range_of(&fields)).collect()
}

fn range_of(fields: &[String]) -> Option<Range> {
    let [_, outer, count] = fields else { return None };
    Some(Range { inner: 0, outer: outer.parse().ok()?, count: count.trim().parse().ok()? })
}

/// A range of host ids that nobody has: no user, and no subordinate range. Two host processes begin at different places,
/// so that their sandboxes do not share ids; those of one process do, unless uid_map() says otherwise.
fn unused_range() -> Result<u32, Error> {
    let slots = (UNUSED.end - UNUSED.start) / DEFAULT_RANGE;
    let mut taken: Vec<Range> = vec![];
    for file in ["/etc/subuid", "/etc/subgid"] {
        taken.extend(records(file).iter().filter_map(|fields| range_of(fields)));
    }
    for file in ["/etc/passwd", "/etc/group"] {
        let ids = records(file).into_iter().filter_map(|fields| fields.get(2)?.parse().ok());
        taken.extend(ids.map(|outer| Range { inner: 0, outer, count: 1 }));
    }
    let free = |base: &u32| {
        taken.iter().all(|range| {
            u64::from(range.outer) + u64::from(range.count) <= u64::from(*base) || range.outer >= base + DEFAULT_RANGE
        })
    };
    let first = std::process::id();
    (0..slots)
        .map(|slot| UNUSED.start + first.wrapping_add(slot) % slots * DEFAULT_RANGE)
        .find(free)
        .ok_or_else(support::no_unused_ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(uid: u32, caps: Capabilities) -> Host {
        Host { uid, gid: uid, caps, last_cap: 40, initial: true }
    }

    #[test]
    fn an_ordinary_user_maps_itself() {
        let ids = Ids { uid: Some(7), ..Ids::default() };
        let compiled = ids.compile(&host(1000, Capabilities::empty()), true).unwrap();
        assert_eq!(compiled.uid_map, [Range { inner: 7, outer: 1000, count: 1 }]);
        assert_eq!(compiled.gid_map, [Range { inner: 7, outer: 1000, count: 1 }]);
        assert!(compiled.flags & flag::MAP_SELF != 0 && compiled.agent.is_none());
    }

    #[test]
    fn root_never_maps_itself() {
        let compiled = Ids::default().compile(&host(0, Capabilities::all()), true).unwrap();
        assert!(compiled.uid_map.iter().all(|range| UNUSED.contains(&range.outer)), "{:?}", compiled.uid_map);
        let zero = vec![Range { inner: 0, outer: 0, count: 1 }];
        let mut ids = Ids { uid_map: zero.clone(), gid_map: zero, ..Ids::default() };
        assert!(matches!(
            ids.compile(&host(0, Capabilities::all()), true),
            Err(Error::Invalid { setting: "uid_map", .. })
        ));
        ids.host_root = true;
        assert!(ids.compile(&host(0, Capabilities::all()), true).is_ok());
    }

    #[test]
    fn ranges_are_checked() {
        let range = |inner, outer, count| Range { inner, outer, count };
        assert!(check_ranges("uid_map", &[range(0, 1000, 10), range(10, 2000, 5)]).is_ok());
        for bad in [
            vec![range(0, 1000, 0)],
            vec![range(u32::MAX, 1000, 2)],
            vec![range(0, u32::MAX, 2)],
            vec![range(0, 1000, 10), range(9, 5000, 1)],
            vec![range(0, 1000, 10), range(100, 1009, 1)],
        ] {
            assert!(check_ranges("uid_map", &bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_program_must_be_mapped() {
        let ids = Ids { uid: Some(70000), ..Ids::default() };
        let error = ids.compile(&host(0, Capabilities::all()), true).unwrap_err();
        assert!(matches!(error, Error::Invalid { setting: "uid", .. }), "{error}");
    }
}
