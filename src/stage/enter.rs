//! Process S: from the host's spawn to the fork of the agent.

use super::plan::{Failure, Hello, Launch, Plan, Sink, Step, Wire, decode, flag, message};
use super::serve;
use super::sys::{self, Errno, Fd};

/// What a step could not do.
pub struct Failed {
    pub step: Step,
    pub index: u32,
    pub errno: Errno,
}

/// Names the step in an error's way up.
pub trait At<T> {
    fn at(self, step: Step) -> Result<T, Failed>;
    fn at_index(self, step: Step, index: u32) -> Result<T, Failed>;
}

impl<T> At<T> for sys::Result<T> {
    fn at(self, step: Step) -> Result<T, Failed> {
        self.at_index(step, 0)
    }
    fn at_index(self, step: Step, index: u32) -> Result<T, Failed> {
        self.map_err(|errno| Failed { step, index, errno })
    }
}

/// The control socket's end in S and A.
#[derive(Clone, Copy)]
pub struct Control {
    pub socket: Fd,
    /// The host process, whose end is the sandbox's end.
    pub host: Fd,
}

/// A record on its way out, in as many bytes as it may have.
pub struct Buffer<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Sink for Buffer<N> {
    fn put(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }
}

impl<const N: usize> Buffer<N> {
    pub fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Control {
    /// Sends a packet: the message's number, then a record. If the host is gone nobody misses it.
    pub fn send<'a>(&self, message: u32, record: &impl Wire<'a>, fds: &[Fd], pid: Option<(i32, u32, u32)>) -> sys::Result<()> {
        let mut packet = Buffer::<96>::new();
        message.encode(&mut packet);
        record.encode(&mut packet);
        sys::send(self.socket, packet.bytes(), fds, pid)
    }

    pub fn fail(&self, failed: &Failed) {
        let failure = Failure { step: failed.step as u32, index: failed.index, errno: failed.errno.0 };
        let _ = self.send(message::FAILED, &failure, &[], None);
    }
}

/// What came with the hello, mapped and decoded.
pub struct Received {
    pub plan: Plan<'static>,
    pub launch: Option<Launch<'static>>,
    /// The first descriptor of the launch; the others follow.
    pub launch_fds: u32,
    /// The first of the namespaces to join.
    pub join_fds: u32,
    /// The first of the detached trees.
    pub tree_fds: u32,
    /// The descriptor limit that had to be raised to receive them all, to be set back for the program.
    pub nofile: Option<[u64; 2]>,
}

/// The stage's whole life. The agent and the program are children of it, and never return here.
pub fn run(socket: Fd) -> ! {
    // Until the host's pidfd is here the socket's own end must do.
    let mut control = Control { socket, host: socket };
    match enter(&mut control) {
        Ok(()) => sys::exit(0),
        Err(failed) => {
            control.fail(&failed);
            sys::exit(1)
        }
    }
}

fn enter(control: &mut Control) -> Result<(), Failed> {
    sys::set_name(c"stockade");
    sys::default_signals();
    sys::umask(0o022);
    // The host may have anything open, up to the kernel's own ceiling, fs.nr_open.
    sys::close_range(1, u32::MAX, 1 << 20).at(Step::Receive)?;
    let received = receive(control).at(Step::Receive)?;
    let plan = &received.plan;

    sys::setsid().at(Step::Session)?;
    sys::new_session_keyring().at(Step::Session)?;
    for (index, join) in plan.joins.iter().enumerate() {
        let index = index as u32;
        sys::setns(Fd((received.join_fds + index) as i32), join.kind).at_index(Step::JoinNamespace, index)?;
    }
    if plan.flags & flag::USER_NS != 0 {
        sys::unshare(sys::CLONE_NEWUSER).at(Step::UserNamespace)?;
        map_ids(control, plan).at(Step::IdMap)?;
    }
    if plan.unshare != 0 {
        sys::unshare(plan.unshare).at(Step::Namespaces)?;
    }
    if plan.flags & flag::TIME_OFFSETS != 0 {
        sys::write_file(c"/proc/self/timens_offsets", plan.time_offsets).at(Step::TimeOffsets)?;
    }
    // From here on nobody of the same uid may look in. (Before, procfs would have given our own files to root.)
    sys::prctl(sys::PR_SET_DUMPABLE, 0, 0).at(Step::Agent)?;
    match sys::fork(sys::CLONE_PARENT).at(Step::Agent)? {
        sys::Fork::Child => serve::run(*control, received),
        sys::Fork::Parent { pid, pidfd } => {
            let introduced = control.send(message::AGENT, &(pid as u32), &[pidfd], None);
            if introduced.is_err() {
                // Too many descriptors of this user are on their way. The host reaps it by its number then.
                let _ = control.send(message::AGENT, &(pid as u32), &[], None);
            }
            introduced.at(Step::Agent)
        }
    }
}

fn map_ids(control: &Control, plan: &Plan<'_>) -> sys::Result<()> {
    if plan.flags & flag::MAP_HOST != 0 {
        control.send(message::MAP, &0u32, &[], None)?;
        // The host's end may be held open by a fork of the host: its pidfd cannot.
        let mut set = [sys::Poll::input(Some(control.socket)), sys::Poll::input(Some(control.host))];
        sys::poll(&mut set, None)?;
        let [socket, _] = set;
        let mut buffer = [0; 16];
        let (len, _) = if socket.ready() { sys::receive(control.socket, &mut buffer, false)? } else { (0, None) };
        if buffer.get(..len).map(decode::<u32>) != Some(Ok(message::MAPPED)) {
            return Err(Errno::PROTO);
        }
    }
    if plan.flags & flag::DENY_SETGROUPS != 0 {
        sys::write_file(c"/proc/self/setgroups", c"deny")?;
    }
    if plan.flags & flag::MAP_SELF != 0 {
        sys::write_file(c"/proc/self/uid_map", plan.uid_map)?;
        sys::write_file(c"/proc/self/gid_map", plan.gid_map)?;
    }
    Ok(())
}

/// Descriptors come in order, and nothing else is open but 0, so that they are numbered 1, 2, 3 and so on.
fn receive(control: &mut Control) -> sys::Result<Received> {
    const PLAN: u32 = 1;
    const HOST: u32 = 2;
    const LAUNCH: u32 = 3;

    let mut buffer = [0; 64];
    let (len, fds) = sys::receive(control.socket, &mut buffer, true)?;
    let packet = buffer.get(..len).and_then(|packet| packet.split_first_chunk::<4>()).ok_or(Errno::PROTO)?;
    let (&number, body) = packet;
    let (Ok(message::HELLO), Ok(hello)) = (decode::<u32>(&number), decode::<Hello>(body)) else {
        return Err(Errno::PROTO);
    };
    let mut count = expect(fds, 1)?;
    control.host = Fd(HOST as i32);

    // Only large sandboxes need more descriptors than any limit in use allows.
    let nofile = if hello.fds > 200 { Some(sys::get_rlimit(sys::RLIMIT_NOFILE)?) } else { None };
    if let Some([_, hard]) = nofile {
        sys::set_rlimit(sys::RLIMIT_NOFILE, hard, hard)?;
    }
    while count < hello.fds {
        let (_, fds) = sys::receive(control.socket, &mut buffer, true)?;
        count += expect(fds, count + 1)?;
    }
    let plan = decode::<Plan<'_>>(sys::map_file(Fd(PLAN as i32), hello.plan_len)?).map_err(|_| Errno::PROTO)?;
    let (launch, launch_fds) = if hello.launch_len == 0 {
        (None, LAUNCH)
    } else {
        let launch = sys::map_file(Fd(LAUNCH as i32), hello.launch_len)?;
        (Some(decode::<Launch<'_>>(launch).map_err(|_| Errno::PROTO)?), LAUNCH + 1)
    };
    let join_fds = launch_fds.saturating_add(hello.launch_fds);
    Ok(Received { plan, launch, launch_fds, join_fds, tree_fds: join_fds.saturating_add(plan.joins.len()), nofile })
}

fn expect(fds: Option<(Fd, u32)>, first: u32) -> sys::Result<u32> {
    match fds {
        Some((fd, count)) if fd.0 == first as i32 => Ok(count),
        _ => Err(Errno::PROTO),
    }
}
