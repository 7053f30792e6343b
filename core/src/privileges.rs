//! What processes may do: capabilities, `no_new_privs`, seccomp filters and users, as the old container's processes have them
//! and as the new container's spec allows them.

use serde_json::Value;

/// Capabilities by number (`linux/capability.h`).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// The set with these names, such as `CAP_KILL`; what is no name is left out, as nothing can be granted by it.
    pub fn named<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        let bit = |name: &str| {
            let name = name.strip_prefix("CAP_").unwrap_or(name);
            let number = CAPABILITIES.iter().position(|known| *known == name);
            number.map_or(0, |number| 1 << number)
        };
        Self(names.fold(0, |set, name| set | bit(name)))
    }

    /// Those that are in this set and not in another.
    #[must_use]
    pub fn beyond(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their names.
    pub fn names(self) -> impl Iterator<Item = String> {
        (0..u64::BITS)
            .filter(move |bit| self.0 >> bit & 1 == 1)
            .map(|bit| {
                let known = CAPABILITIES.get(bit as usize);
                known.map_or_else(|| format!("capability {bit}"), |name| format!("CAP_{name}"))
            })
    }
}

/// What a process of the checkpoint has, its threads taken together: what any of them may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessPrivileges {
    /// Its name.
    pub name: String,
    /// Capabilities in any of its sets.
    pub capabilities: Capabilities,
    /// Real, effective, saved and file system user ids.
    pub users: Vec<u32>,
    /// Real, effective, saved and file system group ids, and the supplementary ones.
    pub groups: Vec<u32>,
    /// It cannot gain privileges by running a program.
    pub no_new_privileges: bool,
    /// It has a seccomp filter.
    pub seccomp: bool,
}

/// What the new container's spec allows its processes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowed {
    /// Its bounding set; `None` when the spec says nothing of capabilities.
    pub capabilities: Option<Capabilities>,
    /// The user that its processes run as.
    pub user: u64,
    /// The groups that they are in.
    pub groups: Vec<u32>,
    /// They may not gain privileges.
    pub no_new_privileges: bool,
    /// They get a seccomp filter.
    pub seccomp: bool,
}

impl Allowed {
    /// As an OCI spec says.
    pub fn by_spec(spec: &Value) -> Self {
        let process = &spec["process"];
        let bounding = process["capabilities"].as_object().map(|sets| {
            let bounding = sets.get("bounding").and_then(Value::as_array);
            Capabilities::named(bounding.into_iter().flatten().filter_map(Value::as_str))
        });
        Self {
            capabilities: bounding,
            user: process["user"]["uid"].as_u64().unwrap_or(0),
            groups: groups(&process["user"]),
            no_new_privileges: process["noNewPrivileges"] == true,
            seccomp: spec["linux"]["seccomp"].is_object(),
        }
    }
}

/// The groups of a spec's user; the first one is 0 when nothing is said.
fn groups(user: &Value) -> Vec<u32> {
    let more = user["additionalGids"].as_array().into_iter().flatten();
    let all = std::iter::once(user["gid"].as_u64().unwrap_or(0))
        .chain(more.filter_map(Value::as_u64))
        .filter_map(|group| u32::try_from(group).ok());
    all.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_and_numbers() {
        let set = Capabilities::named(
            ["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"].into_iter(),
        );
        assert_eq!(set.0, 1 | 1 << 21 | 1 << 40);
        let more = Capabilities(set.0 | 1 << 50).beyond(Capabilities(1));
        let names: Vec<_> = more.names().collect();
        assert_eq!(
            names,
            ["CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE", "capability 50"]
        );
    }

    #[test]
    fn what_a_spec_allows() {
        let allowed = Allowed::by_spec(&json!({
            "process": {"capabilities": {"bounding": ["CAP_KILL", "CAP_NONSENSE"]}, "user": {"uid": 7, "gid": 8, "additionalGids": [8, 9]}, "noNewPrivileges": true},
            "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}},
        }));
        let expected = Allowed {
            capabilities: Some(Capabilities(1 << 5)),
            user: 7,
            groups: vec![8, 8, 9],
            no_new_privileges: true,
            seccomp: true,
        };
        assert_eq!(allowed, expected);
        let silent = Allowed {
            groups: vec![0],
            ..Allowed::default()
        };
        assert_eq!(Allowed::by_spec(&json!({})), silent);
        let none = Allowed::by_spec(&json!({"process": {"capabilities": {}}}));
        assert_eq!(none.capabilities, Some(Capabilities(0)));
    }
}
