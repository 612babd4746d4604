//! Networks: the host's services and devices, and kinds of sockets with a history.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use stockade::Sandbox;

use crate::common;
use crate::lab::{Control, Lab, Pair, Ran, Twins};

pub fn pairs() -> Vec<Pair> {
    vec![
        Pair::simple("raw-socket", Control::Capable),
        Pair::simple("packet-socket", Control::Capable),
        Pair::simple("nf_tables", Control::Capable),
        Pair::simple("netlink", Control::Plain),
        Pair::filtered("vsock", Control::NoFilter),
        Pair::new("high-vsock", |lab| {
            let attempt = ["high-socket", "40", "1"];
            Twins {
                inside: vec![lab.inside(&lab.hardened(), &attempt)],
                control: lab.control(Control::NoFilter, &attempt),
            }
        }),
        Pair::new("odd-families", odd_families).root_shows(),
        Pair::filtered("odd-pairs", Control::NoFilter),
        Pair::new("loopback", |lab| service(lab, "connect")),
        Pair::new("proc-net", |lab| service(lab, "proc-net")),
        Pair::new("loopback-udp", datagrams),
        Pair::new("no-network-connect", no_network_connect),
        Pair::alone("no-network-netlink", no_network, |_| (vec!["netlink".into()], None)),
        Pair::alone("no-network-vsock", no_network, |_| (vec!["vsock".into()], None)),
        Pair::alone("no-network-io_uring", no_network, |_| (vec!["io_uring-open".into()], None)),
        Pair::alone("no-network-int80", no_network, |_| (vec!["int80".into()], None)),
        // AF_INET, SOCK_STREAM.
        Pair::alone("no-network-high-bits", no_network, |_| {
            (["high-socket", "2", "1"].map(str::to_owned).into(), None)
        }),
        Pair::alone("no-network-abstract", no_network, |lab| {
            let name = format!("stockade-hostile-{}", lab.unique());
            let listener = lab.holder(&["abstract-put", &name]);
            (vec!["abstract-get".into(), name], Some(listener))
        }),
    ]
}

fn odd_families(lab: &Lab) -> Twins {
    let attempt = ["odd-families"];
    let inside = vec![lab.inside(&lab.hardened(), &attempt)];
    // Where all that the kernel has take a capability, only the host can show it.
    let control = match lab.control(Control::NoFilter, &attempt) {
        Ran::Refused(_) => lab.control(Control::Host, &attempt),
        shown => shown,
    };
    Twins { inside, control }
}

/// Nothing but the filter that stands in for a network namespace.
fn no_network() -> Sandbox {
    Sandbox::new().no_network()
}

fn no_network_connect(lab: &Lab) -> Twins {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    Twins {
        inside: ["connect", "send-datagram"].map(|attack| lab.unrooted(&no_network(), &[attack, &port])).into(),
        control: lab.unrooted(&Sandbox::new(), &["connect", &port]),
    }
}

/// A service of the host's that listens on its loopback only.
fn service(lab: &Lab, attack: &'static str) -> Twins {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    Twins {
        inside: vec![lab.inside(&lab.hardened(), &[attack, &port])],
        control: lab.unrooted(&Sandbox::new(), &[attack, &port]),
    }
}

fn datagrams(lab: &Lab) -> Twins {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut text = [0; 16];
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut text) {
                    let _ = socket.send_to(b"pong", from);
                }
            }
        });
        let inside = vec![lab.inside(&lab.hardened(), &["send-datagram", &port])];
        let mut control = lab.unrooted(&Sandbox::new(), &["send-datagram", &port]);
        if common::is_slow() {
            // The answer has a deadline, which such a machine may miss.
            for _ in 0..5 {
                if matches!(control, crate::lab::Ran::Refused(_)) {
                    control = lab.unrooted(&Sandbox::new(), &["send-datagram", &port]);
                }
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        Twins { inside, control }
    })
}
