//! Carries an installation out, or takes it back, one step after the other. Every step can be the last one.
//!
//! ```text
//!   install     journal (installing) → directories → keep what is edited → put in place, by rename → journal (installed)
//!   uninstall   journal (removing) → take back, last one first → directories → journal and its directory go
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::change::{self, Change, FILE_MODE, PROGRAM_MODE, Wanted};
use super::containerd;
use super::journal::{
    Entry, JOURNAL, Journal, Phase, STATE_DIR, remove_directory, remove_file, sync_directory_of,
};
use super::root::NodeRoot;
use super::state::{Digest, State, own_as};

/// Why nothing is done.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// Something of somebody else is where ours belongs.
    #[error("{} is there already and not Restow's ({what}): move it away, or choose another place", path.display())]
    NotOurs {
        /// The path.
        path: PathBuf,
        /// What is wanted there.
        what: String,
    },
    /// What was kept by an installation that has no journal.
    #[error(
        "{} is there, but no journal says whose it is: it is what an earlier installation kept; compare it, then move it away",
        path.display()
    )]
    Kept {
        /// The path.
        path: PathBuf,
    },
    /// Something else than a directory on the way.
    #[error("{} is no directory", path.display())]
    NoDirectory {
        /// The path.
        path: PathBuf,
    },
    /// Ours, changed by somebody since.
    #[error(
        "{} was changed since Restow put it there ({what}): save what you need of it, and remove it or say --force",
        path.display()
    )]
    Changed {
        /// The path.
        path: PathBuf,
        /// What it was.
        what: String,
    },
}

/// Called before each step that changes the node, with what is done; an error ends the work there.
pub type BeforeStep<'a> = &'a mut dyn FnMut(&str) -> io::Result<()>;

/// What is done to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is there as wanted, since an earlier installation.
    Keep,
    /// It was there as wanted before any installation: it is not ours, and stays when all is taken back.
    Found,
    /// It is made.
    Create,
    /// A newer one takes the place of ours.
    Replace,
    /// A part of ours is put into somebody else's file.
    Edit,
    /// It was ours and is not needed any more.
    Remove,
}

/// What an installation does, worked out and not done yet.
#[derive(Debug)]
pub struct Steps {
    changes: Vec<(Change, Action)>,
    obsolete: Vec<Entry>,
    directories: Vec<PathBuf>,
    old: Option<Journal>,
}

impl Steps {
    /// Works out what has to be done so that `changes` are there, after what `old` says of an earlier installation.
    ///
    /// # Errors
    /// With a [`Refusal`], or when the node cannot be looked at.
    pub fn work_out(node: &NodeRoot, changes: Vec<Change>, old: Option<Journal>) -> Result<Self> {
        let mut steps = Self {
            changes: Vec::new(),
            obsolete: Vec::new(),
            directories: Vec::new(),
            old,
        };
        for change in changes {
            let action = steps.action(node, &change)?;
            if action != Action::Found && action != Action::Keep {
                steps.missing_directories(node, &change.path)?;
            }
            steps.changes.push((change, action));
        }
        let wanted = |entry: &&Entry| !steps.changes.iter().any(|(c, _)| c.path == entry.path);
        let old = steps.old.iter().flat_map(|journal| &journal.entries);
        steps.obsolete = old.filter(wanted).cloned().collect();
        check_unchanged(node, &steps.obsolete)?;
        Ok(steps)
    }

    fn action(&self, node: &NodeRoot, change: &Change) -> Result<Action> {
        let now = look(node, &change.path)?;
        let entry = self
            .old
            .as_ref()
            .and_then(|journal| journal.entry(&change.path));
        let ours = entry.is_some_and(|entry| entry.marks.iter().any(|mark| mark.is(&now)));
        if change.is_done(&now) {
            return Ok(if ours { Action::Keep } else { Action::Found });
        }
        if change.is_edit() {
            let kept = change::kept(&change.path);
            let known = entry.is_some_and(|entry| entry.before.is_some());
            if !known && look(node, &kept)? != State::Absent {
                return Err(Refusal::Kept { path: kept }.into());
            }
            return Ok(Action::Edit);
        }
        match now {
            State::Absent => Ok(Action::Create),
            _ if ours => Ok(Action::Replace),
            _ => Err(Refusal::NotOurs {
                path: change.path.clone(),
                what: change.what.clone(),
            }
            .into()),
        }
    }

    /// Notes the directories above `path` that are not there.
    fn missing_directories(&mut self, node: &NodeRoot, path: &Path) -> Result<()> {
        let mut missing = Vec::new();
        for dir in path.ancestors().skip(1) {
            let place = node.place(dir, true)?;
            match fs::metadata(&place) {
                Ok(meta) if meta.is_dir() => break,
                Ok(_) => return Err(Refusal::NoDirectory { path: dir.into() }.into()),
                Err(_) => missing.push(dir.to_owned()),
            }
        }
        missing.reverse();
        missing.retain(|dir| !self.directories.contains(dir));
        self.directories.append(&mut missing);
        Ok(())
    }

    /// What is done to which path, for reports.
    pub fn list(&self) -> impl Iterator<Item = (&Path, &str, Action)> {
        let changes = self.changes.iter();
        let changes = changes.map(|(change, action)| (&*change.path, &*change.what, *action));
        let obsolete = self.obsolete.iter();
        changes.chain(obsolete.map(|entry| (&*entry.path, &*entry.what, Action::Remove)))
    }

    /// Whether everything is there, and was said to be.
    #[must_use]
    pub fn nothing_to_do(&self) -> bool {
        let done = |(_, action): &(_, Action)| matches!(action, Action::Keep | Action::Found);
        let settled = |journal: &Journal| journal.phase == Phase::Installed;
        self.obsolete.is_empty()
            && self.changes.iter().all(done)
            && self.old.as_ref().is_none_or(settled)
    }

    /// Does it. When a step fails on a node where nothing was installed before, what was done is taken back.
    ///
    /// # Errors
    /// With the step that failed.
    pub fn carry_out(
        self,
        node: &NodeRoot,
        services: Vec<String>,
        before: BeforeStep<'_>,
    ) -> Result<()> {
        let fresh = self.old.is_none();
        let journal = self.journal(services);
        let outcome = self.perform(node, &journal, before);
        let Err(error) = outcome else { return Ok(()) };
        if !fresh {
            return Err(error.context(
                "The installation is not complete; run `restow install` again, or `restow uninstall`",
            ));
        }
        match take_back(node, &journal, &mut |_| Ok(())) {
            Ok(()) => Err(error.context("Nothing is installed")),
            Err(more) => Err(error.context(format!(
                "The installation failed, and not all of it could be taken back ({more:#}); run `restow uninstall`"
            ))),
        }
    }

    /// The journal as it has to be before the first step.
    fn journal(&self, services: Vec<String>) -> Journal {
        let mut journal = self.old.clone().unwrap_or(Journal::new(Phase::Installing));
        journal.phase = Phase::Installing;
        env!("CARGO_PKG_VERSION").clone_into(&mut journal.restow);
        journal.services.extend(services);
        journal.services.sort();
        journal.services.dedup();
        for dir in &self.directories {
            if !journal.directories.contains(dir) {
                journal.directories.push(dir.clone());
            }
        }
        for (change, action) in &self.changes {
            if *action == Action::Found {
                continue;
            }
            let mark = change.mark();
            let before = match &change.wanted {
                Wanted::Edited { base, .. } => Some(Digest::of(base.as_bytes())),
                _ => None,
            };
            let known = journal.entries.iter_mut();
            match known.into_iter().find(|entry| entry.path == change.path) {
                Some(entry) => {
                    entry.before = before;
                    if !entry.marks.contains(&mark) {
                        entry.marks.push(mark);
                    }
                }
                None => journal.entries.push(Entry {
                    path: change.path.clone(),
                    what: change.what.clone(),
                    marks: vec![mark],
                    before,
                }),
            }
        }
        journal
    }

    fn perform(&self, node: &NodeRoot, journal: &Journal, before: BeforeStep<'_>) -> Result<()> {
        before("make the journal's directory")?;
        make_directory(node, Path::new(STATE_DIR))?;
        before("write the journal")?;
        journal
            .write(node)
            .with_context(|| format!("Write {JOURNAL}"))?;
        for dir in &self.directories {
            before("make a directory")?;
            make_directory(node, dir)?;
        }
        for (change, action) in &self.changes {
            if matches!(action, Action::Keep | Action::Found) {
                continue;
            }
            put(node, change, before)
                .with_context(|| format!("Put {} in place", change.path.display()))?;
        }
        for entry in self.obsolete.iter().rev() {
            undo(node, entry, before)?;
        }
        let mut journal = journal.clone();
        journal.phase = Phase::Installed;
        journal
            .entries
            .retain(|entry| !self.obsolete.contains(entry));
        for (change, action) in &self.changes {
            let mut entries = journal.entries.iter_mut();
            if let Some(entry) = entries.find(|entry| entry.path == change.path)
                && *action != Action::Found
            {
                entry.marks = vec![change.mark()];
            }
        }
        before("say in the journal that all is there")?;
        journal
            .write(node)
            .with_context(|| format!("Write {JOURNAL}"))
    }
}

/// Takes everything back that `journal` names.
///
/// # Errors
/// When a file of ours was changed since (without `force`), or with the step that failed: what is done stays done, and the next
/// call goes on.
pub fn uninstall(
    node: &NodeRoot,
    journal: &Journal,
    force: bool,
    before: BeforeStep<'_>,
) -> Result<()> {
    if !force {
        check_unchanged(node, &journal.entries)?;
    }
    let mut journal = journal.clone();
    journal.phase = Phase::Removing;
    before("say in the journal that all goes")?;
    journal
        .write(node)
        .with_context(|| format!("Write {JOURNAL}"))?;
    take_back(node, &journal, before)
}

/// Removes the journal's directory where an installation ended before it wrote one.
///
/// # Errors
/// When it cannot be removed.
pub fn tidy(node: &NodeRoot) -> Result<()> {
    Journal::remove(node).with_context(|| format!("Remove {STATE_DIR}"))
}

fn take_back(node: &NodeRoot, journal: &Journal, before: BeforeStep<'_>) -> Result<()> {
    for entry in journal.entries.iter().rev() {
        undo(node, entry, before)?;
    }
    for dir in journal.directories.iter().rev() {
        before("remove a directory")?;
        let place = node.place(dir, true)?;
        remove_directory(&place).with_context(|| format!("Remove {}", dir.display()))?;
    }
    before("remove the journal")?;
    tidy(node)
}

fn look(node: &NodeRoot, path: &Path) -> Result<State> {
    let state = node.place(path, false).and_then(|place| State::at(&place));
    state.with_context(|| format!("Look at {}", path.display()))
}

/// Refuses when something of ours is not as it was put there. Files of others may change: our part is found in them.
fn check_unchanged(node: &NodeRoot, entries: &[Entry]) -> Result<()> {
    for entry in entries.iter().filter(|entry| entry.before.is_none()) {
        let now = look(node, &entry.path)?;
        if now != State::Absent && !entry.marks.iter().any(|mark| mark.is(&now)) {
            return Err(Refusal::Changed {
                path: entry.path.clone(),
                what: entry.what.clone(),
            }
            .into());
        }
    }
    Ok(())
}

fn make_directory(node: &NodeRoot, dir: &Path) -> Result<()> {
    let place = node.place(dir, true)?;
    fs::create_dir_all(&place).with_context(|| format!("Make the directory {}", dir.display()))
}

fn put(node: &NodeRoot, change: &Change, before: BeforeStep<'_>) -> Result<()> {
    let place = node.place(&change.path, false)?;
    let new = change::unfinished(&place);
    remove_file(&new)?;
    match &change.wanted {
        Wanted::Program { from, .. } => {
            before("write a program")?;
            let mut source =
                File::open(from).with_context(|| format!("Open {}", from.display()))?;
            write_new(&new, &mut source, None, PROGRAM_MODE)?;
        }
        Wanted::File(text) => {
            before("write a file")?;
            write_new(&new, &mut text.as_bytes(), None, FILE_MODE)?;
        }
        Wanted::Link(target) => {
            before("make a link")?;
            std::os::unix::fs::symlink(target, &new)?;
        }
        Wanted::Edited { base, text } => {
            keep(&place, base, before)?;
            before("write a file with our part")?;
            let like = fs::metadata(&place)?;
            write_new(&new, &mut text.as_bytes(), Some(&like), FILE_MODE)?;
        }
    }
    before("put it in place")?;
    fs::rename(&new, &place)?;
    sync_directory_of(&place)?;
    Ok(())
}

/// Keeps what was there before our part came into it.
fn keep(place: &Path, base: &str, before: BeforeStep<'_>) -> Result<()> {
    let kept = change::kept(place);
    let wanted = Digest::of(base.as_bytes());
    let is_base = |state: &State| matches!(state, State::File { digest, .. } if *digest == wanted);
    if is_base(&State::at(&kept)?) {
        return Ok(());
    }
    before("keep what was there")?;
    if is_base(&State::at(place)?) {
        // The file itself, with its times and attributes: it comes back by rename.
        remove_file(&kept)?;
        if fs::hard_link(place, &kept).is_ok() {
            return Ok(());
        }
    }
    let like = fs::metadata(place)?;
    let new = change::unfinished(&kept);
    write_new(&new, &mut base.as_bytes(), Some(&like), FILE_MODE)?;
    File::options()
        .write(true)
        .open(&new)?
        .set_modified(like.modified()?)?;
    fs::rename(&new, &kept)?;
    Ok(())
}

fn write_new(
    path: &Path,
    content: &mut dyn io::Read,
    like: Option<&fs::Metadata>,
    mode: u32,
) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut file = File::options().write(true).create_new(true).open(path)?;
    io::copy(content, &mut file)?;
    match like {
        Some(like) => own_as(&file, like)?,
        None => file.set_permissions(fs::Permissions::from_mode(mode))?,
    }
    file.flush()?;
    file.sync_all()
}

/// Takes one entry back, whatever of it is there.
fn undo(node: &NodeRoot, entry: &Entry, before: BeforeStep<'_>) -> Result<()> {
    let place = node.place(&entry.path, false)?;
    let mut work = || -> Result<()> {
        remove_file(&change::unfinished(&place))?;
        let now = State::at(&place)?;
        let ours = entry.marks.iter().any(|mark| mark.is(&now));
        let Some(original) = &entry.before else {
            before("remove what is ours")?;
            return Ok(remove_file(&place)?);
        };
        let kept = change::kept(&place);
        remove_file(&change::unfinished(&kept))?;
        if ours && matches!(State::at(&kept)?, State::File { digest, .. } if digest == *original) {
            before("put back what was there")?;
            fs::rename(&kept, &place)?;
            return Ok(sync_directory_of(&place)?);
        }
        // Somebody has written to it since: only our part goes.
        if matches!(now, State::File { .. }) {
            let text = fs::read_to_string(&place)?;
            let without = containerd::without_ours(&text);
            if without != text {
                before("take our part out")?;
                let new = change::unfinished(&place);
                let like = fs::metadata(&place)?;
                write_new(&new, &mut without.as_bytes(), Some(&like), FILE_MODE)?;
                fs::rename(&new, &place)?;
            }
        }
        before("remove what was kept")?;
        Ok(remove_file(&kept)?)
    };
    work().with_context(|| format!("Take back {}", entry.path.display()))
}
