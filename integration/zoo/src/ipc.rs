//! System V objects.

use crate::sys::{self, Result};

type Made = (&'static str, Result<Vec<std::os::fd::OwnedFd>>);

pub(crate) fn all() -> Vec<Made> {
    let none = |made: Result<()>| made.map(|()| Vec::new());
    vec![
        ("System V shared memory", none(sys::sysv_shm())),
        ("System V semaphores", none(sys::sysv_sem())),
        ("System V messages", none(sys::sysv_msg())),
    ]
}
