//! CRIU's RPC messages (`images/rpc.proto`), edited without losing what this code does not know.

mod request;
mod response;

use criu_image::wire::Message;

pub use request::{CgroupMode, Request};
pub use response::{Notification, Response, failure, notify_reply, with_error, with_externals};
#[cfg(test)]
pub(crate) use response::{notification, result};

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

/// The kind of a request; `None` when it is no request at all.
pub fn kind(request: &[u8]) -> Option<Kind> {
    Message::parse(request).ok()?.u64(req::TYPE).map(Kind)
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
