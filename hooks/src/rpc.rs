//! CRIU's RPC messages (`images/rpc.proto`), edited without losing what this code does not know.

use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use criu_image::wire::{Error, Message};
use restow::ids::{CgroupPath, ContainerPath, HostPath};
use restow::source::Hierarchy;
use restow::target::TargetMount;

/// `criu_req_type`: what a request asks for and what a response answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(pub u64);

impl Kind {
    /// `DUMP`.
    pub const DUMP: Self = Self(1);
    /// `RESTORE`.
    pub const RESTORE: Self = Self(2);
    /// `NOTIFY`.
    pub const NOTIFY: Self = Self(6);
}

/// Field numbers of `criu_req`.
mod req {
    pub(super) const TYPE: u32 = 1;
    pub(super) const OPTS: u32 = 2;
    pub(super) const NOTIFY_SUCCESS: u32 = 3;
}

/// Field numbers of `criu_opts`.
mod opts {
    pub(super) const IMAGES_DIR_FD: u32 = 1;
    pub(super) const PID: u32 = 2;
    pub(super) const LEAVE_RUNNING: u32 = 3;
    pub(super) const TCP_ESTABLISHED: u32 = 5;
    pub(super) const FILE_LOCKS: u32 = 8;
    pub(super) const LOG_FILE: u32 = 10;
    pub(super) const NOTIFY_SCRIPTS: u32 = 12;
    pub(super) const WORK_DIR_FD: u32 = 17;
    pub(super) const EXT_MNT: u32 = 23;
    pub(super) const CG_ROOT: u32 = 25;
    pub(super) const INHERIT_FD: u32 = 27;
    pub(super) const MANAGE_CGROUPS_MODE: u32 = 34;
    pub(super) const IRMAP_SCAN_PATHS: u32 = 36;
    pub(super) const EXTERNAL: u32 = 37;
    pub(super) const JOIN_NS: u32 = 39;
    pub(super) const TCP_SKIP_IN_FLIGHT: u32 = 46;
    pub(super) const STATUS_FD: u32 = 49;
    pub(super) const TCP_CLOSE: u32 = 52;
    pub(super) const IMAGES_DIR: u32 = 68;
}

/// Field numbers of `criu_resp`.
mod resp {
    pub(super) const TYPE: u32 = 1;
    pub(super) const SUCCESS: u32 = 2;
    pub(super) const NOTIFY: u32 = 5;
    pub(super) const CR_ERRNO: u32 = 7;
    pub(super) const CR_ERRMSG: u32 = 9;
}

/// `criu_cg_mode`, as far as it is set here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMode {
    /// CRIU leaves cgroups alone.
    Ignore = 0,
    /// CRIU makes missing cgroups and moves tasks to where the image says, below `cg_root`.
    Soft = 3,
}

/// The kind of a request; `None` when it is no request at all.
pub fn kind(request: &[u8]) -> Option<Kind> {
    Message::parse(request).ok()?.u64(req::TYPE).map(Kind)
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

/// A response of criu's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// What it answers.
    pub kind: Kind,
    /// Whether that succeeded.
    pub success: bool,
    /// For [`Kind::NOTIFY`]: of what.
    pub notification: Option<Notification>,
}

/// What criu notifies its client of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// The stage (`pre-dump`, `post-restore`, ...).
    pub script: String,
    /// The restored init, at the stages that carry it.
    pub pid: Option<i32>,
}

impl Response {
    /// Parses a response.
    ///
    /// # Errors
    /// When it is no protobuf message.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let message = Message::parse(bytes)?;
        let kind = Kind(message.u64(resp::TYPE).unwrap_or(0));
        let notification = match message.bytes(resp::NOTIFY).filter(|_| kind == Kind::NOTIFY) {
            Some(bytes) => {
                let notify = Message::parse(bytes)?;
                Some(Notification {
                    script: notify.str(1).unwrap_or_default().to_owned(),
                    pid: notify.i32(2),
                })
            }
            None => None,
        };
        Ok(Self {
            kind,
            success: message.bool(resp::SUCCESS).unwrap_or(false),
            notification,
        })
    }
}

/// A client's reply to a notification.
pub fn notify_reply(success: bool) -> Vec<u8> {
    let mut reply = Message::default();
    reply.set_u64(req::TYPE, Kind::NOTIFY.0);
    reply.set_bool(req::NOTIFY_SUCCESS, success);
    reply.encode()
}

/// A client's reply to `query-ext-files` with further external objects. `None` when the reply is no message.
///
/// `images_dir_fd` is a required field of the options, whatever they are for (`images/rpc.proto`).
pub fn with_externals(reply: &[u8], keys: &[String]) -> Option<Vec<u8>> {
    let mut reply = Message::parse(reply).ok()?.into_owned();
    let mut opts = match reply.message(req::OPTS).ok()? {
        Some(opts) => opts.into_owned(),
        None => Message::default(),
    };
    if opts.i32(opts::IMAGES_DIR_FD).is_none() {
        opts.set_i32(opts::IMAGES_DIR_FD, -1);
    }
    for key in keys {
        opts.push_bytes(opts::EXTERNAL, key);
    }
    reply.set_bytes(req::OPTS, opts.encode());
    Some(reply.encode())
}

/// A failed result. `cr_errno` is EINVAL: the runtimes print it, and 0 would read as success.
pub fn failure(kind: Kind, reason: &str) -> Vec<u8> {
    let mut response = Message::default();
    response.set_u64(resp::TYPE, kind.0);
    response.set_bool(resp::SUCCESS, false);
    response.set_i32(resp::CR_ERRNO, libc::EINVAL);
    response.set_bytes(resp::CR_ERRMSG, reason.as_bytes());
    response.encode()
}

/// A result of criu's with our reason in place of its own. CRIU puts the first error line of its log there, whatever it
/// is about.
pub fn with_error(response: &[u8], reason: &str) -> Option<Vec<u8>> {
    let mut message = Message::parse(response).ok()?.into_owned();
    message.set_i32(resp::CR_ERRNO, libc::EINVAL);
    message.set_bytes(resp::CR_ERRMSG, reason.as_bytes());
    Some(message.encode())
}

/// A notification as criu sends it; for tests of the relay.
#[cfg(test)]
pub(crate) fn notification(script: &str, pid: Option<i32>) -> Vec<u8> {
    let mut notify = Message::default();
    notify.set_bytes(1, script.as_bytes());
    if let Some(pid) = pid {
        notify.set_i32(2, pid);
    }
    let mut message = Message::default();
    message.set_u64(resp::TYPE, Kind::NOTIFY.0);
    message.set_bool(resp::SUCCESS, true);
    message.set_bytes(resp::NOTIFY, notify.encode());
    message.encode()
}

/// A result as criu sends it; for tests of the relay.
#[cfg(test)]
pub(crate) fn result(kind: Kind, success: bool) -> Vec<u8> {
    let mut message = Message::default();
    message.set_u64(resp::TYPE, kind.0);
    message.set_bool(resp::SUCCESS, success);
    message.encode()
}

#[cfg(test)]
mod tests {
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
    fn a_failed_result_carries_the_reason_and_an_error_number() {
        let bytes = failure(Kind::RESTORE, "why");
        let parsed = Response::parse(&bytes).unwrap();
        assert_eq!((parsed.kind, parsed.success), (Kind::RESTORE, false));
        let explained = with_error(&result(Kind::RESTORE, false), "because").unwrap();
        assert_eq!(
            Message::parse(&explained).unwrap().str(resp::CR_ERRMSG),
            Some("because")
        );
    }

    #[test]
    fn externals_are_added_to_a_clients_own_reply() {
        let keys = ["file[9f:5eb3]".to_owned()];
        let bare = with_externals(&notify_reply(true), &keys).unwrap();
        let message = Message::parse(&bare).unwrap();
        assert_eq!((message.u64(1), message.bool(3)), (Some(6), Some(true)));
        let again = with_externals(&bare, &["file[1:2]".to_owned()]).unwrap();
        let opts = Message::parse(&again)
            .unwrap()
            .message(2)
            .unwrap()
            .unwrap()
            .into_owned();
        assert_eq!(
            opts.strs(opts::EXTERNAL).collect::<Vec<_>>(),
            ["file[9f:5eb3]", "file[1:2]"]
        );
        assert_eq!(opts.i32(opts::IMAGES_DIR_FD), Some(-1));
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
