//! The typed channel and shared memory: between those who mean well, and against a plugin that does not.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod common;

use std::io::{IoSlice, Read as _, Seek as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use common::{all_namespaces, alone, leaves_nothing, single_threaded};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::{Deserialize, Serialize};
use stockade::{Channel, Error, Region, Sandbox, Signal, Verdict};

const SOON: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Request {
    Add(i64, i64),
    Reverse(String),
    Fill { len: usize },
    Done,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Answer {
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
}

fn serve(host: &Channel<Answer, Request>) -> Result<(), Error> {
    loop {
        let answer = match host.receive()? {
            Request::Add(a, b) => Answer::Number(a + b),
            Request::Reverse(text) => Answer::Text(text.chars().rev().collect()),
            Request::Fill { len } => Answer::Bytes(vec![7; len]),
            Request::Done => return Ok(()),
        };
        host.send(&answer)?;
    }
}

#[test]
fn a_plugin_serves() {
    single_threaded("a_plugin_serves", || {
        for sandbox in [Sandbox::new().pid_ns(), Sandbox::hardened()] {
            let (ours, theirs) = Channel::<Request, Answer>::pair().unwrap();
            let plugin = sandbox.closure().fd(3, theirs.into_fd()).spawn(|| {
                let host = Channel::inherited(3).unwrap();
                i32::from(serve(&host).is_err())
            });
            let plugin = plugin.unwrap();
            for n in 0..100 {
                assert_eq!(ours.call(&Request::Add(n, 1)).unwrap(), Answer::Number(n + 1));
            }
            assert_eq!(ours.call(&Request::Reverse("so".into())).unwrap(), Answer::Text("os".into()));
            // Too large for a packet, both ways.
            let long = "ab".repeat(200_000);
            assert_eq!(ours.call(&Request::Reverse(long.clone())).unwrap(), Answer::Text("ba".repeat(200_000)));
            assert_eq!(ours.call(&Request::Fill { len: 900_000 }).unwrap(), Answer::Bytes(vec![7; 900_000]));
            ours.send(&Request::Done).unwrap();
            assert_eq!(plugin.wait().unwrap().verdict, Verdict::Exited(0));
            assert!(matches!(ours.receive(), Err(Error::ChannelClosed)));
            assert!(matches!(ours.send(&Request::Done), Err(Error::ChannelClosed)));
        }
        // The end of the host's side is the plugin's end; that of a copy that was inherited too.
        let (ours, theirs) = Channel::<u8, u8>::pair().unwrap();
        let plugin = Sandbox::new().closure().fd(3, theirs.into_fd()).spawn(|| {
            drop(Channel::<u8, u8>::inherited(3).unwrap());
            std::thread::sleep(SOON);
            0
        });
        assert!(matches!(ours.receive(), Err(Error::ChannelClosed)));
        drop(plugin);
    });
}

#[test]
fn a_program_that_was_executed_serves_too() {
    // The test program itself, in the plugin's role: it inherits nothing but the descriptor.
    if std::env::var_os("STOCKADE_PLUGIN").is_some() {
        let host = Channel::<Answer, Request>::inherited(5).unwrap();
        return serve(&host).unwrap();
    }
    let (ours, theirs) = Channel::<Request, Answer>::pair().unwrap();
    let plugin = Sandbox::new()
        .pid_ns()
        .command(std::env::current_exe().unwrap())
        .args(["a_program_that_was_executed_serves_too", "--exact"])
        .env("STOCKADE_PLUGIN", "1")
        .fd(5, theirs.into_fd())
        .stdout(stockade::Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(ours.call(&Request::Add(2, 2)).unwrap(), Answer::Number(4));
    ours.send(&Request::Done).unwrap();
    assert!(plugin.wait().unwrap().success());
}

#[test]
fn descriptors_go_both_ways() {
    single_threaded("descriptors_go_both_ways", || {
        let (ours, theirs) = Channel::<String, u64>::pair().unwrap();
        let plugin = all_namespaces().closure().fd(3, theirs.into_fd()).spawn(|| {
            let host = Channel::<u64, String>::inherited(3).unwrap();
            let (text, fds) = host.receive_with().unwrap();
            let mut file = std::fs::File::from(fds.into_iter().next().unwrap());
            file.write_all(text.as_bytes()).unwrap();
            let made = memfd_create(c"made inside", MemfdFlags::CLOEXEC).unwrap();
            std::fs::File::from(made.try_clone().unwrap()).write_all(b"from inside").unwrap();
            let sixteen = [made.as_fd(); 16];
            host.send_with(&1, &sixteen).unwrap();
            i32::from(!matches!(host.send_with(&2, &[made.as_fd(); 17]), Err(Error::Invalid { .. })))
        });
        let mut file = tempfile::tempfile().unwrap();
        ours.send_with(&"from outside".to_owned(), &[file.as_fd()]).unwrap();
        let (_, fds) = ours.receive_with().unwrap();
        assert_eq!(fds.len(), 16);
        assert!(plugin.unwrap().wait().unwrap().success());
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "from outside");
        let mut made = std::fs::File::from(fds.into_iter().next_back().unwrap());
        made.rewind().unwrap();
        text.clear();
        made.read_to_string(&mut text).unwrap();
        assert_eq!(text, "from inside");
    });
}

/// Sends raw bytes and descriptors, as a plugin may.
fn raw(socket: &impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).unwrap();
}

fn head(place: u32, len: u32, fds: u32) -> Vec<u8> {
    [place, len, fds].map(u32::to_ne_bytes).concat()
}

fn memory(bytes: &[u8], seals: SealFlags) -> OwnedFd {
    let memory = memfd_create(c"test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    std::fs::File::from(memory.try_clone().unwrap()).write_all(bytes).unwrap();
    fcntl_add_seals(&memory, seals).unwrap();
    memory
}

const SEALED: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW);

#[test]
fn nonsense_is_an_error_and_the_next_message_is_whole() {
    alone("nonsense_is_an_error_and_the_next_message_is_whole", || {
        let (ours, theirs) = Channel::<u8, Vec<String>>::pair().unwrap();
        let ours = ours.limit(1000);
        let plugin = theirs.into_fd();
        let right = [&head(1, 9, 0)[..], &[1, 0, 0, 0, 1, 0, 0, 0, b'x']].concat();
        let long = [&[1, 0, 0, 0][..], &990u32.to_le_bytes(), &[b'y'; 990]].concat();
        let (reader, writer) = std::io::pipe().unwrap();
        let (writer, _reader) = (writer.as_fd(), reader.try_clone().unwrap());
        let directory = std::fs::File::open("/").unwrap();
        let sealed = memory(&long, SEALED);
        let loose = memory(&long, SealFlags::SHRINK | SealFlags::GROW);
        let shrinking = memory(&long, SealFlags::WRITE);
        let sparse = memory(b"", SealFlags::empty());
        rustix::fs::ftruncate(&sparse, 1 << 40).unwrap();
        fcntl_add_seals(&sparse, SEALED).unwrap();
        let file = tempfile::tempfile().unwrap();
        (&file).write_all(&long).unwrap();
        let len = long.len() as u32;
        let packets: Vec<(&str, Vec<u8>, Vec<BorrowedFd<'_>>)> = vec![
            ("short", vec![1], vec![]),
            ("only a head", head(1, 9, 0), vec![]),
            ("a place that is none", head(3, 0, 0), vec![]),
            ("too long", [&head(1, 8, 0)[..], &right[12..]].concat(), vec![]),
            ("beyond the packet", [&head(1, 1 << 20, 0)[..], &right[12..]].concat(), vec![]),
            ("longer than a packet", [&head(1, 100_000, 0)[..], &vec![0; 100_000]].concat(), vec![]),
            ("no value", [&head(1, 4, 0)[..], &[0xff; 4]].concat(), vec![]),
            ("bytes behind it", [&head(1, 10, 0)[..], &right[12..], &[0]].concat(), vec![]),
            ("descriptors that it does not tell of", right.clone(), vec![writer]),
            ("descriptors that it has not", [&head(1, 9, 2)[..], &right[12..]].concat(), vec![writer]),
            ("a hundred descriptors", [&head(1, 9, 100)[..], &right[12..]].concat(), vec![writer; 100]),
            ("more than it says", head(2, len, 16), [vec![sealed.as_fd()], vec![writer; 40]].concat()),
            ("no memory", head(2, len, 0), vec![]),
            ("a pipe", head(2, len, 0), vec![writer]),
            ("a directory", head(2, len, 0), vec![directory.as_fd()]),
            ("a file", head(2, len, 0), vec![file.as_fd()]),
            ("memory that can be written to", head(2, len, 0), vec![loose.as_fd()]),
            ("memory that can shrink", head(2, len, 0), vec![shrinking.as_fd()]),
            ("shorter than the memory", head(2, len - 1, 0), vec![sealed.as_fd()]),
            ("longer than the memory", head(2, len + 1, 0), vec![sealed.as_fd()]),
            ("a TiB", head(2, u32::MAX, 0), vec![sparse.as_fd()]),
            ("a TiB, by another name", head(2, 100, 0), vec![sparse.as_fd()]),
            ("both here and there", [&head(2, len, 0)[..], &long].concat(), vec![sealed.as_fd()]),
        ];
        // The controls: what is right, in the packet and in memory.
        raw(&plugin, &right, &[]);
        assert_eq!(ours.receive().unwrap(), ["x"]);
        raw(&plugin, &head(2, len, 1), &[sealed.as_fd(), writer]);
        let (message, fds) = ours.receive_with().unwrap();
        assert_eq!((message, fds.len()), (vec!["y".repeat(990)], 1));
        drop(fds);
        leaves_nothing("nonsense", || {
            for (name, bytes, fds) in &packets {
                raw(&plugin, bytes, fds);
                raw(&plugin, &right, &[]);
                let error = ours.receive_with().unwrap_err();
                assert!(matches!(error, Error::Malformed { what: "a message", .. }), "{name}: {error}");
                assert_eq!(ours.receive().unwrap(), ["x"], "what comes after {name}");
            }
        });
        // Any bytes at all.
        let mut state = 88172645463325252u64;
        for _ in 0..20_000 {
            let mut bytes = vec![];
            for _ in 0..4 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.extend_from_slice(&state.to_ne_bytes());
            }
            if state.is_multiple_of(2) {
                bytes[..12].copy_from_slice(&head(1 + (state as u32 >> 8 & 1), 20, 0));
            }
            raw(&plugin, &bytes, &[]);
            assert!(matches!(ours.receive(), Ok(_) | Err(Error::Malformed { .. })));
        }
        // Without a byte it is an end.
        raw(&plugin, &[], &[]);
        assert!(matches!(ours.receive(), Err(Error::ChannelClosed)));
    });
}

#[test]
fn a_flood_waits_where_it_comes_from() {
    single_threaded("a_flood_waits_where_it_comes_from", || {
        let (ours, theirs) = Channel::<u8, Vec<u8>>::pair().unwrap();
        let plugin = Sandbox::new().pid_ns().closure().fd(3, theirs.into_fd()).spawn(|| {
            let host = Channel::<Vec<u8>, u8>::inherited(3).unwrap();
            let mut sent = 0u64;
            while host.send(&vec![0; 10_000]).is_ok() {
                sent += 1;
            }
            i32::from(sent < 10)
        });
        let plugin = plugin.unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap()
        };
        let before = resident();
        for _ in 0..1000 {
            assert_eq!(ours.receive().unwrap().len(), 10_000);
        }
        assert!(resident() < before + 1024, "no more than a message at a time");
        drop(ours);
        assert!(plugin.wait().unwrap().success());
    });
}

#[test]
fn who_stalls_holds_up_nobody() {
    let (ours, theirs) = Channel::<Vec<u8>, u8>::pair().unwrap();
    let limit = Duration::from_millis(200);
    let ours = ours.timeout(limit);
    let start = Instant::now();
    assert!(matches!(ours.receive(), Err(Error::NoAnswer { limit: named, .. }) if named == limit));
    assert!(start.elapsed() >= limit && start.elapsed() < SOON);
    // Nobody takes anything: there is an end to the room.
    let start = Instant::now();
    let refused = (0..10_000).find_map(|_| ours.send(&vec![0; 10_000]).err());
    assert!(matches!(refused, Some(Error::NoAnswer { .. })), "{refused:?}");
    assert!(start.elapsed() < SOON);
    // And it goes on when there is room again.
    assert_eq!(theirs.receive().unwrap().len(), 10_000);
    ours.send(&vec![1; 10]).unwrap();
    let too_large = ours.send(&vec![0; 2 << 20]);
    assert!(matches!(too_large, Err(Error::Invalid { setting: "message", .. })));
    assert!(matches!(Channel::<u8, u8>::from_fd(std::io::pipe().unwrap().0), Err(Error::Invalid { .. })));
    assert!(matches!(Channel::<u8, u8>::inherited(99_999), Err(Error::Host { .. })));
}

#[test]
fn a_region_that_both_see() {
    single_threaded("a_region_that_both_see", || {
        let shared = Region::read_write(1 << 20).unwrap();
        let mine = Region::read_only(4096).unwrap();
        mine.write(1, b"only to be read").unwrap();
        let copy = |region: &Region| region.as_fd().try_clone_to_owned().unwrap();
        let closure = all_namespaces().closure().fd(10, copy(&shared)).fd(11, copy(&mine));
        let finished = closure.run(|| {
            let shared = Region::inherited(10, 1 << 20).unwrap();
            let theirs = Region::inherited(11, 4096).unwrap();
            let mut text = [0; 15];
            theirs.read(1, &mut text).unwrap();
            shared.write((1 << 20) - 15, &text).unwrap();
            let written = std::fs::File::from(copy(&theirs)).write(b"x").is_ok();
            (theirs.is_writable(), theirs.write(0, b"x").is_err(), written, shared.is_writable())
        });
        assert_eq!(finished.unwrap().value, Ok((false, true, false, true)));
        let mut text = [0; 15];
        shared.read((1 << 20) - 15, &mut text).unwrap();
        assert_eq!(&text, b"only to be read");
        // Whoever writes where only the host may is ended, and the host's memory is as it was.
        let closure = Sandbox::new().closure().fd(11, copy(&mine));
        let hit = closure.run(|| {
            let theirs = Region::inherited(11, 4096).unwrap();
            // SAFETY: inside the mapping; that it may not be written to is what is tried.
            #[allow(unsafe_code)]
            unsafe {
                libc::mprotect(theirs.as_ptr().cast(), 4096, libc::PROT_READ | libc::PROT_WRITE);
                theirs.as_ptr().write_volatile(1);
            }
        });
        assert_eq!(hit.unwrap().outcome.verdict, Verdict::Signaled(Signal::SEGV));
        assert!(mine.read(0, &mut text[..1]).is_ok() && text[0] == 0);

        // At every alignment.
        let bytes: Vec<u8> = (0..64).collect();
        for offset in 0..17 {
            for len in 0..40 {
                shared.write(offset, &bytes[..len]).unwrap();
                let mut back = vec![0xff; len];
                shared.read(offset, &mut back).unwrap();
                assert_eq!(back, bytes[..len]);
            }
        }
        for (offset, len) in [((1 << 20) - 10, 11), (usize::MAX, 1), (1 << 20, 1)] {
            assert!(matches!(shared.read(offset, &mut vec![0; len]), Err(Error::Invalid { .. })));
            assert!(matches!(shared.write(offset, &vec![0; len]), Err(Error::Invalid { .. })));
        }
        assert!(Region::read_write(0).is_err() && Region::read_write(usize::MAX).is_err());
    });
}

#[test]
fn a_region_that_lies_is_refused() {
    let refused = |fd: OwnedFd, limit: usize| {
        let error = Region::open(fd, limit).unwrap_err();
        assert!(matches!(error, Error::Malformed { what: "a region", .. }), "{error}");
    };
    let good = || memory(&[1; 4096], SealFlags::SHRINK | SealFlags::GROW);
    assert_eq!(Region::open(good(), 4096).unwrap().len(), 4096, "the control");
    refused(good(), 4095);
    refused(memory(&[1; 4096], SealFlags::GROW), 4096);
    refused(memory(b"", SealFlags::SHRINK), 4096);
    refused(std::io::pipe().unwrap().0.into(), 4096);
    refused(std::fs::File::open("/").unwrap().into(), 4096);
    refused(std::fs::File::open("/dev/zero").unwrap().into(), 4096);
    refused(tempfile::tempfile().unwrap().into(), 4096);
    if let Ok(huge) = memfd_create(c"huge", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB)
        && rustix::fs::ftruncate(&huge, 2 << 20).is_ok()
    {
        fcntl_add_seals(&huge, SealFlags::SHRINK).unwrap();
        refused(huge, 4 << 20);
    }
    // One that is cut off under the reader's eyes: the kernel refuses that to everybody.
    let region = Region::open(good(), 4096).unwrap();
    assert!(rustix::fs::ftruncate(&region, 0).is_err());
    let mut byte = [0];
    region.read(4095, &mut byte).unwrap();
    assert_eq!(byte, [1]);
    // For reading only, as it came.
    let read_only = std::fs::File::open(common_path(&good())).unwrap();
    assert!(!Region::open(read_only, 4096).unwrap().is_writable());
}

fn common_path(fd: &OwnedFd) -> String {
    use std::os::fd::AsRawFd as _;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[test]
fn a_plugin_that_ends_leaves_nothing() {
    single_threaded("a_plugin_that_ends_leaves_nothing", || {
        let prepared = all_namespaces().prepare().unwrap();
        leaves_nothing("plugins", || {
            for round in 0..common::scaled(50).max(2) {
                let (ours, theirs) = Channel::<u8, u8>::pair().unwrap();
                let region = Region::read_write(1 << 16).unwrap();
                let closure =
                    prepared.closure().fd(3, theirs.into_fd()).fd(4, region.as_fd().try_clone_to_owned().unwrap());
                let plugin = closure.spawn(|| {
                    let host = Channel::<u8, u8>::inherited(3).unwrap();
                    let region = Region::inherited(4, 1 << 16).unwrap();
                    region.write(0, &[host.receive().unwrap()]).unwrap();
                    let _ = host.send_with(&1, &[region.as_fd(); 3]);
                    std::process::abort()
                });
                let plugin = plugin.unwrap();
                ours.send(&(round as u8)).unwrap();
                let (one, fds) = ours.receive_with().unwrap();
                assert_eq!((one, fds.len()), (1, 3));
                let back = Region::open(fds.into_iter().next().unwrap(), 1 << 16).unwrap();
                let mut byte = [0xff];
                back.read(0, &mut byte).unwrap();
                assert_eq!(byte, [round as u8]);
                assert!(matches!(ours.receive(), Err(Error::ChannelClosed)));
                assert_eq!(plugin.wait().unwrap().verdict, Verdict::Signaled(Signal::ABRT));
            }
        });
    });
}
