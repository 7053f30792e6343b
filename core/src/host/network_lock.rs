//! CRIU's lock of a network namespace: nothing goes in or out while sockets are taken apart or put together.
//!
//! CRIU locks the namespace at a dump and leaves it locked when the tree ends with the dump, for a restore in the same namespace to
//! find. That is of use for connections that are to be kept; for everything else in the pod it is the end of its network. And it
//! does not lock another namespace at a restore (`criu/cr-restore.c`: only with `--empty-ns net`), where it sends what one end
//! of a connection had not sent yet while the other end does not exist: the kernel answers with a reset
//! (`soccr/soccr.c`, `libsoccr_restore_queue`).
//!
//! So this makes the same lock as CRIU does with its default method, iptables, which CRIU's own unlocking takes away, and takes
//! away what CRIU leaves.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::network::within;
use crate::source::LockMethod;

/// The rules that CRIU makes (`criu/net.c`, `iptables_network_lock_internal`): its own packets carry the mark 0xC114.
const LOCK: &str = "*filter
:CRIU - [0:0]
-I INPUT -j CRIU
-I OUTPUT -j CRIU
-A CRIU -m mark --mark 0xC114 -j ACCEPT
-A CRIU -j DROP
COMMIT
";

/// What takes them away, in two steps: with iptables over nf_tables, a chain cannot go together with the jumps to it.
const UNLOCK: [&str; 2] = [
    "*filter
-D INPUT -j CRIU
-D OUTPUT -j CRIU
COMMIT
",
    "*filter
-F CRIU
-X CRIU
COMMIT
",
];

/// Nobody locks more often than this without unlocking.
const MAX_LOCKS: u8 = 16;

const V4: &str = "iptables-restore";
const V6: &str = "ip6tables-restore";

/// Locks a network namespace (an `ns/net` file) with iptables.
///
/// # Errors
/// When it cannot be entered, or iptables is missing or fails; nothing is locked then.
pub fn lock(namespace: &File) -> io::Result<()> {
    within(namespace, || {
        // What a relay left that was killed.
        if locked(V4)? {
            unlock_all()?;
        }
        restore(V4, LOCK)?;
        if ipv6()
            && let Err(error) = restore(V6, LOCK)
        {
            unlock_with(V4)?;
            return Err(error);
        }
        Ok(())
    })
}

/// Takes CRIU's lock away from a network namespace, where there is one. `run` names the run of criu that made it
/// (`dump_criu_run_id` of the inventory), which nftables need.
///
/// # Errors
/// When the namespace cannot be entered or a lock that is there stays.
pub fn unlock(namespace: &File, method: LockMethod, run: Option<&str>) -> io::Result<()> {
    within(namespace, || match (method, run) {
        (LockMethod::IPTABLES, _) => unlock_all(),
        (LockMethod::NFTABLES, Some(run)) => {
            let table = format!("CRIU-{run}");
            output(
                Command::new("nft").args(["delete", "table", "inet", &table]),
                "",
            )
            .map(drop)
        }
        _ => Ok(()),
    })
}

/// Whether the kernel has IPv6 at all.
fn ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

fn unlock_all() -> io::Result<()> {
    unlock_with(V4)?;
    if ipv6() { unlock_with(V6) } else { Ok(()) }
}

fn unlock_with(program: &str) -> io::Result<()> {
    // There are jumps for each time that it was locked, and none when it is not locked.
    let mut times = 0..MAX_LOCKS;
    while times.next().is_some() && restore(program, UNLOCK[0]).is_ok() {}
    match restore(program, UNLOCK[1]) {
        Ok(()) => Ok(()),
        Err(error) if locked(program)? => Err(error),
        Err(_) => Ok(()),
    }
}

fn locked(program: &str) -> io::Result<bool> {
    let save = program.replace("restore", "save");
    let rules = output(Command::new(save).args(["-t", "filter"]), "")?;
    Ok(rules.lines().any(|line| line.starts_with(":CRIU ")))
}

fn restore(program: &str, rules: &str) -> io::Result<()> {
    output(Command::new(program).args(["--wait", "--noflush"]), rules).map(drop)
}

/// Runs a program with `input`, and returns what it prints.
fn output(command: &mut Command, input: &str) -> io::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
    let piped = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = piped.spawn().map_err(named)?;
    if let Some(mut stdin) = child.stdin.take() {
        // What it does not read shows in its exit status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(named)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut said = String::new();
    let _ = output.stderr.as_slice().take(400).read_to_string(&mut said);
    Err(io::Error::other(format!("{name}: {}", said.trim())))
}
