//! The edited images of a plan, in memory.

use std::collections::BTreeMap;
use std::ffi::OsString;

use criu_image::views::{
    CgroupEntry, CoreEntry, FanotifyFileEntry, FhEntry, FileEntry, InotifyFileEntry,
    InventoryEntry, MntEntry, RegFileEntry, UtsnsEntry,
};
use criu_image::{Change, Kind};

use super::{Error, sockets};
use crate::ids::{FileId, MountId};
use crate::plan::{FileEdit, FilePlan, Plan, WatchPlan};
use crate::source::images::{self, ImageDir};
use crate::source::{Hierarchy, LockMethod, WatchKind};

/// Every image that the plan changes, by name.
pub(super) fn edited_images(
    images: &ImageDir,
    plan: &Plan,
) -> Result<BTreeMap<OsString, Vec<u8>>, Error> {
    let mut edited = BTreeMap::new();
    files(images, plan, &mut edited)?;
    mounts(images, plan, &mut edited)?;
    hostname(images, plan, &mut edited)?;
    network_lock(images, plan, &mut edited)?;
    oom_scores(images, plan, &mut edited)?;
    threads(images, plan, &mut edited)?;
    cgroups(images, plan, &mut edited)?;
    Ok(edited)
}

/// CRIU unlocks the network at the end of a restore as the inventory says it locked it at the dump. What is locked at the
/// restore is locked with iptables ([`crate::host::network_lock`]).
fn network_lock(images: &ImageDir, plan: &Plan, edited: &mut Edited) -> Result<(), Error> {
    const NAME: &str = "inventory.img";
    let (method, _) = images::network_lock(images)?;
    if !plan.sockets.locks_network || method == LockMethod::IPTABLES {
        return Ok(());
    }
    let Some(image) = images.image(NAME, Kind::Inventory)? else {
        return Ok(());
    };
    let bytes = image
        .rewrite::<criu_image::Error>(|record| {
            let entry = InventoryEntry {
                network_lock_method: Some(LockMethod::IPTABLES.0),
                ..record.view()?
            };
            record.with(&entry)
        })
        .map_err(images::Error::from)?;
    edited.insert(NAME.into(), bytes);
    Ok(())
}

type Edited = BTreeMap<OsString, Vec<u8>>;

fn files(images: &ImageDir, plan: &Plan, edited: &mut Edited) -> Result<(), Error> {
    const NAME: &str = "files.img";
    let changed = |file: &&FilePlan| {
        file.new != file.old || file.edit != FileEdit::default() || file.handed.is_some()
    };
    let plans = plan
        .files
        .iter()
        .filter(changed)
        .map(|file| (file.id, file));
    let plans: BTreeMap<FileId, &FilePlan> = plans.collect();
    let moved = plan
        .watches
        .iter()
        .filter(|watch| watch.old.as_ref() != Some(&watch.new));
    let watches: Watches<'_> = moved
        .map(|watch| ((watch.kind, watch.instance, watch.wd), watch))
        .collect();
    let sockets = sockets::changed(plan);
    if plans.is_empty() && watches.is_empty() && sockets.is_empty() {
        return Ok(());
    }
    let Some(image) = images.image(NAME, Kind::Files)? else {
        return Ok(());
    };
    let bytes = image
        .rewrite::<criu_image::Error>(|record| {
            let mut entry: FileEntry = record.view()?;
            let changed = if let Some(reg) = &mut entry.reg {
                plans
                    .get(&FileId(reg.id))
                    .map(|file| edit_file(reg, file))
                    .is_some()
            } else if let Some(instance) = &mut entry.ify {
                edit_watches(instance, &watches)
            } else if let Some(group) = &mut entry.ffy {
                edit_marks(group, &watches)
            } else if let Some(socket) = &mut entry.isk {
                let planned = sockets.get(&FileId(socket.id));
                planned.map(|plan| sockets::edit(socket, plan)).is_some()
            } else {
                false
            };
            if changed {
                record.with(&entry)
            } else {
                Ok(Change::Keep)
            }
        })
        .map_err(images::Error::from)?;
    edited.insert(NAME.into(), bytes);
    Ok(())
}

fn edit_file(reg: &mut RegFileEntry, file: &FilePlan) {
    reg.name = file.new.as_path().into();
    if file.edit.drop_size {
        reg.size = None;
    }
    if file.edit.drop_mode {
        reg.mode = None;
    }
    if let Some(pos) = file.edit.pos {
        reg.pos = pos;
    }
    if file.edit.detach {
        reg.mnt_id = None;
        reg.ext = None;
        reg.build_id.clear();
    }
    if let Some(key) = file.key() {
        reg.name = key.as_str().into();
        reg.ext = Some(true);
        reg.mnt_id = None;
        // CRIU opens `/proc/self/fd/<number>`, which is a link.
        reg.flags &= !libc::O_NOFOLLOW.cast_unsigned();
    }
}

/// By kind, instance and number.
type Watches<'a> = BTreeMap<(WatchKind, FileId, u32), &'a WatchPlan>;

fn edit_watches(instance: &mut InotifyFileEntry, watches: &Watches<'_>) -> bool {
    let mut changed = false;
    for entry in &mut instance.wd {
        let key = (WatchKind::Inotify, FileId(instance.id), entry.wd);
        if let Some(watch) = watches.get(&key) {
            point(&mut entry.f_handle, watch);
            changed = true;
        }
    }
    changed
}

fn edit_marks(group: &mut FanotifyFileEntry, watches: &Watches<'_>) -> bool {
    let mut changed = false;
    for (wd, mark) in (0..).zip(&mut group.mark) {
        let key = (WatchKind::Fanotify, FileId(group.id), wd);
        if let (Some(inode), Some(watch)) = (&mut mark.ie, watches.get(&key)) {
            point(&mut inode.f_handle, watch);
            changed = true;
        }
    }
    changed
}

/// CRIU opens the path, where there is one, and asks for the handle else (`criu/fsnotify.c`, `get_mark_path`).
fn point(handle: &mut FhEntry, watch: &WatchPlan) {
    handle.path = Some(watch.new.as_path().into());
    handle.mnt_id = watch.mnt_id.map(|id| id.0).or(handle.mnt_id);
}

fn mounts(images: &ImageDir, plan: &Plan, edited: &mut Edited) -> Result<(), Error> {
    let below = plan.mounts.iter().filter(|mount| mount.below);
    let keys: BTreeMap<MountId, &str> = below
        .map(|mount| (mount.mnt_id, mount.key.as_str()))
        .collect();
    if plan.dropped_mounts.is_empty() && keys.is_empty() {
        return Ok(());
    }
    for name in images.names()? {
        let text = name.to_string_lossy();
        if !(text.starts_with("mountpoints-") && text.ends_with(".img")) {
            continue;
        }
        let Some(image) = images.image(&text, Kind::Mountpoints)? else {
            continue;
        };
        let bytes = image.rewrite::<criu_image::Error>(|record| {
            let mut entry: MntEntry = record.view()?;
            let id = MountId(entry.mnt_id);
            if plan.dropped_mounts.contains(&id) {
                return Ok(Change::Remove);
            }
            match keys.get(&id) {
                Some(key) => {
                    entry.ext_key = Some((*key).into());
                    record.with(&entry)
                }
                None => Ok(Change::Keep),
            }
        });
        edited.insert(name, bytes.map_err(images::Error::from)?);
    }
    Ok(())
}

fn oom_scores(images: &ImageDir, plan: &Plan, edited: &mut Edited) -> Result<(), Error> {
    for score in &plan.oom_scores {
        let name = format!("core-{}.img", score.pid);
        let Some(image) = images.image(&name, Kind::Core)? else {
            continue;
        };
        let bytes = image.rewrite::<criu_image::Error>(|record| {
            let mut entry: CoreEntry = record.view()?;
            match &mut entry.tc {
                Some(task) => {
                    task.oom_score_adj = Some(score.new);
                    record.with(&entry)
                }
                None => Ok(Change::Keep),
            }
        });
        edited.insert(name.into(), bytes.map_err(images::Error::from)?);
    }
    Ok(())
}

/// Threads without a cgroup set of their own stay with their process.
fn threads(images: &ImageDir, plan: &Plan, edited: &mut Edited) -> Result<(), Error> {
    for thread in &plan.cgroup.threads {
        let name = format!("core-{thread}.img");
        let Some(image) = images.image(&name, Kind::Core)? else {
            continue;
        };
        let bytes = image.rewrite::<criu_image::Error>(|record| {
            let mut entry: CoreEntry = record.view()?;
            match &mut entry.thread_core {
                Some(core) => {
                    core.cg_set = None;
                    record.with(&entry)
                }
                None => Ok(Change::Keep),
            }
        });
        edited.insert(name.into(), bytes.map_err(images::Error::from)?);
    }
    Ok(())
}

fn hostname(images: &ImageDir, plan: &Plan, edited: &mut Edited) -> Result<(), Error> {
    let Some(hostname) = plan
        .hostname
        .as_ref()
        .filter(|hostname| hostname.old != hostname.new)
    else {
        return Ok(());
    };
    let name = format!("utsns-{}.img", hostname.namespace);
    let Some(image) = images.image(&name, Kind::Utsns)? else {
        return Ok(());
    };
    let bytes = image
        .rewrite::<criu_image::Error>(|record| {
            let entry = UtsnsEntry {
                nodename: hostname.new.as_str().into(),
                ..record.view()?
            };
            record.with(&entry)
        })
        .map_err(images::Error::from)?;
    edited.insert(name.into(), bytes);
    Ok(())
}

/// Takes hierarchies out, with the places that tasks had in them (CRIU wants a controller for each,
/// `criu/cgroup.c`, `prepare_cgns`).
fn cgroups(images: &ImageDir, plan: &Plan, edited: &mut Edited) -> Result<(), Error> {
    const NAME: &str = "cgroup.img";
    let taken_out = &plan.cgroup.taken_out;
    if taken_out.is_empty() {
        return Ok(());
    }
    let Some(image) = images.image(NAME, Kind::Cgroup)? else {
        return Ok(());
    };
    let bytes = image
        .rewrite::<criu_image::Error>(|record| {
            let mut entry: CgroupEntry = record.view()?;
            for set in &mut entry.sets {
                set.ctls
                    .retain(|member| !taken_out.contains(&Hierarchy(member.name.to_string())));
            }
            entry.controllers.retain(|controller| {
                let names: Vec<String> =
                    controller.cnames.iter().map(ToString::to_string).collect();
                !taken_out.contains(&Hierarchy(names.join(",")))
            });
            record.with(&entry)
        })
        .map_err(images::Error::from)?;
    edited.insert(NAME.into(), bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Rule;
    use crate::ids::{ContainerPath, HostPath};
    use crate::plan::Lookup;

    #[test]
    fn a_file_that_is_handed_in_has_its_key_for_a_name_and_no_mount() {
        let mut reg = RegFileEntry {
            id: 0x1f,
            name: "/x/cpu.stat".into(),
            mnt_id: Some(Default::default()),
            size: Some(5),
            mode: Some(0o100_444),
            build_id: vec![1],
            flags: (libc::O_WRONLY | libc::O_APPEND | libc::O_NOFOLLOW).cast_unsigned(),
            ..RegFileEntry::default()
        };
        let lookup = Lookup {
            root: HostPath::new("/sys/fs/cgroup"),
            rest: "cpu.stat".into(),
        };
        let plan = FilePlan {
            id: FileId(0x1f),
            old: ContainerPath::new("/x/cpu.stat"),
            new: ContainerPath::new("/sys/fs/cgroup/cpu.stat"),
            old_object: None,
            new_object: None,
            rule: Rule::Foreign,
            edit: FileEdit {
                drop_size: true,
                ..FileEdit::default()
            },
            handed: Some(lookup),
            flags: 0,
            pos: 0,
            regular: true,
            expect: None,
            holders: Vec::new(),
        };
        edit_file(&mut reg, &plan);
        assert_eq!(
            (reg.name.to_string(), reg.ext),
            ("restow[1f]".into(), Some(true))
        );
        assert_eq!(
            (reg.mnt_id, reg.size, reg.mode),
            (None, None, Some(0o100_444))
        );
        assert_eq!(reg.build_id, [1], "no check goes that the plan keeps");
        assert_eq!(
            reg.flags.cast_signed(),
            libc::O_WRONLY | libc::O_APPEND,
            "a link in /proc is followed"
        );
    }
}
