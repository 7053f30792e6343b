//! The Restow engine: moves a CRIU checkpoint of a container onto another pod.
//!
//! ```text
//! Source  (image set + source.json)  ┐
//! Target  (request, spec, /proc)     ├─ plan() ─▶ Plan ─▶ stage() ─▶ CRIU ─▶ verify()
//! Policy  (annotations, node config) ┘
//! ```
//!
//! * [`source`]: what the checkpoint says.
//! * [`target`]: where it goes.
//! * [`policy`]: what pod and node ask for.
//! * [`plan`]: what is done about each object, as plain data; no system calls.
//! * [`stage`]: edited images beside links to the untouched ones; memory pages are never read or copied.
//! * [`verify`]: the restored, still stopped tree compared with the plan.
//! * [`checkpoint`]: where checkpoints are kept, and what of one is believed.
//! * [`explain`]: what a log of CRIU says went wrong.
//! * [`host`]: the only place that asks the kernel.
//!
//! The crate knows CRIU's images and Linux, not containerd, and does nothing asynchronous.

pub mod archive;
pub mod check;
pub mod checkpoint;
pub mod explain;
pub mod finding;
pub mod host;
pub mod ids;
pub mod observed;
pub mod plan;
pub mod policy;
pub mod privileges;
mod shares;
pub mod source;
pub mod stage;
pub mod target;
pub mod verify;

/// An error's text with all its causes, said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
