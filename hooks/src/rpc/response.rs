//! What criu sends, and what is answered to it.

use criu_image::wire::{Error, Message};

use super::{Kind, opts, req};

/// Field numbers of `criu_resp`.
mod resp {
    pub(super) const TYPE: u32 = 1;
    pub(super) const SUCCESS: u32 = 2;
    pub(super) const NOTIFY: u32 = 5;
    pub(super) const CR_ERRNO: u32 = 7;
    pub(super) const CR_ERRMSG: u32 = 9;
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
}
