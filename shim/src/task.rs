//! The calls of containerd's task service that matter here, in versions 2 and 3, which differ in the service's name
//! (`api/runtime/task` of containerd).

use criu_image::wire::Message;

use crate::frame;

/// What stands before the version's number in the service's name.
const SERVICE: &[u8] = b"containerd.task.v";
const SERVICES: [&[u8]; 2] = [b"containerd.task.v2.Task", b"containerd.task.v3.Task"];

/// How much of a request tells which call it is: the names of service and method stand first, and are not longer.
pub const PEEK: usize = 64;

/// A call that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Makes a container.
    Create,
    /// Starts a container, or a process in it.
    Start,
    /// Deletes a container, or a process in it.
    Delete,
    /// Makes a checkpoint.
    Checkpoint,
}

impl Call {
    fn named(method: &[u8]) -> Option<Self> {
        match method {
            b"Create" => Some(Self::Create),
            b"Start" => Some(Self::Start),
            b"Delete" => Some(Self::Delete),
            b"Checkpoint" => Some(Self::Checkpoint),
            _ => None,
        }
    }

    /// Which call the payload of a request is, of which only the beginning need be there.
    #[must_use]
    pub fn of(payload: &[u8]) -> Option<Self> {
        let (service, rest) = text(payload, 0x0a)?;
        if !service.starts_with(SERVICE) || !SERVICES.contains(&service) {
            return None;
        }
        Self::named(text(rest, 0x12)?.0)
    }
}

/// The value of a field with this tag at the beginning of `bytes`, when it is shorter than 128 bytes, and what follows.
fn text(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [found, length, rest @ ..] = bytes else {
        return None;
    };
    if *found != tag || *length >= 0x80 {
        return None;
    }
    rest.split_at_checked(usize::from(*length))
}

/// A whole request.
#[derive(Debug)]
pub struct Request<'a> {
    frame: &'a [u8],
    message: Message<'a>,
}

/// A mount of a container's root file system: `containerd.types.Mount`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// `overlay`, `bind`, …
    pub kind: String,
    /// The source.
    pub source: String,
    /// Where below the root file system's directory; empty for the root itself.
    pub target: String,
    /// As `mount(8)` takes them.
    pub options: Vec<String>,
}

impl<'a> Request<'a> {
    /// Reads a frame with a request in it.
    #[must_use]
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let message = Message::parse(frame.get(frame::HEADER..)?).ok()?;
        Some(Self { frame, message })
    }

    /// The call's own message.
    #[must_use]
    pub fn call(&self) -> Message<'_> {
        let payload = self.message.bytes(3).unwrap_or_default();
        Message::parse(payload).unwrap_or_default()
    }

    /// A text field of the call's message.
    fn text(&self, number: u32) -> String {
        self.call().str(number).unwrap_or_default().to_owned()
    }

    /// The name of the service, which says the version.
    #[must_use]
    pub fn service(&self) -> &str {
        self.message.str(1).unwrap_or_default()
    }

    /// The container's id, field 1 in all these calls.
    #[must_use]
    pub fn id(&self) -> String {
        self.text(1)
    }

    /// Whether the call is about a process that was started in a container, not about the container (field 2 of `Start` and `Delete`).
    #[must_use]
    pub fn about_exec(&self) -> bool {
        !self.text(2).is_empty()
    }

    /// The bundle of a `Create`.
    #[must_use]
    pub fn bundle(&self) -> String {
        self.text(2)
    }

    /// The images that a `Create` is to restore.
    #[must_use]
    pub fn checkpoint(&self) -> String {
        self.text(8)
    }

    /// Where a `Checkpoint` is written.
    #[must_use]
    pub fn path(&self) -> String {
        self.text(2)
    }

    /// The mounts of a `Create`.
    #[must_use]
    pub fn rootfs(&self) -> Vec<Mount> {
        let call = self.call();
        let mounts = call.messages(3).flatten();
        mounts
            .map(|mount| {
                let text = |number| mount.str(number).unwrap_or_default().to_owned();
                Mount {
                    kind: text(1),
                    source: text(2),
                    target: text(3),
                    options: mount.strs(4).map(str::to_owned).collect(),
                }
            })
            .collect()
    }

    /// The frame of the same `Create` with these images to restore.
    #[must_use]
    pub fn with_checkpoint(&self, images: &str) -> Vec<u8> {
        let mut call = self.call().into_owned();
        call.set_bytes(8, images);
        let mut message = self.message.clone();
        message.set_bytes(3, call.encode());
        let (stream, flags) =
            frame::Header::of(self.frame).map_or((0, 0), |header| (header.stream, header.flags));
        frame::encode(stream, frame::REQUEST, flags, &message.encode())
    }
}

/// The type and the message of an `Any`'s parts, as the field of a message that has one.
#[must_use]
pub fn any(type_url: &str, value: &Message<'_>) -> Vec<u8> {
    let mut any = Message::default();
    any.set_bytes(1, type_url);
    any.set_bytes(2, value.encode());
    any.encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create() -> Vec<u8> {
        let mut mount = Message::default();
        mount.set_bytes(1, "overlay");
        mount.set_bytes(2, "overlay");
        mount.push_bytes(4, "lowerdir=/l");
        mount.push_bytes(4, "upperdir=/u");
        let mut call = Message::default();
        call.set_bytes(1, "web");
        call.set_bytes(2, "/run/bundle");
        call.push_bytes(3, mount.encode());
        call.push_bytes(99, "of a later version");
        frame::request(5, "containerd.task.v3.Task", "Create", &call.encode())
    }

    #[test]
    fn calls_are_known_by_their_beginning() {
        let payload = create()[frame::HEADER..].to_vec();
        assert_eq!(Call::of(&payload[..PEEK]), Some(Call::Create));
        assert_eq!(Call::of(&payload[..20]), None);
        for (service, method, call) in [
            (
                "containerd.task.v2.Task",
                "Checkpoint",
                Some(Call::Checkpoint),
            ),
            ("containerd.task.v2.Task", "State", None),
            ("containerd.runtime.sandbox.v1.Sandbox", "Create", None),
            ("containerd.task.v4.Task", "Create", None),
        ] {
            let frame = frame::request(1, service, method, &[]);
            assert_eq!(
                Call::of(&frame[frame::HEADER..]),
                call,
                "{service}/{method}"
            );
        }
    }

    #[test]
    fn a_checkpoint_is_set_and_all_else_stays() {
        let frame = create();
        let request = Request::parse(&frame).unwrap();
        assert_eq!(
            (request.id(), request.bundle()),
            ("web".into(), "/run/bundle".into())
        );
        assert_eq!(request.checkpoint(), "");
        assert_eq!(request.rootfs()[0].options, ["lowerdir=/l", "upperdir=/u"]);
        let changed = request.with_checkpoint("/images");
        let changed = Request::parse(&changed).unwrap();
        assert_eq!(changed.checkpoint(), "/images");
        let mut call = changed.call().into_owned();
        call.remove(8);
        assert_eq!(call.encode(), request.call().encode());
        assert_eq!(frame::Header::of(changed.frame).unwrap().stream, 5);
    }
}
