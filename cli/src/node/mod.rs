//! `restow install`, `restow uninstall` and `restow doctor`: a node gets Restow, is rid of it, and says what is wrong with it.
//!
//! * [`install`], [`uninstall`], [`doctor`]: the commands.
//! * [`root`]: the node, which may be mounted somewhere; [`in_root`]: its programs.
//! * [`programs`], [`containerd`], [`snippets`]: what has to be there.
//! * [`change`], [`state`]: one path: what is wanted and what is there.
//! * [`journal`], [`carry_out`]: doing it so that it can be taken back, whatever happens in between.

pub mod carry_out;
pub mod change;
pub mod containerd;
pub mod doctor;
pub mod in_root;
pub mod install;
pub mod journal;
pub mod programs;
pub mod report;
pub mod root;
pub mod services;
pub mod snippets;
pub mod state;
pub mod uninstall;
pub mod users;
