//! Explicit maps: where they lead on the node, and whether each means anything here.

use std::collections::BTreeSet;

use super::resolve::{Lookup, Resolver};
use crate::finding::{Finding, Object, Rule};
use crate::ids::{CgroupPath, ContainerPath, HostPath};
use crate::policy::maps::{Map, Said, WhichFile, WhichMount};
use crate::source::{Hierarchy, OpenFile, Source};
use crate::target::Target;

/// How many objects are named that a map may have meant.
const CANDIDATES: usize = 3;

/// Where to look for a place on the node that a map names: a pod's stays below the directory that the node allows it.
pub(super) fn lookup(said: &Said, path: &HostPath) -> Lookup {
    let below = said
        .root
        .as_ref()
        .and_then(|root| path.strip(root).map(|rest| Lookup::new(root, rest)));
    below.unwrap_or_else(|| {
        let parent = path.parent().unwrap_or_else(|| path.clone());
        Lookup::new(&parent, path.strip(&parent).unwrap_or("".as_ref()))
    })
}

/// The new container's cgroups, where an explicit map says where the container's own goes.
pub fn place_container(source: &Source, target: &mut Target) {
    for (hierarchy, old) in source.container_cgroups() {
        let Some((new, _)) = target.maps.cgroup(&old) else {
            continue;
        };
        if let Some(place) = target.cgroups.get_mut(&hierarchy) {
            *place = new;
            target.placed_by_map.insert(hierarchy);
        }
    }
}

/// The cgroups that maps lead to, one for each hierarchy that shows it.
pub(super) fn lookups(target: &Target) -> impl Iterator<Item = Lookup> + '_ {
    target.maps.iter().flat_map(|said| match &said.map {
        Map::Cgroup(_, to) => shown(target, to),
        Map::Path(..) | Map::Mount(..) | Map::File(..) => Vec::new(),
    })
}

fn shown(target: &Target, cgroup: &CgroupPath) -> Vec<Lookup> {
    let hierarchies: BTreeSet<&Hierarchy> = target.cgroups.keys().collect();
    let found = hierarchies.into_iter();
    found
        .filter_map(|hierarchy| target.cgroup_lookup(hierarchy, cgroup))
        .collect()
}

/// Says of each map what it applies to; one that applies to nothing forbids the restore.
pub(super) fn check(
    source: &Source,
    target: &Target,
    resolver: &Resolver<'_>,
    findings: &mut Vec<Finding>,
) {
    for said in target.maps.iter() {
        let object = || Object::Map {
            map: said.map.to_string(),
            place: said.place.clone(),
        };
        let wrong = match applies(source, target, resolver, &said.map) {
            Ok(what) => {
                findings.push(Finding::note(
                    Rule::Map,
                    object(),
                    format!("it applies to {what}"),
                ));
                continue;
            }
            Err(_) if said.optional => continue,
            Err(wrong) => wrong,
        };
        let mut finding = Finding::blocker(Rule::Map, object(), wrong.text);
        if !wrong.candidates.is_empty() {
            let nearest = wrong.candidates.join(", ");
            finding = finding.way_out(format!("the nearest there are: {nearest}"));
        }
        findings.push(finding);
    }
}

/// Why a map means nothing here, and what may have been meant.
struct Nothing {
    text: String,
    candidates: Vec<String>,
}

fn applies(
    source: &Source,
    target: &Target,
    resolver: &Resolver<'_>,
    map: &Map,
) -> Result<String, Nothing> {
    match map {
        Map::Path(from, _) => {
            let files = source.open_files().filter(|file| !file.external);
            let paths: Vec<&ContainerPath> = files
                .map(|file| &file.path)
                .chain(
                    source
                        .watches
                        .iter()
                        .filter_map(|watch| watch.path.as_ref()),
                )
                .collect();
            let count = paths
                .iter()
                .filter(|path| path.strip(from).is_some())
                .count();
            counted(count, "open file or watch", || {
                let text = format!("no open file or watch of the checkpoint is below {from}");
                (
                    text,
                    nearest(&from.to_string(), paths.iter().map(ToString::to_string)),
                )
            })
        }
        Map::File(which, _) => {
            let named = |file: &&OpenFile| match which {
                WhichFile::Path(path) => shown_path(source, file) == path,
                WhichFile::Inode(mount, ino) => source
                    .unreachable(file)
                    .is_some_and(|known| known.mnt_id == *mount && known.ino == *ino),
            };
            let count = source.open_files().filter(named).count();
            counted(count, "open file", || no_file(source, which))
        }
        Map::Mount(which, _) => mount(source, target, which),
        Map::Cgroup(from, to) => cgroup(source, target, resolver, from, to),
    }
}

fn counted(
    count: usize,
    what: &str,
    nothing: impl FnOnce() -> (String, Vec<String>),
) -> Result<String, Nothing> {
    match count {
        0 => {
            let (text, candidates) = nothing();
            Err(Nothing { text, candidates })
        }
        1 => Ok(format!("1 {what}")),
        _ => Ok(format!("{count} objects ({what})")),
    }
}

fn shown_path<'a>(source: &'a Source, file: &'a OpenFile) -> &'a ContainerPath {
    let known = source.unreachable(file);
    known.map_or(&file.path, |known| &known.path)
}

fn no_file(source: &Source, which: &WhichFile) -> (String, Vec<String>) {
    match which {
        WhichFile::Path(path) => {
            let paths = source
                .open_files()
                .map(|file| shown_path(source, file).to_string());
            let text = format!("the checkpoint has no open file {path}");
            (text, nearest(&path.to_string(), paths))
        }
        WhichFile::Inode(mount, ino) => {
            let known = source
                .open_files()
                .filter_map(|file| source.unreachable(file));
            let known =
                known.map(|known| format!("{}:{} ({})", known.mnt_id, known.ino, known.path));
            let text = format!(
                "no file on a mount that the container had not got has mnt_id {mount} and inode {ino} ({:x}:{ino:x})",
                mount.0
            );
            (text, known.take(CANDIDATES).collect())
        }
    }
}

fn mount(source: &Source, target: &Target, which: &WhichMount) -> Result<String, Nothing> {
    let old = source.mounts.iter().rfind(|mount| match which {
        WhichMount::Point(at) => mount.mount_point == *at,
        WhichMount::Id(id) => mount.id == *id,
    });
    if let Some(mount) = old {
        let name = format!("mount {} (mnt_id {})", mount.mount_point, mount.id);
        return match mount.ext_key {
            Some(_) => Ok(name),
            None => Err(Nothing {
                text: format!("{name} has no source on the node: CRIU makes it anew"),
                candidates: Vec::new(),
            }),
        };
    }
    let mut added = target.spec_mounts.iter().filter(|spec| spec.bind());
    match which {
        WhichMount::Point(at) if added.any(|spec| spec.destination == *at) => {
            Ok(format!("mount {at}, which only the new pod has"))
        }
        WhichMount::Point(at) => {
            let there = source.mounts.iter().filter(|mount| mount.ext_key.is_some());
            let there = there.map(|mount| mount.mount_point.to_string());
            Err(Nothing {
                text: format!("neither the checkpoint nor the new pod has a mount at {at}"),
                candidates: nearest(&at.to_string(), there),
            })
        }
        WhichMount::Id(id) => {
            let there = source.mounts.iter().filter(|mount| mount.ext_key.is_some());
            let there = there.map(|mount| format!("{} ({})", mount.id, mount.mount_point));
            Err(Nothing {
                text: format!("the checkpoint has no mount with mnt_id {id}"),
                candidates: there.take(CANDIDATES).collect(),
            })
        }
    }
}

fn cgroup(
    source: &Source,
    target: &Target,
    resolver: &Resolver<'_>,
    from: &CgroupPath,
    to: &CgroupPath,
) -> Result<String, Nothing> {
    let members = source.cgroup_sets.values().flat_map(|set| set.values());
    let mut known: BTreeSet<CgroupPath> = source.container_cgroups().into_values().collect();
    known.extend(members.map(|member| member.path.clone()));
    known.extend(
        source
            .open_files()
            .filter_map(|file| resolver.old_cgroup(file)),
    );
    let count = known
        .iter()
        .filter(|path| path.strip(from).is_some())
        .count();
    let places = shown(target, to);
    let absent = |place: &Lookup| target.fact(&place.path()) == Some(None);
    if count > 0 && !places.is_empty() && places.iter().all(absent) {
        return Err(Nothing {
            text: format!("{to} does not exist on this node"),
            candidates: Vec::new(),
        });
    }
    counted(count, "cgroup or file in one", || {
        let text = format!("the checkpoint has no process and no open file in {from}");
        (
            text,
            nearest(&from.to_string(), known.iter().map(ToString::to_string)),
        )
    })
}

/// The names that have most in common with `wanted`: components from the start, and the last one.
fn nearest(wanted: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let likeness = |name: &str| {
        let common = wanted
            .split('/')
            .zip(name.split('/'))
            .take_while(|(a, b)| a == b)
            .count();
        let same_end = wanted.rsplit('/').next() == name.rsplit('/').next();
        common + usize::from(same_end) * 2
    };
    let names: BTreeSet<String> = names.collect();
    let mut names: Vec<(usize, String)> = names
        .into_iter()
        .map(|name| (likeness(&name), name))
        .collect();
    // Stable, so that names that are equally near stay in order.
    names.sort_by_key(|(likeness, _)| std::cmp::Reverse(*likeness));
    names
        .into_iter()
        .take(CANDIDATES)
        .map(|(_, name)| name)
        .collect()
}
