//! CRI's Attach, over which `kubectl attach` works, is the same below containerd's own shim and below Restow's: what is typed arrives, what
//! is said comes back, a terminal has the size that it is given, and who leaves does not end the container.
//!
//! Attach answers with the address of containerd's streaming server. It speaks the WebSocket protocol there (RFC 6455) with the
//! subprotocol `v4.channel.k8s.io`: the first byte of each message is the number of its channel.

use std::fs::File;
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, setns};
use restow_cri::api::{AttachRequest, ContainerConfig, ContainerState, PodSandboxConfig};
use restow_cri::{ContainerId, PodId};
use restow_integration::containerd::{Containerd, PROBE_IMAGE, Shim, handler};
use restow_integration::kubelet::{Kubelet, plain_container, pod_config, programs_of_node};
use restow_integration::node::Node;
use restow_integration::on_both_suites;
use restow_integration::stack::{Runtime, Stack};
use restow_integration::suite::Suite;
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};

on_both_suites!(attach_is_the_same_below_both_shims);

/// Nothing here takes longer, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The channels of the subprotocol.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const RESIZE: u8 = 4;
const SUBPROTOCOL: &str = "v4.channel.k8s.io";

/// Says what it is told, on one stream or the other.
const ECHO: &str = "while read word; do echo \"heard $word\"; echo \"also $word\" >&2; done";
/// Says the size of its terminal whenever it is asked.
const SIZE: &str = "stty -echo; while read word; do echo \"$word $(stty size)\"; done";

/// Somebody who is attached to a container.
struct Attached {
    socket: WebSocket<TcpStream>,
    /// What has been said so far, by channel.
    said: [String; 4],
}

impl Attached {
    /// Attaches to a container; with a terminal there is one stream for what it says.
    fn to(kubelet: &Kubelet, id: &ContainerId, tty: bool) -> Result<Self> {
        let request = AttachRequest {
            container_id: id.0.clone(),
            stdin: true,
            stdout: true,
            stderr: !tty,
            tty,
        };
        let mut client = kubelet.cri().runtime();
        let url = kubelet.request(client.attach(request))?.url;
        let rest = url
            .strip_prefix("http://")
            .with_context(|| format!("The streaming server is at {url}"))?;
        let (address, _) = rest.split_once('/').context("The address has no path")?;
        let stream = connect(kubelet.containerd().node(), address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut request = format!("ws://{rest}").into_client_request()?;
        request.headers_mut().insert(
            "Sec-WebSocket-Protocol",
            HeaderValue::from_static(SUBPROTOCOL),
        );
        let (socket, answer) = tungstenite::client(request, stream)
            .map_err(|error| anyhow!("Talk to the streaming server: {error}"))?;
        ensure!(
            answer.headers().get("Sec-WebSocket-Protocol")
                == Some(&HeaderValue::from_static(SUBPROTOCOL)),
            "The streaming server speaks something else: {answer:?}"
        );
        Ok(Self {
            socket,
            said: Default::default(),
        })
    }

    fn send(&mut self, channel: u8, text: &str) -> Result<()> {
        let mut data = vec![channel];
        data.extend_from_slice(text.as_bytes());
        Ok(self.socket.send(Message::binary(data))?)
    }

    /// Reads until a channel has said this; all that it has said.
    fn until(&mut self, channel: u8, wanted: &str) -> Result<String> {
        while !self.said[usize::from(channel)].contains(wanted) {
            let message = self
                .socket
                .read()
                .with_context(|| format!("It never says {wanted:?}: {:?}", self.said))?;
            match message {
                Message::Binary(data) => {
                    let (from, text) = data.split_first().context("A message has no channel")?;
                    let said = self.said.get_mut(usize::from(*from));
                    said.with_context(|| format!("There is no channel {from}"))?
                        .push_str(&String::from_utf8_lossy(text));
                }
                Message::Close(_) => bail!("It was broken off: {:?}", self.said),
                _ => {}
            }
        }
        let said = self.said[usize::from(channel)].replace('\r', "");
        Ok(said.lines().collect::<Vec<_>>().join("/"))
    }

    /// Goes away without a word.
    fn leave(self) -> Result<()> {
        Ok(self.socket.get_ref().shutdown(Shutdown::Both)?)
    }

    /// Reads until the server ends it.
    fn until_closed(mut self) -> Result<()> {
        loop {
            match self.socket.read() {
                Ok(Message::Close(_)) => return Ok(()),
                Ok(_) => {}
                Err(
                    tungstenite::Error::ConnectionClosed
                    | tungstenite::Error::AlreadyClosed
                    | tungstenite::Error::Protocol(_),
                ) => return Ok(()),
                Err(error) => return Err(error).context("The stream does not end"),
            }
        }
    }
}

/// Connects from within a node's network: a thread of its own enters it, and ends.
fn connect(node: &Node, address: &str) -> Result<TcpStream> {
    let namespace = format!("/proc/{}/ns/net", node.init()?.pid);
    let namespace = File::open(&namespace).with_context(|| format!("Open {namespace}"))?;
    let address = address.to_owned();
    let connected = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).context("Enter the node's network")?;
        TcpStream::connect(&address).with_context(|| format!("Connect to {address}"))
    });
    connected
        .join()
        .map_err(|_| anyhow!("The thread that connects panicked"))?
}

/// A pod below one shim.
struct Stage<'k> {
    kubelet: &'k Kubelet,
    pod: PodId,
    config: PodSandboxConfig,
}

impl Stage<'_> {
    /// Starts a shell in it that reads from whoever is attached.
    fn shell(&self, name: &str, script: &str, tty: bool) -> Result<ContainerId> {
        let config = ContainerConfig {
            mounts: programs_of_node(),
            stdin: true,
            tty,
            ..plain_container(name, PROBE_IMAGE, &["/bin/sh", "-c", script])
        };
        let cri = self.kubelet.cri();
        let id = self
            .kubelet
            .call(cri.create_container(&self.pod, &config, &self.config))?;
        self.kubelet.call(cri.start_container(&id))?;
        Ok(id)
    }

    fn state(&self, id: &ContainerId) -> Result<ContainerState> {
        let call = self.kubelet.cri().container_status(id, false);
        let status = self.kubelet.call(call)?.status.context("No state")?;
        Ok(status.state())
    }
}

/// What is seen below one shim.
fn account(kubelet: &Kubelet, runtime: Runtime, shim: Shim) -> Result<Vec<String>> {
    let name = format!("attach-{}", handler(runtime, shim));
    let config = pod_config(&name, &name, &format!("/kubepods/burstable/pod{name}"));
    let pod = kubelet.call(kubelet.cri().run_pod(&config, handler(runtime, shim)))?;
    let stage = Stage {
        kubelet,
        pod,
        config,
    };
    let mut seen = Vec::new();

    let echo = stage.shell("echo", ECHO, false)?;
    let mut first = Attached::to(kubelet, &echo, false)?;
    first.send(STDIN, "one\n")?;
    seen.push(first.until(STDOUT, "heard one\n")?);
    seen.push(first.until(STDERR, "also one\n")?);
    first.leave()?;
    seen.push(format!("left: {:?}", stage.state(&echo)?));
    let mut second = Attached::to(kubelet, &echo, false)?;
    second.send(STDIN, "two\n")?;
    seen.push(second.until(STDOUT, "heard two\n")?);
    // More than a pipe holds, in messages of all sizes.
    let long = "x".repeat(70_000);
    second.send(STDIN, &format!("{long}\n"))?;
    second.until(STDOUT, &format!("heard {long}\n"))?;
    kubelet.call(kubelet.cri().stop_container(&echo, Duration::ZERO))?;
    second.until_closed()?;
    seen.push(format!("stopped: {:?}", stage.state(&echo)?));

    let size = stage.shell("size", SIZE, true)?;
    let mut terminal = Attached::to(kubelet, &size, true)?;
    for (rows, columns) in [(33, 77), (11, 22)] {
        terminal.send(
            RESIZE,
            &format!("{{\"Width\":{columns},\"Height\":{rows}}}"),
        )?;
        let wanted = format!("{rows} {columns}");
        // The size goes another way than what is typed.
        let mut asked = 0;
        while !terminal.said[usize::from(STDOUT)].contains(&wanted) {
            ensure!(
                asked < 200,
                "The terminal is never {wanted}: {:?}",
                terminal.said
            );
            asked += 1;
            terminal.send(STDIN, &format!("ask{asked}\n"))?;
            terminal.until(STDOUT, &format!("ask{asked} "))?;
            std::thread::sleep(Duration::from_millis(10));
        }
        seen.push(format!("terminal: {wanted}"));
    }
    drop(terminal);
    seen.push(format!("terminal left: {:?}", stage.state(&size)?));

    kubelet.call(kubelet.cri().stop_pod(&stage.pod))?;
    kubelet.call(kubelet.cri().remove_pod(&stage.pod))?;
    Ok(seen)
}

/// What has to be seen, whatever the shim.
const MUST: &[&str] = &[
    "heard one",
    "also one",
    "left: ContainerRunning",
    "heard two",
    "stopped: ContainerExited",
    "terminal: 33 77",
    "terminal: 11 22",
    "terminal left: ContainerRunning",
];

fn attach_is_the_same_below_both_shims(suite: Suite) -> Result<()> {
    let runtime = Runtime::chosen();
    let kubelet = Kubelet::new(Rc::new(Containerd::start(Stack::v2(suite))?))?;
    for shim in [Shim::Stock, Shim::Restow] {
        let what = format!("{} on {suite}, {shim:?}", runtime.program());
        let seen = account(&kubelet, runtime, shim).with_context(|| what.clone())?;
        ensure!(seen == MUST, "{what}: {seen:#?}");
        println!("{what}: {} steps", seen.len());
    }
    Ok(())
}
