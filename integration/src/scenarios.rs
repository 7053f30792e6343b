//! The list of scenarios: what must hold after a restore in another pod.
//!
//! This is the one place with their titles. A test names its scenario as `Cgroup 4` or, when a scenario has several cases, as
//! `Cgroup 7, host namespace`; the matrix in `docs/matrix.md` has a row for each, and one that says so for a scenario without a test.

/// A group of scenarios.
#[derive(Debug)]
pub struct Area {
    /// Its name, the first word of a scenario's.
    pub name: &'static str,
    /// The titles of its scenarios; the first is number 1.
    pub titles: &'static [&'static str],
}

/// Every scenario, in order.
pub const AREAS: &[Area] = &[
    Area {
        name: "Cgroup",
        titles: &[
            "Private cgroup namespace: files of the container's cgroup are pod B's",
            "Host cgroup namespace: files on the container's own path are pod B's, offsets are kept",
            "Files of the pod's and of the QoS level's cgroup",
            "The host's cgroup file system mounted elsewhere by a hostPath volume",
            "A write descriptor of a privileged container",
            "Tasks and files in a sub-cgroup that the container made",
            "A watch on cgroup.events",
            "A program of Go 1.25 or later, which holds its CPU limit's file open",
            "manage-cgroups: ignore and soft",
            "A file absent on the new side: remap blocks and names it, ignore makes it inert",
            "Cgroup v1 controllers: memory, cpu, pids",
            "Pod A still runs while pod B is restored",
            "A file of a cgroup removed before the dump",
            "Limits of the old pod are not written to pod B",
            "Paths of the systemd cgroup driver",
            "Files of the node's own cgroup mount that were left open to the container",
        ],
    },
    Area {
        name: "Mounts",
        titles: &[
            "/etc/hosts, resolv.conf and hostname are open, of another length in pod B",
            "A key of a projected volume is open, in a directory named after the time",
            "A config map watched with inotify, directory and file",
            "A file bind mount is watched",
            "The termination log, written and appended to",
            "A volume from another source: descriptor, offset and working directory",
            "A single file of a volume (subPath)",
            "Nested and reordered mounts",
            "A mount that only pod B has is there",
            "A mount that only pod A had: dropped when unused, else a blocker that names it",
            "The content of an emptyDir volume is carried on request",
            "Unlinked file, unix socket, fifo, lock and mapped file on a volume",
            "A volume in memory",
            "A file on a mount that the container has not got",
            "Fanotify marks on a file and on a mount",
        ],
    },
    Area {
        name: "Identity",
        titles: &[
            "The host name is pod B's",
            "Network, IPC and UTS namespaces are those of pod B's sandbox",
            "Logs go on in pod B's log; exec, kill and exit code work",
            "A restored container is checkpointed and restored again, five generations",
            "One checkpoint is restored into several pods",
            "A process namespace shared by the pod's containers",
            "Read-only root, dropped capabilities, seccomp, no new privileges",
            "Changes of the root file system are there, written and deleted files",
            "Memory limit and OOM score are pod B's",
        ],
    },
    Area {
        name: "Maps",
        titles: &[
            "A path map: files below one path are below another",
            "A cgroup map: files of one cgroup are those of another",
            "A mount map, by mount point and by mnt_id: another source",
            "A file map, by path and by mnt_id and inode: handed in from the node",
        ],
    },
    Area {
        name: "Trees",
        titles: &[
            "A parent and two children hold read-only files of their pod's cgroup: the node's view",
            "The same from the node's view into a private cgroup namespace, back, and between two",
            "A file absent on the new side: remap blocks and names it, ignore makes it inert; a write descriptor",
            "/etc/hosts of another length in the pod's mount namespace",
            "Children in sub-cgroups, and a watch on cgroup.events",
            "Descriptors on a removed cgroup and on a mount that the tree has not got",
        ],
    },
    Area {
        name: "Network",
        titles: &[
            "Sockets listening on any address, on the pod's address, and UDP",
            "A connection to the outside: closed, keep, refuse",
            "A connection inside the pod survives",
        ],
    },
    Area {
        name: "Programs",
        titles: &[
            "Redis: keys, a counter, the id of the run",
            "nginx",
            "Node.js",
            "A JVM",
            "A server in Go: a registry, an upload begun before the move",
            "Python",
            "PostgreSQL",
        ],
    },
];

/// The name of a test's scenario, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Its area's place in [`AREAS`]; after the last for one that is not there.
    pub area: usize,
    /// Its number in the area, 0 for one that is not there.
    pub number: usize,
    /// Which case of the scenario it is; the whole name for one that is not there.
    pub case: String,
}

impl Name {
    /// Takes a name apart: `Cgroup 7`, `Cgroup 7, host namespace` or `Cgroup 7 (host namespace)`.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        let other = || Self {
            area: AREAS.len(),
            number: 0,
            case: name.to_owned(),
        };
        let Some((word, rest)) = name.split_once(' ') else {
            return other();
        };
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, case) = rest.split_at(digits);
        let area = AREAS.iter().position(|area| area.name == word);
        let (Some(area), Ok(number)) = (area, number.parse::<usize>()) else {
            return other();
        };
        if number == 0 || number > AREAS[area].titles.len() {
            return other();
        }
        let case = case.trim_start_matches([',', ' ']);
        let case = case
            .strip_prefix('(')
            .and_then(|case| case.strip_suffix(')'))
            .unwrap_or(case);
        Self {
            area,
            number,
            case: case.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_area_number_and_case() {
        let name = |area, number, case: &str| Name {
            area,
            number,
            case: case.to_owned(),
        };
        assert_eq!(Name::parse("Cgroup 7"), name(0, 7, ""));
        assert_eq!(
            Name::parse("Cgroup 7, host namespace"),
            name(0, 7, "host namespace")
        );
        assert_eq!(Name::parse("Mounts 12 (unlinked)"), name(1, 12, "unlinked"));
        for other in ["Something 1", "Cgroup 99", "Cgroup", "Cgroup x"] {
            assert_eq!(Name::parse(other), name(AREAS.len(), 0, other));
        }
    }
}
