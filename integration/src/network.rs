//! A pod network as a CNI plugin of the bridge kind makes it: a bridge in the node's network namespace, and for each sandbox a pair of
//! virtual interfaces, one end on the bridge and the other as `eth0` in the sandbox, with an address of each family.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};

use crate::engine::{Engine, PROBE};

/// The node's own addresses on the bridge: what is outside every pod.
pub const OUTSIDE: [&str; 2] = ["10.88.0.1", "fd88::1"];

/// The IPv6 address that goes with a pod's IPv4 address.
#[must_use]
pub fn ipv6_of(address: &str) -> String {
    let last = address.rsplit('.').next().unwrap_or_default();
    format!("fd88::{last}")
}

/// Gives the network namespace of the process `sandbox` (of the node) a loopback interface and an `eth0` with these addresses.
///
/// Duplicate address detection is off, as CNI plugins wait for its end.
pub(crate) fn attach(engine: &Engine, sandbox: i32, addresses: [&str; 2]) -> Result<()> {
    let [v4, v6] = addresses;
    let [gateway4, gateway6] = OUTSIDE;
    let bridge = bridge_script();
    let script = format!(
        "{bridge}
ip link add veth{sandbox} type veth peer name eth0 netns {sandbox}
ip link set veth{sandbox} master cni0 up
exec nsenter --target {sandbox} --net sh -ec '
    ip link set lo up
    ip address add {v4}/24 dev eth0
    ip address add {v6}/64 dev eth0 nodad
    ip link set eth0 up
    ip route add default via {gateway4}
    ip route add default via {gateway6}'"
    );
    engine
        .run("sh", &["-c", &script])
        .map(drop)
        .context("Give a sandbox its network")
}

/// A server outside every pod, which answers on TCP and UDP until it is dropped.
#[derive(Debug)]
pub struct Outside {
    /// Holds the pipe that keeps it serving.
    server: Child,
}

impl Outside {
    /// Starts one at `address`, in the node's own network namespace. The bridge must be there.
    pub fn start(engine: &Engine, address: &str) -> Result<Self> {
        let mut command = engine.node().command(PROBE);
        command
            .args(["serve", address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut server = command.spawn().context("Start a server outside")?;
        let output = server.stdout.take().context("The server has no output")?;
        let mut line = String::new();
        BufReader::new(output)
            .read_line(&mut line)
            .context("Listen to the server outside")?;
        if line.trim() != "serving" {
            bail!("The server outside does not serve {address}");
        }
        Ok(Self { server })
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        drop(self.server.stdin.take());
        // It ends with its input; the node would end it anyway.
        let _ = self.server.wait();
    }
}

/// What a server at `address` answers to a word from outside every pod.
pub fn ask(engine: &Engine, kind: &str, address: &str) -> Result<String> {
    engine
        .run(PROBE, &["ask", kind, address])
        .map(|answer| answer.trim().to_owned())
}

/// Makes the bridge, for what has to be outside before there is a pod.
pub fn bridge(engine: &Engine) -> Result<()> {
    let script = bridge_script();
    engine.run("sh", &["-c", &script]).map(drop)
}

/// The bridge's own address is not looked for in duplicate: it would be again with every first pod that comes onto the bridge, and for
/// seconds nobody could be answered from it.
pub(crate) fn bridge_script() -> String {
    let [v4, v6] = OUTSIDE;
    format!(
        "set -e
ip link show cni0 >/dev/null 2>&1 || {{
    ip link add cni0 type bridge
    ip address add {v4}/24 dev cni0
    ip address add {v6}/64 dev cni0 nodad
    ip link set cni0 up
}}"
    )
}
