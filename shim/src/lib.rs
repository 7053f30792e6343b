//! A containerd shim that restores containers: a proxy for the stock `containerd-shim-runc-v2`.
//!
//! ```text
//!   containerd ── start ──▶ this ── start ──▶ stock shim (start) ──▶ stock shim (serves)
//!              ◀─ address ─ │ own address    ◀─ its address              ▲
//!                           └─▶ this (proxy) ── one connection for each ─┘
//!   containerd ── ttrpc ──▶ own socket            of containerd's
//!                             │ Create of a container that asks for a restore, and what follows it
//!                             └─▶ this (worker), gone when the container runs
//! ```
//!
//! containerd's own lifecycle code keeps running; frames go through undecoded. What is changed is `Create` of a container whose
//! annotations name a checkpoint: it gets the prepared images as its `checkpoint`, so that the stock shim restores it at `Start`.
//!
//! There is a proxy for each pod, for as long as the pod lives, so it is kept small: one thread, no configuration, one buffer. All
//! that takes memory is done by the same program in processes that end: `start`, `delete` and the worker.
//!
//! * [`arguments`], [`settings`]: what containerd and the node's configuration say.
//! * [`start`], [`reply`], [`address`], [`delete`]: the shim's actions.
//! * [`guard`], [`process`]: neither shim outlives the other.
//! * [`frame`], [`task`], [`client`]: ttrpc and the calls that matter here.
//! * [`spec`]: whether a container asks for anything.
//! * [`proxy`]: the process that stays.
//! * [`worker`]: what prepares a restore and clears up after it.

use std::ffi::OsString;
use std::process::ExitCode;

pub mod address;
pub mod arguments;
pub mod client;
pub mod delete;
pub mod error;
pub mod frame;
pub mod guard;
pub mod log;
pub mod process;
pub mod proxy;
pub mod reply;
pub mod settings;
pub mod spec;
pub mod start;
pub mod task;
pub mod worker;

use arguments::{Action, Arguments};

/// Runs as the shim with these arguments (the program's name first).
pub fn run(args: Vec<OsString>) -> ExitCode {
    let arguments = Arguments::parse(args);
    let ended = match &arguments.action {
        Action::Proxy => proxy::run(&arguments),
        Action::Worker => worker::run(&arguments),
        Action::Start => start::run(&arguments),
        Action::Delete => delete::run(&arguments),
        Action::Other => settings::Settings::read()
            .and_then(|settings| settings.become_stock(&arguments.all[1..])),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("containerd-shim-restow-v2: {}", restow::chain(&error));
            ExitCode::FAILURE
        }
    }
}
