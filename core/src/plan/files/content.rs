//! Files whose content is the new pod's: what the runtime writes, what is on volumes, and where explicit maps lead.

use std::collections::BTreeSet;

use super::{UNCHECKED, follow, is_directory, is_regular, unchanged};
use crate::finding::{Finding, Object, Rule};
use crate::ids::NsPid;
use crate::plan::mapped::Mapped;
use crate::plan::mounts::processes;
use crate::plan::resolve::Lookup;
use crate::plan::{FileEdit, FilePlan};
use crate::source::OpenFile;
use crate::target::FileFact;

pub(super) fn managed_file(
    file: &OpenFile,
    lookup: &Lookup,
    fact: Option<Option<FileFact>>,
    object: impl Fn() -> Object,
    findings: &mut Vec<Finding>,
) -> Option<FilePlan> {
    let mut edit = UNCHECKED;
    let mut expect = None;
    match fact {
        Some(None) => {
            findings.push(Finding::blocker(
                Rule::RuntimeManaged,
                object(),
                format!(
                    "{} does not exist in the new pod; the program holds it open",
                    lookup.path()
                ),
            ));
            return None;
        }
        Some(Some(found)) => {
            expect = Some(found.id);
            edit.pos = beyond(file, &found);
            if let Some(end) = edit.pos {
                let text = format!(
                    "offset {} lies behind the end of the new pod's file and becomes {end}",
                    file.pos
                );
                findings.push(Finding::note(Rule::RuntimeManaged, object(), text));
            }
        }
        None => {}
    }
    Some(follow(file, lookup, Rule::RuntimeManaged, edit, expect))
}

/// Where the offset of a file goes that lies behind the end: there it would read as end of file for ever. For appending the
/// kernel ignores it.
pub(super) fn beyond(file: &OpenFile, found: &FileFact) -> Option<u64> {
    let clamped = is_regular(Some(found.mode)) && file.pos > found.size && !file.append();
    clamped.then_some(found.size)
}

/// A file at the place in the container that an explicit map says.
pub(super) fn mapped_file(
    file: &OpenFile,
    mapped: Mapped,
    fact: Option<Option<FileFact>>,
    object: impl Fn() -> Object,
    findings: &mut Vec<Finding>,
) -> Option<FilePlan> {
    let path = &mapped.path;
    let size = file
        .size
        .filter(|_| mapped.checked && is_regular(file.mode));
    let wrong = match fact {
        // A descriptor of a regular file can be handed in.
        _ if mapped.too_late && !is_regular(file.mode) => Some(format!(
            "a map gives it {path}, on a mount that only the new pod has, which is attached when files are open already"
        )),
        Some(None) => Some(format!("a map gives it {path}, where nothing is")),
        Some(Some(found)) => size.filter(|size| *size != found.size).map(|size| {
            format!(
                "a map gives it {path}, which has {} bytes; it had {size} when the checkpoint was made",
                found.size
            )
        }),
        None => None,
    };
    if let Some(text) = wrong {
        findings.push(Finding::blocker(Rule::Map, object(), text));
        return None;
    }
    let found = fact.flatten();
    let directory = is_directory(file.mode);
    let edit = FileEdit {
        drop_size: !mapped.checked || directory,
        drop_mode: !mapped.checked,
        // One that was handed to CRIU as external has a path again.
        detach: file.external,
        pos: found
            .filter(|_| !mapped.checked)
            .and_then(|found| beyond(file, &found)),
    };
    let on_node = mapped.lookup.as_ref().map(Lookup::path);
    Some(FilePlan {
        new: mapped.path,
        new_object: on_node.map(|path| path.to_string()),
        edit,
        handed: mapped.lookup.filter(|_| mapped.too_late),
        expect: found.map(|found| found.id),
        ..unchanged(file, Rule::Map)
    })
}

pub(super) fn volume_file(
    file: &OpenFile,
    users: Option<&BTreeSet<NsPid>>,
    lookup: &Lookup,
    fact: Option<Option<FileFact>>,
    object: impl Fn() -> Object,
    findings: &mut Vec<Finding>,
) -> Option<FilePlan> {
    let path = lookup.path();
    let mut edit = FileEdit::default();
    let mut differs = |text: String| {
        let used = users.map_or_else(String::new, |users| {
            let users = processes(users);
            format!(" (in use by {users} as working directory, executable or mapping)")
        });
        let text =
            format!("{text}{used}; the new pod's volume must have the content of the old one");
        findings.push(Finding::blocker(Rule::Volume, object(), text));
    };
    let expect = match fact {
        Some(None) => {
            differs(format!("{path} does not exist"));
            return None;
        }
        Some(Some(found)) => {
            let other = file.size.filter(|size| *size != found.size);
            match other {
                // The size of a directory depends on the file system, not on what is in it.
                Some(_) if is_directory(file.mode) => edit.drop_size = true,
                Some(size) if is_regular(file.mode) => {
                    if !file.append() || users.is_some() {
                        differs(of_other_size(&path.to_string(), size, found.size));
                        return None;
                    }
                    edit.drop_size = true;
                    // For writing the kernel ignores the offset; behind the end it would read as end of file for ever.
                    let readable = file.flags & libc::O_ACCMODE == libc::O_RDWR;
                    edit.pos = Some(found.size).filter(|end| readable && file.pos > *end);
                    let mut text = format!(
                        "{}; it is only appended to, which goes on at its end",
                        of_other_size(&path.to_string(), size, found.size)
                    );
                    if let Some(end) = edit.pos {
                        text += &format!(", and the offset {} becomes {end}", file.pos);
                    }
                    findings.push(Finding::note(Rule::Volume, object(), text));
                }
                _ => {}
            }
            Some(found.id)
        }
        None => None,
    };
    Some(follow(file, lookup, Rule::Volume, edit, expect))
}

/// In words, how a file differs from what it was at the checkpoint.
fn of_other_size(path: &str, old: u64, new: u64) -> String {
    let how = if new > old { "longer" } else { "shorter" };
    format!("{path} has {new} bytes and had {old} when the checkpoint was made, so it is {how}")
}
