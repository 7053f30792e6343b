//! What a program is here, and how one talks to it.

use std::fs;

use anyhow::{Context, Result, ensure};
use restow_cri::api::security_profile::ProfileType;
use restow_cri::api::{
    ContainerConfig, ContainerMetadata, ImageSpec, Int64Value, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption,
    SecurityProfile,
};
use restow_cri::{ContainerId, PodId};
use restow_integration::programs::IMAGE;

use crate::command::{Lab, strings};
use crate::place::{PORT, Place, SOCKET};

/// A program.
pub(crate) struct Program {
    /// Its name, which pod, container and checkpoint have.
    pub(crate) name: &'static str,
    /// Its arguments.
    pub(crate) args: fn(Place) -> Vec<&'static str>,
    /// Its environment.
    pub(crate) environment: &'static [(&'static str, &'static str)],
    /// Files at `/settings`; LISTEN in them is where it listens.
    pub(crate) files: &'static [(&'static str, &'static str)],
    /// What LISTEN is.
    pub(crate) listen: fn(Place) -> String,
    /// Its user, if not root.
    pub(crate) user: Option<i64>,
    /// Whether it may not use io_uring.
    pub(crate) no_io_uring: bool,
    /// A capability without which it cannot be dumped.
    pub(crate) needs: Option<(u32, &'static str)>,
    /// Waits until it serves, and gives it something to keep. What is told is what it said last.
    pub(crate) before: fn(&Client<'_>) -> Result<String>,
    /// Asks for that after the move; what shows that it is there.
    pub(crate) after: fn(&Client<'_>, &str) -> Result<String>,
}

/// One with nothing of its own.
pub(crate) const PLAIN: Program = Program {
    name: "",
    args: |_| Vec::new(),
    environment: &[],
    files: &[],
    listen: |_| String::new(),
    user: None,
    no_io_uring: false,
    needs: None,
    before: |_| Ok(String::new()),
    after: |_, _| Ok(String::new()),
};

/// Where the node has a filter of system calls that leaves out io_uring, as a pod asks for it with `seccompProfile`.
pub(crate) const NO_IO_URING: &str = "/var/lib/kubelet/seccomp/no-io-uring.json";

impl Program {
    /// Its container. With a `limit` it has one of CPU time, which some of them read, and keep the file of.
    pub(crate) fn container(&self, place: Place, limit: bool) -> ContainerConfig {
        let args = (self.args)(place);
        let limit = limit.then(|| LinuxContainerResources {
            cpu_quota: 200_000,
            cpu_period: 100_000,
            ..LinuxContainerResources::default()
        });
        ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: self.name.to_owned(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: IMAGE.to_owned(),
                ..ImageSpec::default()
            }),
            command: strings(&args[..1]),
            args: strings(&args[1..]),
            working_dir: "/tmp".to_owned(),
            envs: self
                .environment
                .iter()
                .map(|(key, value)| KeyValue {
                    key: (*key).to_owned(),
                    value: (*value).to_owned(),
                })
                .collect(),
            linux: Some(LinuxContainerConfig {
                resources: limit,
                security_context: Some(LinuxContainerSecurityContext {
                    run_as_user: self.user.map(|value| Int64Value { value }),
                    namespace_options: Some(NamespaceOption {
                        pid: NamespaceMode::Container.into(),
                        ..NamespaceOption::default()
                    }),
                    seccomp: self.no_io_uring.then(|| SecurityProfile {
                        profile_type: ProfileType::Localhost.into(),
                        localhost_ref: NO_IO_URING.to_owned(),
                    }),
                    ..LinuxContainerSecurityContext::default()
                }),
            }),
            ..ContainerConfig::default()
        }
    }

    /// Its files.
    pub(crate) fn settings(&self, place: Place) -> Vec<(&'static str, String)> {
        let listen = (self.listen)(place);
        self.files
            .iter()
            .map(|(name, text)| (*name, text.replace("LISTEN", &listen)))
            .collect()
    }
}

/// Who talks to a program: in its container, with its own client.
pub(crate) struct Client<'l> {
    pub(crate) lab: &'l Lab,
    pub(crate) container: ContainerId,
    pub(crate) place: Place,
}

impl Client<'_> {
    pub(crate) fn run(&self, program: &[&str]) -> Result<String> {
        self.lab.exec(&self.container, program)
    }

    /// Runs it again and again until it succeeds.
    pub(crate) fn insist(&self, program: &[&str]) -> Result<String> {
        let what = format!("{program:?} succeeds");
        match self.lab.until(&what, || Ok(self.run(program).is_ok())) {
            Ok(()) => self.run(program),
            // What it says in the end.
            Err(error) => self.run(program).context(error),
        }
    }

    /// curl, with these options before the path of what is asked for.
    pub(crate) fn curl(&self, options: &[&str], path: &str) -> Result<String> {
        let url = format!("http://localhost:{PORT}{path}");
        self.run(&[&self.curl_words()[..], options, &[&url]].concat())
    }

    /// The same until there is an answer.
    pub(crate) fn curl_insist(&self, path: &str) -> Result<String> {
        let url = format!("http://localhost:{PORT}{path}");
        self.insist(&[&self.curl_words()[..], &[&url]].concat())
    }

    fn curl_words(&self) -> Vec<&'static str> {
        let mut words = vec!["curl", "--silent", "--show-error", "--fail"];
        if self.place == Place::Unix {
            words.extend(["--unix-socket", SOCKET]);
        }
        words
    }

    /// Somebody on the node can connect to it at its pod's address.
    pub(crate) fn connect_from_outside(&self, pod: &PodId) -> Result<()> {
        let status = self.lab.call(self.lab.cri().pod_status(pod, false))?.status;
        let network = status.and_then(|status| status.network);
        let address = network.context("The pod has no address")?.ip;
        let connect = format!("exec 3<>/dev/tcp/{address}/{PORT}");
        self.lab.containerd.run("bash", &["-c", &connect])?;
        Ok(())
    }
}

/// Whether this process has a capability, by its number.
pub(crate) fn has_capability(number: u32) -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("Read /proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.context("/proc/self/status has no CapEff")?;
    Ok(u64::from_str_radix(mask.trim(), 16)? & (1 << number) != 0)
}

/// The number in a text.
pub(crate) fn number(text: &str) -> Result<u64> {
    text.trim()
        .parse()
        .with_context(|| format!("{text:?} is no number"))
}

/// Says what is not as it has to be.
pub(crate) fn same(what: &str, found: &str, expected: &str) -> Result<()> {
    ensure!(
        found.trim() == expected.trim(),
        "{what} is {:?}, not {:?}",
        found.trim(),
        expected.trim()
    );
    Ok(())
}
