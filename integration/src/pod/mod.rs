//! A pod laid out as the kubelet and containerd do: a sandbox that holds the namespaces, a cgroup, files that they manage.

mod options;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cgroup_names::systemd_path;
use crate::container::{BUNDLES, Container};
use crate::engine::{Engine, Mode, Runtime};
use crate::kubelet::{Managed, Sandbox, SandboxInput, container_config, labels};
use crate::network::{self, ipv6_of};
use crate::node::{CgroupView, remove_tree};
use crate::spec::{Bind, CgroupNamespace, SpecInput, spec};

pub use self::options::{ContainerOptions, PodOptions, Qos};

/// A pod with its sandbox running.
#[derive(Debug)]
pub struct Pod<'e> {
    engine: &'e Engine,
    options: PodOptions,
    uid: String,
    sandbox: Container<'e>,
    /// The same, when containerd has the care of it.
    managed: Option<Sandbox>,
    /// Its IPv6 address.
    ipv6: String,
}

impl<'e> Pod<'e> {
    /// Makes the pod's directories and cgroup and starts its sandbox.
    pub fn start(engine: &'e Engine, options: &PodOptions) -> Result<Self> {
        if engine.kubelet().is_some() {
            return Self::start_managed(engine, options);
        }
        let uid = fresh_uuid()?;
        let id = fresh_id()?;
        let cgroup = options.driver.pod(options.qos, &uid);
        let own = container_cgroup(engine, options, &uid, &id);
        let spec = spec(&SpecInput {
            args: &["/probe".to_owned(), "pause".to_owned()],
            sandbox: None,
            hostname: &options.name,
            cgroups_path: &cgroups_path(engine, options.qos, &uid, &id, &own),
            cgroup_namespace: CgroupNamespace::Private,
            cgroup_view: engine.node().state().cgroup_view,
            binds: &[],
            privileged: false,
            hardened: false,
            user: 0,
            resources: &json!({}),
            annotations: &json!({
                "io.kubernetes.cri.container-type": "sandbox",
                "io.kubernetes.cri.sandbox-id": id,
                "io.kubernetes.cri.sandbox-name": options.name,
                "io.kubernetes.cri.sandbox-namespace": "default",
                "io.kubernetes.cri.sandbox-uid": uid,
            }),
        });
        let log = format!("/run/containerd/{id}.log");
        fs::create_dir_all(engine.node().path("/run/containerd"))
            .context("Create /run/containerd in the node")?;
        let mut sandbox = Container::create(engine, &id, &own, &log, &spec, 0)?;
        // systemd makes a pod's slice with the first scope in it.
        if !engine.systemd() {
            make_cgroup(engine, &cgroup)?;
        }
        sandbox
            .start()
            .with_context(|| format!("Start the sandbox of {}", options.name))?;
        if options.network {
            let v6 = ipv6_of(&options.address);
            network::attach(engine, sandbox.init()?, [&options.address, &v6])?;
        }
        let pod = Self {
            engine,
            options: options.clone(),
            uid,
            sandbox,
            managed: None,
            ipv6: ipv6_of(&options.address),
        };
        pod.write_files()?;
        Ok(pod)
    }

    /// Has containerd make the sandbox, and does what the kubelet does before and after.
    fn start_managed(engine: &'e Engine, options: &PodOptions) -> Result<Self> {
        let kubelet = engine.kubelet().context("There is no kubelet")?;
        let uid = fresh_uuid()?;
        let mut options = options.clone();
        let cgroup = options.driver.pod(options.qos, &uid);
        make_cgroup(engine, &cgroup)?;
        let log_directory = log_dir(&options.name, &uid);
        let sandbox = Sandbox::run(
            kubelet,
            engine.runtime(),
            engine.mode(),
            &SandboxInput {
                name: &options.name,
                uid: &uid,
                cgroup_parent: &cgroup,
                log_directory: &log_directory,
                annotations: &[],
            },
        )?;
        let [v4, ipv6] = sandbox.addresses()?;
        options.address = v4;
        let managed = Managed::sandbox(&sandbox, engine.mode());
        let pod = Self {
            engine,
            uid,
            sandbox: Container::managed(engine, &cgroup, "", managed, 0),
            options,
            managed: Some(sandbox),
            ipv6,
        };
        pod.write(&format!("{}/etc-hosts", pod.dir()), &pod.hosts())?;
        // Projected volumes are in memory, each a file system of its own.
        let token = pod.token();
        fs::create_dir_all(engine.node().path(&token))
            .with_context(|| format!("Create {token} in the node"))?;
        let options = ["-t", "tmpfs", "-o", "size=1m", "tmpfs", &token];
        engine.run("mount", &options)?;
        pod.projected(&token, "token", &pod.uid)?;
        Ok(pod)
    }

    /// The volume of its service account's token, as a path of the node.
    fn token(&self) -> String {
        let name = format!("kube-api-access-{}", &self.uid[..5]);
        format!("{}/volumes/kubernetes.io~projected/{name}", self.dir())
    }

    fn hosts(&self) -> String {
        format!(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n{}\t{}\n",
            self.options.address, self.options.name
        )
    }

    /// The files that the kubelet and containerd make for a pod.
    fn write_files(&self) -> Result<()> {
        let name = &self.options.name;
        let hosts = self.hosts();
        let sandbox = self.sandbox_dir();
        self.write(&format!("{}/etc-hosts", self.dir()), &hosts)?;
        self.write(&format!("{sandbox}/hostname"), &format!("{name}\n"))?;
        let resolv = format!(
            "search default.svc.cluster.local {name}.local\nnameserver 10.96.0.10\noptions ndots:5\n"
        );
        self.write(&format!("{sandbox}/resolv.conf"), &resolv)?;
        let shm = self.shm();
        fs::create_dir_all(self.engine.node().path(&shm))
            .with_context(|| format!("Create {shm} in the node"))?;
        let options = "nosuid,noexec,nodev,mode=1777,size=65536k";
        self.engine
            .run("mount", &["-t", "tmpfs", "-o", options, "shm", &shm])
            .map(drop)
    }

    /// Writes a file of the node, with the directories it needs.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let target = self.engine.node().path(path);
        let dir = target.parent().context("A file needs a directory")?;
        fs::create_dir_all(dir).with_context(|| format!("Create {}", dir.display()))?;
        fs::write(&target, text).with_context(|| format!("Write {path} in the node"))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Its addresses, IPv4 and IPv6.
    #[must_use]
    pub fn addresses(&self) -> [String; 2] {
        [self.options.address.clone(), self.ipv6.clone()]
    }

    /// Its directory, as a path of the node.
    #[must_use]
    pub fn dir(&self) -> String {
        format!("/var/lib/kubelet/pods/{}", self.uid)
    }

    /// One of its volumes that are empty at first, as a path of the node.
    #[must_use]
    pub fn empty_volume(&self, number: usize) -> String {
        let name = format!("kubernetes.io~empty-dir/empty-{number}");
        format!("{}/volumes/{name}", self.dir())
    }

    /// What it runs in.
    #[must_use]
    pub fn engine(&self) -> &'e Engine {
        self.engine
    }

    /// Its cgroup below the node's root.
    #[must_use]
    pub fn cgroup(&self) -> String {
        self.options.driver.pod(self.options.qos, &self.uid)
    }

    /// The cgroup of its quality of service, below the node's root.
    #[must_use]
    pub fn qos_cgroup(&self) -> String {
        self.options.driver.qos(self.options.qos)
    }

    /// Its cgroup in version 2, as a path of the host.
    #[must_use]
    pub fn cgroup_dir(&self) -> PathBuf {
        self.engine.node().cgroup_root().join(&self.cgroup()[1..])
    }

    /// Its sandbox.
    #[must_use]
    pub fn sandbox(&self) -> &Container<'e> {
        &self.sandbox
    }

    fn sandbox_dir(&self) -> String {
        format!(
            "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/{}",
            self.sandbox.id()
        )
    }

    fn shm(&self) -> String {
        format!(
            "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/{}/shm",
            self.sandbox.id()
        )
    }

    fn log_dir(&self) -> String {
        log_dir(&self.options.name, &self.uid)
    }

    /// Makes a container in it, ready to be started or restored.
    pub fn container(&self, options: &ContainerOptions) -> Result<Container<'e>> {
        if let Some(sandbox) = &self.managed {
            return self.managed_container(sandbox, options);
        }
        let id = fresh_id()?;
        let qos = self.options.qos;
        let cgroup = container_cgroup(self.engine, &self.options, &self.uid, &id);
        let termination = format!("{}/containers/{}/{}", self.dir(), options.name, &id[..8]);
        self.write(&termination, "")?;
        let mut binds = vec![
            Bind::new(format!("{}/etc-hosts", self.dir()), "/etc/hosts"),
            Bind::new(termination, "/dev/termination-log"),
            Bind::new(format!("{}/hostname", self.sandbox_dir()), "/etc/hostname"),
            Bind::new(
                format!("{}/resolv.conf", self.sandbox_dir()),
                "/etc/resolv.conf",
            ),
            Bind::new(self.shm(), "/dev/shm"),
        ];
        if options.hardened {
            // The reports are the one place where the probe writes.
            binds.push(Bind::new(
                format!("{BUNDLES}/{id}/rootfs/reports"),
                "/reports",
            ));
        }
        binds.extend(self.volumes(options)?);
        let mut args = vec![
            "/probe".to_owned(),
            "run".to_owned(),
            "--children".to_owned(),
            options.children.to_string(),
        ];
        args.extend(options.probe.iter().map(|arg| self.expand(arg, &cgroup)));
        let mut spec = spec(&SpecInput {
            args: &args,
            sandbox: Some(self.sandbox.init()?),
            hostname: &self.options.name,
            cgroups_path: &cgroups_path(self.engine, qos, &self.uid, &id, &cgroup),
            cgroup_namespace: options.cgroup_namespace,
            cgroup_view: self.engine.node().state().cgroup_view,
            binds: &binds,
            privileged: options.privileged,
            hardened: options.hardened,
            user: options.user,
            resources: &options.resources,
            annotations: &self.annotations(options),
        });
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.extend(options.mounts.iter().cloned());
        }
        if let Some(environment) = spec["process"]["env"].as_array_mut() {
            environment.extend(options.environment.iter().map(|text| json!(text)));
        }
        if let Some(score) = options.oom_score {
            spec["process"]["oomScoreAdj"] = json!(score);
        }
        if options.share_processes {
            let namespace = format!("/proc/{}/ns/pid", self.sandbox.init()?);
            let namespaces = spec["linux"]["namespaces"].as_array_mut();
            for entry in namespaces
                .into_iter()
                .flatten()
                .filter(|entry| entry["type"] == "pid")
            {
                entry["path"] = json!(namespace);
            }
        }
        let log = format!("{}/{}/0.log", self.log_dir(), options.name);
        self.write(&log, "")?;
        let left_open = options.left_open.iter();
        let left_open = left_open.map(|path| self.expand(path, &cgroup)).collect();
        let container =
            Container::create(self.engine, &id, &cgroup, &log, &spec, options.children + 1)?;
        Ok(container.leave_open(left_open))
    }

    /// Makes the volumes of a container.
    fn volumes(&self, options: &ContainerOptions) -> Result<Vec<Bind>> {
        let mut binds = options.binds.clone();
        for (number, target) in options.volumes.iter().enumerate() {
            let volume = format!(
                "{}/volumes/kubernetes.io~empty-dir/volume-{number}",
                self.dir()
            );
            self.write(&format!("{volume}/pod"), &self.options.name)?;
            binds.push(Bind::new(volume, target.clone()));
        }
        for (number, target) in options.empty_volumes.iter().enumerate() {
            let volume = self.empty_volume(number);
            let dir = self.engine.node().path(&volume);
            fs::create_dir_all(&dir).with_context(|| format!("Create {volume}"))?;
            binds.push(Bind::new(volume, target.clone()));
        }
        for (number, target) in options.config_maps.iter().enumerate() {
            let name = format!("kubernetes.io~configmap/map-{number}");
            let map = format!("{}/volumes/{name}", self.dir());
            self.projected(&map, "pod", &self.options.name)?;
            binds.push(Bind::new(map, target.clone()).readonly());
        }
        Ok(binds)
    }

    /// A container that containerd makes, with what the kubelet gives each.
    fn managed_container(
        &self,
        sandbox: &Sandbox,
        options: &ContainerOptions,
    ) -> Result<Container<'e>> {
        let termination = format!(
            "{}/containers/{}/{}",
            self.dir(),
            options.name,
            &fresh_id()?[..8]
        );
        self.write(&termination, "")?;
        let mut binds = vec![
            Bind::new(format!("{}/etc-hosts", self.dir()), "/etc/hosts"),
            Bind::new(termination, "/dev/termination-log"),
            Bind::new(
                self.token(),
                "/var/run/secrets/kubernetes.io/serviceaccount",
            )
            .readonly(),
        ];
        let reports = options
            .hardened
            .then(|| format!("{}/reports-{}", self.dir(), options.name));
        if let Some(dir) = &reports {
            // The one place where the probe writes.
            fs::create_dir_all(self.engine.node().path(dir))
                .with_context(|| format!("Create {dir}"))?;
            binds.push(Bind::new(dir.clone(), "/reports"));
        }
        binds.extend(self.volumes(options)?);
        // The runtime chooses the container's id; the probe knows its cgroup when it runs.
        let own = format!("{}/@id@", self.cgroup());
        let mut args = vec![
            "/probe".to_owned(),
            "run".to_owned(),
            "--children".to_owned(),
            options.children.to_string(),
        ];
        args.extend(options.probe.iter().map(|arg| self.expand(arg, &own)));
        let mut labels = labels(&self.options.name, &self.uid);
        labels.insert(
            "io.kubernetes.container.name".to_owned(),
            options.name.clone(),
        );
        let config = container_config(options, self.engine.image(), &args, &binds, labels)?;
        let mut annotations = options.annotations.clone();
        if self.engine.mode() == Mode::Restow && options.opt_in {
            annotations.push(("restow.dev/enabled".to_owned(), "true".to_owned()));
        }
        let managed = Managed::new(sandbox, self.engine.mode(), config, &annotations);
        let log = format!("{}/{}/0.log", self.log_dir(), options.name);
        let processes = options.children + 1;
        let container = Container::managed(self.engine, &self.cgroup(), &log, managed, processes);
        Ok(container.reports_in(reports))
    }

    /// Writes a volume with one key as the kubelet does: a directory named after the time, a link `..data` to it, a link for the key.
    fn projected(&self, dir: &str, key: &str, content: &str) -> Result<()> {
        // Another time in each pod.
        let seconds = u32::from_str_radix(&self.uid[..4], 16).unwrap_or(0);
        let version = format!("..2026_01_02_03_04_05.{seconds}");
        self.write(&format!("{dir}/{version}/{key}"), content)?;
        let data = format!("..data/{key}");
        for (link, to) in [("..data", version.as_str()), (key, data.as_str())] {
            let path = self.engine.node().path(dir).join(link);
            if path.symlink_metadata().is_err() {
                symlink(to, &path).with_context(|| format!("Link {dir}/{link}"))?;
            }
        }
        Ok(())
    }

    fn expand(&self, arg: &str, container: &str) -> String {
        let mount = match self.engine.node().state().cgroup_view {
            CgroupView::V2 => "/sys/fs/cgroup",
            CgroupView::Hybrid => "/sys/fs/cgroup/unified",
        };
        arg.replace("{container}", &format!("{mount}{container}"))
            .replace("{pod}", &format!("{mount}{}", self.cgroup()))
            .replace("{qos}", &format!("{mount}{}", self.qos_cgroup()))
            .replace("{path}", container)
            .replace("{ip4}", &self.options.address)
            .replace("{ip6}", &self.ipv6)
    }

    fn annotations(&self, options: &ContainerOptions) -> Value {
        let mut annotations = json!({
            "io.kubernetes.cri.container-name": options.name,
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": self.sandbox.id(),
            "io.kubernetes.cri.sandbox-name": self.options.name,
            "io.kubernetes.cri.sandbox-namespace": "default",
            "io.kubernetes.cri.sandbox-uid": self.uid,
        });
        if self.engine.mode() == Mode::Restow && options.opt_in {
            annotations["restow.dev/enabled"] = json!("true");
        }
        for (name, value) in &options.annotations {
            annotations[name] = json!(value);
        }
        annotations
    }

    /// Removes it whole: containers first, then sandbox, directories, logs and cgroups.
    pub fn remove(mut self, containers: Vec<Container<'e>>) -> Result<()> {
        for mut container in containers {
            container.remove()?;
        }
        let node = self.engine.node();
        let mut dirs = vec![self.dir(), self.log_dir()];
        if let Some(sandbox) = &self.managed {
            sandbox.remove()?;
            self.engine.run("umount", &[&self.token()])?;
        } else {
            self.sandbox.remove()?;
            self.engine.run("umount", &[&self.shm()])?;
            dirs.push(self.sandbox_dir());
        }
        for dir in dirs {
            fs::remove_dir_all(node.path(&dir))
                .with_context(|| format!("Remove {dir} in the node"))?;
        }
        if self.engine.systemd() {
            let cgroup = self.cgroup();
            let slice = cgroup.rsplit('/').next().unwrap_or_default();
            self.engine.run("systemctl", &["stop", slice])?;
        }
        remove_tree(&self.cgroup_dir(), Duration::from_secs(10))?;
        if node.state().cgroup_view == CgroupView::Hybrid {
            for controller in node.state().cgroups.v1_hierarchies() {
                if let Some(root) = node.cgroup_v1_root(controller) {
                    remove_tree(&root.join(&self.cgroup()[1..]), Duration::from_secs(10))?;
                }
            }
        }
        Ok(())
    }
}

/// Makes a pod's cgroup, as the kubelet does with its own driver.
fn make_cgroup(engine: &Engine, cgroup: &str) -> Result<()> {
    fs::create_dir_all(engine.node().cgroup_root().join(&cgroup[1..]))
        .with_context(|| format!("Create the pod's cgroup {cgroup}"))
}

/// Where the logs of a pod's containers are, as a path of the node.
fn log_dir(name: &str, uid: &str) -> String {
    format!("/var/log/pods/default_{name}_{uid}")
}

/// Where a container's tasks are, below the node's root.
fn container_cgroup(engine: &Engine, options: &PodOptions, uid: &str, id: &str) -> String {
    let cgroup = options.driver.container(options.qos, uid, id);
    // crun keeps a scope of systemd's for itself and puts the tasks below it (src/libcrun/cgroup-systemd.c).
    if engine.systemd() && engine.runtime() == Runtime::Crun {
        format!("{cgroup}/container")
    } else {
        cgroup
    }
}

/// `linux.cgroupsPath`, as the cgroup driver wants it.
fn cgroups_path(engine: &Engine, qos: Qos, uid: &str, id: &str, cgroup: &str) -> String {
    if engine.systemd() {
        systemd_path(qos, uid, id)
    } else {
        cgroup.to_owned()
    }
}

fn fresh_uuid() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    Ok(fs::read_to_string(path)
        .with_context(|| format!("Read {path}"))?
        .trim()
        .to_owned())
}

/// 64 hexadecimal digits, as containerd names containers.
fn fresh_id() -> Result<String> {
    Ok(format!("{}{}", fresh_uuid()?, fresh_uuid()?).replace('-', ""))
}
