//! `path.bind`, `path.mark` and `path.dscp`, read back from the sockets of a running edge.

use std::{
    fs, io,
    net::SocketAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use littoral_tests::{
    artefact,
    client::Client,
    edge::Edge,
    eventually,
    instant_node::{InstantNode, MODEL, Script},
    openai_server::{Conduct, OpenAiServer},
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(15);

/// What a connection of another process was given.
#[derive(Debug, PartialEq)]
struct Given {
    from: String,
    mark: libc::c_int,
    tos: libc::c_int,
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system call has just made the descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A copy of a descriptor of another process; needs the right to trace it.
fn borrowed(process: &OwnedFd, number: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers; the call touches no memory of this process.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })
}

fn option(socket: &OwnedFd, level: libc::c_int, name: libc::c_int) -> libc::c_int {
    let mut value: libc::c_int = -1;
    let mut length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: both pointers are to locals that outlive the call, and `length` says how large the value is.
    let done = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &mut length) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
    value
}

/// The connections of the process `pid` to `to`.
fn connections(pid: u32, to: SocketAddr) -> Vec<Given> {
    // SAFETY: plain numbers; the call touches no memory of this process.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).expect("the edge runs");
    let numbers = fs::read_dir(format!("/proc/{pid}/fd")).expect("the edge runs").flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let sockets = numbers.filter_map(|number| borrowed(&process, number).ok());
    let given = |socket: OwnedFd| {
        let stream = std::net::TcpStream::from(socket.try_clone().ok()?);
        let (peer, local) = (stream.peer_addr().ok()?, stream.local_addr().ok()?);
        (peer == to).then(|| Given {
            from: local.ip().to_string(),
            mark: option(&socket, libc::SOL_SOCKET, libc::SO_MARK),
            tos: option(&socket, libc::IPPROTO_IP, libc::IP_TOS),
        })
    };
    sockets.filter_map(given).collect()
}

/// Whether this process may mark its connections (CAP_NET_ADMIN); if not, no edge that it starts may.
fn may_mark() -> bool {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mark: libc::c_int = 1;
    let (value, length) = ((&raw const mark).cast(), size_of_val(&mark) as libc::socklen_t);
    // SAFETY: the pointer is to a local that outlives the call, and `length` says how large it is.
    unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MARK, value, length) == 0 }
}

#[tokio::test]
async fn an_address_that_is_not_this_hosts_is_named_in_the_log() {
    let (near, far) = (InstantNode::start("near", Script::default()), OpenAiServer::start(Conduct::Silent));
    let nodes = artefact::scratch("paths").join("nodes.toml");
    let section = format!("[[node]]\nname = 'near'\naddress = '{}'\npath.bind = '203.0.113.1'\n", near.address());
    fs::write(&nodes, section).unwrap();
    let setup = Edge::to(&[])
        .upstream("far", &far.url(), "path.bind = '203.0.113.2'")
        .with("fleet", &format!("nodes_file = '{}'", nodes.display()));
    let edge = setup.start();
    for bind in ["203.0.113.1", "203.0.113.2"] {
        let why = format!("path.bind = '{bind}' cannot be used: Cannot assign requested address");
        eventually(&why, SOON, async || edge.process.log().contains(&why)).await;
    }
}

#[tokio::test]
async fn connections_to_a_node_of_either_kind_take_its_path() {
    if !may_mark() {
        eprintln!("skipped: marking connections needs CAP_NET_ADMIN");
        return;
    }
    let (near, far) =
        (InstantNode::start("near", Script::default()), OpenAiServer::start(Conduct::Tokens(3, Duration::ZERO)));
    let nodes = artefact::scratch("paths").join("nodes.toml");
    let section =
        format!("[[node]]\naddress = '{}'\npath = {{ bind = '127.0.0.5', mark = 77, dscp = 46 }}\n", near.address());
    fs::write(&nodes, section).unwrap();
    let setup = Edge::to(&[])
        .upstream("far", &far.url(), "path = { bind = '127.0.0.6', mark = 78, dscp = 10 }")
        .with("fleet", &format!("nodes_file = '{}'", nodes.display()));
    let edge = setup.start();
    let health = Client::new(edge.http);
    eventually("the nodes", SOON, async || health.get("/healthz").await.status == 200).await;
    for model in [MODEL, "upstream"] {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
        let answered = async || edge.client().chat(&body).await.status == 200;
        eventually("an answer", SOON, answered).await;
    }
    let port = far.url().trim_start_matches("http://").trim_end_matches("/v1").parse().unwrap();
    for (to, from, mark, dscp) in [(near.address(), "127.0.0.5", 77, 46), (port, "127.0.0.6", 78, 10)] {
        let found = connections(edge.process.pid(), to);
        assert!(!found.is_empty(), "no connection to {to}");
        for given in found {
            assert_eq!(given, Given { from: from.into(), mark, tos: dscp << 2 });
        }
    }
}
