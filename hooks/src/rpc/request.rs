//! Requests, as far as they are read and changed.

use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use criu_image::wire::{Error, Message};
use restow::ids::{CgroupPath, ContainerPath, HostPath};
use restow::source::Hierarchy;
use restow::target::TargetMount;

use super::{opts, req};

/// `criu_cg_mode`, as far as it is set here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMode {
    /// CRIU leaves cgroups alone.
    Ignore = 0,
    /// CRIU makes missing cgroups and moves tasks to where the image says, below `cg_root`.
    Soft = 3,
}

/// A DUMP or RESTORE request.
#[derive(Debug, Clone)]
pub struct Request {
    message: Message<'static>,
    opts: Message<'static>,
}

impl Request {
    /// Parses a request; one without options has empty ones.
    ///
    /// # Errors
    /// When it is no protobuf message.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let message = Message::parse(bytes)?.into_owned();
        let opts = match message.bytes(req::OPTS) {
            Some(bytes) => Message::parse(bytes)?.into_owned(),
            None => Message::default(),
        };
        Ok(Self { message, opts })
    }

    /// The request as bytes.
    pub fn encode(mut self) -> Vec<u8> {
        self.message.set_bytes(req::OPTS, self.opts.encode());
        self.message.encode()
    }

    fn number(&self, field: u32) -> Option<i32> {
        self.opts.i32(field)
    }

    fn text(&self, field: u32) -> Option<&str> {
        self.opts.str(field)
    }

    /// The client's descriptor of the image directory.
    pub fn images_dir_fd(&self) -> Option<RawFd> {
        self.number(opts::IMAGES_DIR_FD).filter(|fd| *fd >= 0)
    }

    /// The image directory's path, which counts only without a descriptor.
    pub fn images_dir(&self) -> Option<PathBuf> {
        self.text(opts::IMAGES_DIR).map(PathBuf::from)
    }

    /// The client's descriptor of the work directory.
    pub fn work_dir_fd(&self) -> Option<RawFd> {
        self.number(opts::WORK_DIR_FD)
    }

    /// The client's descriptor to which CRIU writes when it is ready (`--status-fd`).
    pub fn status_fd(&self) -> Option<RawFd> {
        self.number(opts::STATUS_FD)
    }

    /// The process to dump; without one CRIU dumps its client.
    pub fn pid(&self) -> Option<i32> {
        self.number(opts::PID)
    }

    /// Name of CRIU's log in the work directory.
    pub fn log_file(&self) -> Option<&str> {
        self.text(opts::LOG_FILE)
    }

    /// Whether the client asks for notifications.
    pub fn notifies(&self) -> bool {
        self.opts.bool(opts::NOTIFY_SCRIPTS).unwrap_or(false)
    }

    /// The sources of external mounts: `ext_mnt` and `external mnt[key]:source`.
    pub fn external_mounts(&self) -> Result<Vec<TargetMount>, Error> {
        let mut mounts = Vec::new();
        for entry in self.opts.messages(opts::EXT_MNT) {
            let entry = entry?;
            if let (Some(key), Some(source)) = (entry.str(1), entry.str(2)) {
                mounts.push(TargetMount {
                    key: key.to_owned(),
                    source: HostPath::new(source),
                });
            }
        }
        for text in self.opts.strs(opts::EXTERNAL) {
            if let Some((key, source)) = text
                .strip_prefix("mnt[")
                .and_then(|rest| rest.split_once("]:"))
            {
                mounts.push(TargetMount {
                    key: key.to_owned(),
                    source: HostPath::new(source),
                });
            }
        }
        Ok(mounts)
    }

    /// Keys of the objects that the client hands in by descriptor.
    pub fn inherited(&self) -> Result<BTreeSet<String>, Error> {
        let keys = self.opts.messages(opts::INHERIT_FD);
        keys.filter_map(|entry| {
            entry
                .map(|entry| entry.str(1).map(str::to_owned))
                .transpose()
        })
        .collect()
    }

    /// The descriptor in this process under which the client hands in the object with this key.
    pub fn inherited_descriptor(&self, key: &str) -> Result<Option<RawFd>, Error> {
        for entry in self.opts.messages(opts::INHERIT_FD) {
            let entry = entry?;
            if entry.str(1) == Some(key) {
                return Ok(entry.i32(2));
            }
        }
        Ok(None)
    }

    /// Whether the tree goes on after the dump.
    pub fn leaves_running(&self) -> bool {
        self.opts.bool(opts::LEAVE_RUNNING).unwrap_or(false)
    }

    /// Whether the network namespace of the dumped tree is somebody else's too, such as a sandbox's.
    pub fn external_network(&self) -> bool {
        self.opts
            .strs(opts::EXTERNAL)
            .any(|key| key.starts_with("net["))
    }

    /// Lets CRIU go on when somebody is connecting to a listening socket (`--tcp-skip-in-flight`).
    pub fn skip_connecting(&mut self) {
        self.opts.set_bool(opts::TCP_SKIP_IN_FLIGHT, true);
    }

    /// Has CRIU dump locks and leases on files, or take them again (`--file-locks`).
    pub fn keep_file_locks(&mut self) {
        self.opts.set_bool(opts::FILE_LOCKS, true);
    }

    /// Has CRIU dump or restore TCP connections with what is in their queues, whatever the client said of them.
    pub fn keep_connections(&mut self) {
        self.opts.set_bool(opts::TCP_ESTABLISHED, true);
        self.opts.remove(opts::TCP_CLOSE);
    }

    /// Has CRIU restore a checkpoint that was made with `--tcp-close`: it wants to be told again.
    pub fn close_connections(&mut self) {
        self.opts.set_bool(opts::TCP_CLOSE, true);
    }

    /// The cgroup roots the runtime asks for; without a controller it is for all hierarchies.
    pub fn cgroup_roots(&self) -> Result<Vec<(Option<Hierarchy>, CgroupPath)>, Error> {
        let mut roots = Vec::new();
        for entry in self.opts.messages(opts::CG_ROOT) {
            let entry = entry?;
            let hierarchy = entry
                .str(1)
                .filter(|name| !name.is_empty())
                .map(|name| Hierarchy(name.to_owned()));
            if let Some(path) = entry.str(2) {
                roots.push((hierarchy, CgroupPath::new(path)));
            }
        }
        Ok(roots)
    }

    /// Has CRIU record no directories of these hierarchies at dump.
    ///
    /// There is no option for that: ignoring cgroups is for all of them. But CRIU walks a hierarchy from its `cg_root`
    /// (`criu/cgroup.c`, `collect_cgroups`), and where that is a file there is nothing to walk. Every cgroup has this one.
    pub fn record_no_cgroups_of<'a>(
        &mut self,
        hierarchies: impl IntoIterator<Item = &'a Hierarchy>,
    ) {
        for hierarchy in hierarchies {
            let mut root = Message::default();
            root.set_bytes(1, &hierarchy.0);
            root.set_bytes(2, "/cgroup.procs");
            self.opts.push_bytes(opts::CG_ROOT, root.encode());
        }
    }

    /// The file of a namespace (`uts`, `ipc`, ...) that the restored tree joins.
    pub fn joined_namespace(&self, kind: &str) -> Result<Option<PathBuf>, Error> {
        for entry in self.opts.messages(opts::JOIN_NS) {
            let entry = entry?;
            if entry.str(1) == Some(kind) {
                return Ok(entry.str(2).map(PathBuf::from));
            }
        }
        Ok(None)
    }

    /// Gives an external mount another source. CRIU takes the last of several for one key.
    pub fn set_external_mount(&mut self, key: &str, source: &HostPath) {
        let mut bytes = format!("mnt[{key}]:").into_bytes();
        bytes.extend_from_slice(source.as_path().as_os_str().as_bytes());
        self.opts.push_bytes(opts::EXTERNAL, bytes);
    }

    /// Hands CRIU a descriptor under a key. The number is that of the process that becomes criu.
    pub fn hand_in(&mut self, key: &str, fd: RawFd) {
        let mut entry = Message::default();
        entry.set_bytes(1, key);
        entry.set_i32(2, fd);
        self.opts.push_bytes(opts::INHERIT_FD, entry.encode());
    }

    /// Has CRIU try this path for a watched object whose path the kernel does not tell.
    pub fn try_for_watches(&mut self, path: &ContainerPath) {
        let bytes = path.as_path().as_os_str().as_bytes();
        self.opts.push_bytes(opts::IRMAP_SCAN_PATHS, bytes);
    }

    /// Points CRIU at another image directory.
    pub fn set_images_dir_fd(&mut self, fd: RawFd) {
        self.opts.set_i32(opts::IMAGES_DIR_FD, fd);
        self.opts.remove(opts::IMAGES_DIR);
    }

    /// Points CRIU at another work directory.
    pub fn set_work_dir_fd(&mut self, fd: RawFd) {
        self.opts.set_i32(opts::WORK_DIR_FD, fd);
    }

    /// Renumbers the status descriptor.
    pub fn set_status_fd(&mut self, fd: RawFd) {
        self.opts.set_i32(opts::STATUS_FD, fd);
    }

    /// Asks CRIU for notifications.
    pub fn notify(&mut self) {
        self.opts.set_bool(opts::NOTIFY_SCRIPTS, true);
    }

    /// Sets how CRIU treats cgroups and, for [`CgroupMode::Soft`], below which root in each hierarchy.
    pub fn set_cgroups<'a>(
        &mut self,
        mode: CgroupMode,
        roots: impl IntoIterator<Item = (&'a Hierarchy, &'a CgroupPath)>,
    ) {
        self.opts.set_u64(opts::MANAGE_CGROUPS_MODE, mode as u64);
        self.opts.remove(opts::CG_ROOT);
        for (hierarchy, path) in roots {
            let mut root = Message::default();
            if !hierarchy.is_v2() {
                root.set_bytes(1, &hierarchy.0);
            }
            root.set_bytes(2, path.as_path().as_os_str().as_bytes());
            self.opts.push_bytes(opts::CG_ROOT, root.encode());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, kind};
    use super::*;

    fn request() -> Request {
        let mut opts = Message::default();
        opts.set_i32(opts::IMAGES_DIR_FD, 7);
        opts.set_bytes(200, b"from the future");
        let mut message = Message::default();
        message.set_u64(req::TYPE, Kind::RESTORE.0);
        message.set_bytes(req::OPTS, opts.encode());
        Request::parse(&message.encode()).unwrap()
    }

    #[test]
    fn options_we_do_not_know_survive() {
        let mut request = request();
        request.set_images_dir_fd(9);
        request.notify();
        request.set_cgroups(CgroupMode::Ignore, []);
        let bytes = request.encode();
        assert_eq!(kind(&bytes), Some(Kind::RESTORE));
        let again = Request::parse(&bytes).unwrap();
        assert_eq!(again.images_dir_fd(), Some(9));
        assert!(again.notifies());
        assert_eq!(again.opts.str(200), Some("from the future"));
        assert_eq!(again.opts.u64(opts::MANAGE_CGROUPS_MODE), Some(0));
    }

    #[test]
    fn what_is_handed_in_is_added_to_what_the_runtime_hands_in() {
        let mut request = request();
        request.hand_in("extRootNetNS", 5);
        request.hand_in("restow[1f]", 6);
        let entries: Vec<_> = request
            .opts
            .messages(opts::INHERIT_FD)
            .map(|entry| entry.unwrap().i32(2).unwrap())
            .collect();
        assert_eq!(entries, [5, 6]);
        assert!(request.inherited().unwrap().contains("restow[1f]"));
    }

    #[test]
    fn cgroup_roots_are_replaced_not_added_to() {
        let mut request = request();
        let first = CgroupPath::new("/a");
        let second = CgroupPath::new("/b");
        request.set_cgroups(CgroupMode::Soft, [(&Hierarchy::v2(), &first)]);
        request.set_cgroups(
            CgroupMode::Soft,
            [
                (&Hierarchy::v2(), &second),
                (&Hierarchy("cpu".into()), &second),
            ],
        );
        let expected = [
            (None, second.clone()),
            (Some(Hierarchy("cpu".into())), second),
        ];
        assert_eq!(request.cgroup_roots().unwrap(), expected);
    }

    #[test]
    fn the_unified_hierarchy_is_left_out_by_its_empty_name_which_is_not_for_all() {
        let mut request = request();
        let (v2, cpuset) = (Hierarchy::v2(), Hierarchy("cpuset".into()));
        request.record_no_cgroups_of([&v2, &cpuset]);
        let roots: Vec<Message<'_>> = request
            .opts
            .messages(opts::CG_ROOT)
            .map(Result::unwrap)
            .collect();
        let roots: Vec<_> = roots
            .iter()
            .map(|root| (root.str(1), root.str(2)))
            .collect();
        let nothing = Some("/cgroup.procs");
        assert_eq!(roots, [(Some(""), nothing), (Some("cpuset"), nothing)]);
    }

    #[test]
    fn external_mounts_in_both_spellings() {
        let mut request = request();
        let mut old = Message::default();
        old.set_bytes(1, b"/etc/hosts");
        old.set_bytes(2, b"/pods/hosts");
        request.opts.push_bytes(opts::EXT_MNT, old.encode());
        request
            .opts
            .push_bytes(opts::EXTERNAL, b"mnt[/data]:/pods/data");
        request
            .opts
            .push_bytes(opts::EXTERNAL, b"net[4026531840]:extRootNetNS");
        let mounts = request.external_mounts().unwrap();
        let found: Vec<_> = mounts
            .iter()
            .map(|mount| (mount.key.as_str(), mount.source.to_string()))
            .collect();
        assert_eq!(
            found,
            [
                ("/etc/hosts", "/pods/hosts".into()),
                ("/data", "/pods/data".into())
            ]
        );
    }
}
