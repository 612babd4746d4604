//! Process S: from the host's spawn to the fork of the agent.

use super::plan::{FDS_PER_MESSAGE, Failure, Hello, Plan, Sink, Step, Wire, decode, flag, message};
use super::serve;
use super::sys::{self, Errno, Fd, Tid};

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

/// The same on any socket.
pub fn send<'a>(
    socket: Fd,
    message: u32,
    record: &impl Wire<'a>,
    fds: &[Fd],
    pid: Option<(i32, u32, u32)>,
) -> sys::Result<()> {
    let mut packet = Buffer::<160>::new();
    message.encode(&mut packet);
    record.encode(&mut packet);
    sys::send(socket, packet.bytes(), fds, pid)
}

/// The same, but never waits for room. EAGAIN: there is none.
pub fn send_at_once<'a>(
    socket: Fd,
    message: u32,
    record: &impl Wire<'a>,
    pid: Option<(i32, u32, u32)>,
) -> sys::Result<()> {
    let mut packet = Buffer::<160>::new();
    message.encode(&mut packet);
    record.encode(&mut packet);
    sys::send_at_once(socket, packet.bytes(), pid)
}

impl Control {
    /// Sends a packet: the message's number, then a record. If the host is gone nobody misses it.
    pub fn send<'a>(
        &self,
        message: u32,
        record: &impl Wire<'a>,
        fds: &[Fd],
        pid: Option<(i32, u32, u32)>,
    ) -> sys::Result<()> {
        send(self.socket, message, record, fds, pid)
    }

    pub fn fail(&self, failed: &Failed) {
        let failure = Failure { step: failed.step as u32, index: failed.index, errno: failed.errno.0 };
        let _ = self.send(message::FAILED, &failure, &[], None);
    }
}

/// In a fork of the host: what runs in place of a program.
#[derive(Clone, Copy)]
pub struct Body<'a> {
    /// It returns the code to exit with.
    pub call: &'a dyn Fn() -> i32,
    /// The numbers of the descriptors that the host had open: its memory may still name them.
    pub open: &'a [u32],
    pub tid: Tid,
}

/// What came with the hello, mapped and decoded.
pub struct Received<'a> {
    pub plan: Plan<'static>,
    /// None in the stage's own program.
    pub body: Option<Body<'a>>,
    /// The first of the namespaces to join.
    pub join_fds: u32,
    /// The first of the detached trees.
    pub tree_fds: u32,
    /// A launch is on its way, and nobody waits to hear that the environment stands.
    pub launch: bool,
    /// The descriptor limit, which was raised for the agent, to be set back for each program.
    pub nofile: [u64; 2],
}

/// The stage's whole life. The agent and the program are children of it, and never return here.
pub fn run(socket: Fd, body: Option<Body<'_>>) -> ! {
    // Until the host's pidfd is here the socket's own end must do.
    let mut control = Control { socket, host: socket };
    match enter(&mut control, body) {
        Ok(()) => sys::exit(0),
        Err(failed) => {
            control.fail(&failed);
            sys::exit(1)
        }
    }
}

fn enter(control: &mut Control, body: Option<Body<'_>>) -> Result<(), Failed> {
    sys::set_name(c"stockade");
    sys::default_signals().at(Step::Receive)?;
    sys::umask(0o022);
    // The host may have anything open, up to the kernel's own ceiling, fs.nr_open.
    sys::close_range(1, u32::MAX, 1 << 20).at(Step::Receive)?;
    let received = receive(control, body).at(Step::Receive)?;
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
    match sys::fork(sys::CLONE_PARENT, Tid::NONE).at(Step::Agent)? {
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
        let (len, _) = if socket.ready() { sys::receive(control.socket, &mut buffer, &mut [], false)? } else { (0, 0) };
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
fn receive<'a>(control: &mut Control, body: Option<Body<'a>>) -> sys::Result<Received<'a>> {
    const PLAN: u32 = 1;
    const HOST: u32 = 2;

    // Large sandboxes need more descriptors than the usual soft limit allows, and so do many programs at once.
    let nofile = sys::get_rlimit(sys::RLIMIT_NOFILE)?;
    let [soft, hard] = nofile;
    if soft < hard {
        sys::set_rlimit(sys::RLIMIT_NOFILE, hard, hard)?;
    }
    let mut buffer = [0; 64];
    let mut batch = [Fd(-1); FDS_PER_MESSAGE as usize];
    let (len, fds) = sys::receive(control.socket, &mut buffer, &mut batch, true)?;
    let packet = buffer.get(..len).and_then(|packet| packet.split_first_chunk::<4>()).ok_or(Errno::PROTO)?;
    let (&number, record) = packet;
    let (Ok(message::HELLO), Ok(hello)) = (decode::<u32>(&number), decode::<Hello>(record)) else {
        return Err(Errno::PROTO);
    };
    let mut count = expect(&batch, fds, 1)?;
    control.host = Fd(HOST as i32);
    while count < hello.fds {
        let (_, fds) = sys::receive(control.socket, &mut buffer, &mut batch, true)?;
        count += expect(&batch, fds, count + 1)?;
    }
    let plan = decode::<Plan<'_>>(sys::map_file(Fd(PLAN as i32), hello.plan_len)?).map_err(|_| Errno::PROTO)?;
    let join_fds = HOST + 1;
    let tree_fds = join_fds.saturating_add(plan.joins.len());
    Ok(Received { plan, body, join_fds, tree_fds, launch: hello.launch != 0, nofile })
}

/// How many came: one at least, numbered from `first` on.
fn expect(batch: &[Fd], count: usize, first: u32) -> sys::Result<u32> {
    let numbers = batch.get(..count).unwrap_or_default().iter().map(|fd| fd.0);
    let count = count as u32;
    if count > 0 && numbers.eq(first as i32..first.saturating_add(count) as i32) {
        Ok(count)
    } else {
        Err(Errno::PROTO)
    }
}
