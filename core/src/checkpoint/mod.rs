//! Checkpoints on a node: where they are kept, and what of one is believed when a container is restored from it.
//!
//! ```text
//! annotation ─▶ Asked ─▶ Store::find ─▶ Work (unpacked, checked) ─▶ rootfs diff applied ─▶ Prepared ─▶ runtime restores
//!                                                                     └──── undo ◀─── create fails
//! ```
//!
//! * [`CheckpointName`], [`Namespace`]: what a pod can ask for; never a path.
//! * [`Store`]: the roots below which checkpoints are found, put and removed.
//! * [`Asked`]: what a container's spec asks for; [`Asked::prepare`] does it.
//! * [`Prepared`]: images that were checked, in a directory of our own, and a writable layer that was changed.
//! * [`images`]: whether an image directory is whole.
//!
//! A checkpoint is untrusted input: whoever made the processes in it may have written every byte. The spec of the container,
//! with its devices, mounts, user, environment and limits, is the pod's; of the spec in a checkpoint only the names of pod and
//! container are read, to refuse what is another namespace's. What was checked is what CRIU reads: images are copied or
//! unpacked into a directory that only root can write, and checked there.

mod about;
mod apply;
mod asked;
mod error;
pub mod images;
mod incoming;
mod name;
mod prepared;
mod rights;
mod settings;
mod store;
mod tree;
mod undo;
mod unpack;
mod work;

pub use about::About;
pub use asked::{ASKING, Asked};
pub use error::Error;
pub use incoming::{Form, Incoming};
pub use name::{CheckpointName, NameError, Namespace};
pub use prepared::Prepared;
pub use settings::Settings;
pub use store::{Entry, Store};

#[cfg(test)]
mod tests;
