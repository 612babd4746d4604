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
    /// All host ids are such as nobody has.
    pub(crate) unused: bool,
}

impl Ids {
    /// Whether the program may have the caller's own user, or become it, as the host sees it.
    pub(crate) fn may_be_caller(&self, host: &Host, user_ns: bool) -> bool {
        let is_in = |range: &Range| (range.outer..range.outer.saturating_add(range.count)).contains(&host.uid);
        match (user_ns, self.uid_map.is_empty()) {
            (false, _) => self.uid.is_none_or(|uid| uid == host.uid),
            (true, false) => self.uid_map.iter().any(is_in),
            (true, true) => host.uid != 0 || self.host_root,
        }
    }

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
            unused: false,
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
        let unused = privileged && self.uid_map.is_empty() && !self.subordinate;
        Ok(Compiled { flags, uid_map, gid_map, writer, agent, uid, gid, groups: self.groups.clone(), unused })
    }

    fn maps(&self, host: &Host, uid: u32, gid: u32, privileged: bool) -> Result<(Vec<Range>, Vec<Range>), Error> {
        let needed = self.groups.iter().fold(uid.max(gid), |most, id| most.max(*id)).saturating_add(1);
        let somebodys = if privileged && !self.subordinate { somebodys(host) } else { vec![] };
        let map = |given: &[Range], kind: &str, id: u32, own: u32| {
            if !given.is_empty() {
                Ok(given.to_vec())
            } else if self.subordinate {
                subordinate_map(&format!("/etc/sub{kind}"), host.uid, (!privileged).then_some(own))
            } else if !privileged {
                Ok(vec![Range { inner: id, outer: own, count: 1 }])
            } else if host.initial {
                let outer = unused_range(&[ALL], &somebodys).ok_or_else(support::no_unused_ids)?;
                Ok(vec![Range { inner: 0, outer, count: DEFAULT_RANGE }])
            } else {
                let callers = callers_map(kind);
                let found = range_of_callers(&callers, somebodys.clone(), needed);
                Ok(vec![found.ok_or_else(|| support::no_ids_of_callers(kind, needed, &callers))?])
            }
        };
        Ok((map(&self.uid_map, "uid", uid, host.uid)?, map(&self.gid_map, "gid", gid, host.gid)?))
    }
}

fn subordinate_map(file: &str, uid: u32, own: Option<u32>) -> Result<Vec<Range>, Error> {
    let user = user_name(uid);
    match subordinate_ids(records(file), &user, uid) {
        map if map.is_empty() => Err(Error::Unsupported {
            layer: Layer::IdRanges,
            reason: format!("{file} gives {user} no ids"),
            remedy: format!("add a line '{user}:100000:65536' to {file}"),
        }),
        map => Ok(one_behind_the_other(map, own)),
    }
}

/// From 0 on, behind one's own id if there is such.
fn one_behind_the_other(map: Vec<Range>, own: Option<u32>) -> Vec<Range> {
    let own = own.map(|outer| Range { inner: 0, outer, count: 1 });
    let mut next = 0u32;
    let place = |Range { outer, count, .. }| {
        let inner = next;
        next = next.saturating_add(count);
        Range { inner, outer, count }
    };
    own.into_iter().chain(map).map(place).collect()
}

/// What the fuzz target asserts: a map that passes the checks is one that the kernel takes.
#[cfg(fuzzing)]
pub(crate) fn check_subordinate(text: &str, user: &str, uid: u32) {
    for own in [None, Some(uid)] {
        let map = one_behind_the_other(subordinate_ids(fields(text), user, uid), own);
        if check_ranges("uid_map", &map).is_err() {
            continue;
        }
        let ends = |from: u32, count: u32| u64::from(from) + u64::from(count);
        for (index, range) in map.iter().enumerate() {
            assert!(
                range.count > 0
                    && ends(range.inner, range.count) <= 1 << 32
                    && ends(range.outer, range.count) <= 1 << 32
            );
            for other in map.iter().take(index) {
                let apart = |a: u32, b: u32| ends(a, range.count) <= b.into() || ends(b, other.count) <= a.into();
                assert!(apart(range.inner, other.inner) && apart(range.outer, other.outer), "{map:?}");
            }
        }
        assert_eq!(lines(&map).lines().count(), map.len());
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
    fields(&std::fs::read_to_string(file).unwrap_or_default())
}

fn fields(text: &str) -> Vec<Vec<String>> {
    text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
}

fn user_name(uid: u32) -> String {
    let number = uid.to_string();
    let entry = records("/etc/passwd").into_iter().find(|fields| fields.get(2) == Some(&number));
    entry.and_then(|fields| fields.into_iter().next()).unwrap_or(number)
}

/// What `/etc/subuid` or `/etc/subgid` gives a user, by name or by number.
fn subordinate_ids(records: Vec<Vec<String>>, user: &str, uid: u32) -> Vec<Range> {
    let mine = |fields: &Vec<String>| fields.first().is_some_and(|name| *name == user || *name == uid.to_string());
    records.into_iter().filter(mine).filter_map(|fields| range_of(&fields)).collect()
}

fn range_of(fields: &[String]) -> Option<Range> {
    let [_, outer, count] = fields else { return None };
    Some(Range { inner: 0, outer: outer.parse().ok()?, count: count.trim().parse().ok()? })
}

/// All host ids.
const ALL: Range = Range { inner: 0, outer: 0, count: u32::MAX };

/// Up to here distributions give ids to users; what is mapped above is less likely to be a user whom only another
/// container of the same pod, or the owner of a volume's file, knows of.
const GIVEN_OUT: Range = Range { inner: 0, outer: 0, count: 60_001 };

/// Ids that somebody has: a user, or a subordinate range.
fn somebodys(host: &Host) -> Vec<Range> {
    let one = |outer| Range { inner: 0, outer, count: 1 };
    // The last two are the kernel's nobody, and no id at all in 16 bits.
    let mut taken = vec![one(0), one(host.uid), one(host.gid), one(65534), one(65535)];
    for file in ["/etc/subuid", "/etc/subgid"] {
        taken.extend(records(file).iter().filter_map(|fields| range_of(fields)));
    }
    for file in ["/etc/passwd", "/etc/group"] {
        taken.extend(records(file).into_iter().filter_map(|fields| fields.get(2)?.parse().ok()).map(one));
    }
    taken
}

/// The first of a range of host ids that nobody has. Two host processes begin at different places, so that their sandboxes
/// do not share ids; those of one process do, unless uid_map() says otherwise.
fn unused_range(callers: &[Range], taken: &[Range]) -> Option<u32> {
    let slots = (UNUSED.end - UNUSED.start) / DEFAULT_RANGE;
    let end = |range: &Range| u64::from(range.outer) + u64::from(range.count);
    let has = |part: &Range, base: u32| part.outer <= base && u64::from(base + DEFAULT_RANGE) <= end(part);
    let free = |base: &u32| {
        callers.iter().any(|part| has(part, *base))
            && taken.iter().all(|range| end(range) <= u64::from(*base) || range.outer >= base + DEFAULT_RANGE)
    };
    let first = std::process::id();
    (0..slots).map(|slot| UNUSED.start + first.wrapping_add(slot) % slots * DEFAULT_RANGE).find(free)
}

/// What a caller in a user namespace has to give: the ids of its own map, often no more than 65536. Where those above
/// the users' are too few, as many as there are in a row.
fn range_of_callers(callers: &[Range], mut taken: Vec<Range>, needed: u32) -> Option<Range> {
    if let Some(outer) = unused_range(callers, &taken) {
        return Some(Range { inner: 0, outer, count: DEFAULT_RANGE });
    }
    taken.push(GIVEN_OUT);
    let found = longest_gap(callers, &taken).filter(|range| range.count >= needed);
    taken.pop();
    let found = found.or_else(|| longest_gap(callers, &taken)).filter(|range| range.count >= needed)?;
    let count = found.count.min(DEFAULT_RANGE);
    let outer = found.outer + std::process::id() % (found.count / count) * count;
    Some(Range { inner: 0, outer, count })
}

/// The most ids in a row that are the caller's and nobody's. The kernel takes no range that is of two ranges outside.
fn longest_gap(callers: &[Range], taken: &[Range]) -> Option<Range> {
    let mut taken = taken.to_vec();
    taken.sort_by_key(|range| range.outer);
    let gaps = callers.iter().flat_map(|part| {
        let end = part.outer.saturating_add(part.count);
        let mut next = part.outer;
        let last = Range { outer: end, ..*part };
        taken.iter().copied().chain([last]).map(move |range| {
            let outer = next;
            next = next.max(range.outer.saturating_add(range.count));
            Range { inner: 0, outer, count: range.outer.min(end).saturating_sub(outer) }
        })
    });
    gaps.filter(|gap| gap.count > 0).max_by_key(|gap| gap.count)
}

/// The ids that the caller's own user namespace has, as it sees them itself.
fn callers_map(kind: &str) -> Vec<Range> {
    let text = std::fs::read_to_string(format!("/proc/self/{kind}_map"));
    let range = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse);
        let (Some(Ok(outer)), Some(_), Some(Ok(count))) = (numbers.next(), numbers.next(), numbers.next()) else {
            return None;
        };
        Some(Range { inner: 0, outer, count })
    };
    text.map_or(vec![ALL], |text| text.lines().filter_map(range).collect())
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
    fn root_of_a_container_maps_what_it_has() {
        let range = |outer, count| Range { inner: 0, outer, count };
        let users = vec![range(0, 1), range(1000, 1), range(65534, 1), range(65535, 1)];
        let found = |callers: &[Range], needed| range_of_callers(callers, users.clone(), needed);
        // Of a pod's 65536 ids, those above the users', if they are enough.
        assert_eq!(found(&[range(0, 65536)], 1001), Some(range(60_001, 5533)));
        assert_eq!(found(&[range(0, 65536)], 10_000), Some(range(1001, 64_533)));
        assert_eq!(found(&[range(0, 65536)], 65_000), None);
        assert_eq!(found(&[range(0, 1500)], 1), Some(range(1, 999)));
        assert_eq!(found(&[range(0, 1500)], 1001), None);
        // Its own alone, or none.
        assert_eq!(found(&[range(0, 1)], 1), None);
        assert_eq!(found(&[], 1), None);
        // Never over the edge of two.
        assert_eq!(found(&[range(0, 1500), range(1500, 1500)], 1), Some(range(1500, 1500)));
        let many = found(&[range(0, 1_000_000_000)], 1).unwrap();
        assert!(many.count == DEFAULT_RANGE && many.outer > 65_535 && many.outer + many.count <= 1_000_000_000);
        let all = found(&[range(0, u32::MAX)], 1).unwrap();
        assert!(UNUSED.contains(&all.outer) && all.count == DEFAULT_RANGE, "{all:?}");
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
