//! containerd's configuration: where our runtime handlers go, and how they come out again.
//!
//! containerd 2 merges what files that `imports` names say about a plugin, so the handlers are in a file of their own.
//! containerd 1.x takes the whole section of a plugin from the last file that has one (`mergeConfig`, `cmd/containerd/server/config`):
//! a file with nothing but our handlers would take away every other setting of the CRI plugin. There they are appended to the file
//! that has the section, between two marks.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use toml_edit::{Array, DocumentMut, Item, Table, value};

use super::change::{Change, Wanted};
use super::journal::Journal;
use super::root::NodeRoot;
use super::state::State;

/// containerd's main configuration.
pub const MAIN: &str = "/etc/containerd/config.toml";
/// The file of ours that containerd 2 imports.
pub const DROP_IN: &str = "/etc/containerd/conf.d/restow.toml";
/// What imports it, also in containerd's own default since 2.2.
const PATTERN: &str = "/etc/containerd/conf.d/*.toml";
const BEGIN: &str = "# BEGIN restow: made by `restow install`, taken out by `restow uninstall`";
const END: &str = "# END restow";
/// What the kubelet, ctr and containerd itself take for runc; our shim answers to it.
const RUNTIME_TYPE: &str = "io.containerd.runc.v2";
/// Annotations of pods that have to get into the specs of containers.
const ANNOTATIONS: &str = "restow.dev/*";

/// A runtime handler of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// Its name, which a RuntimeClass names.
    pub name: String,
    /// Our shim, as the node has it.
    pub shim: PathBuf,
    /// The OCI runtime, where it is not the one of the node's default handler.
    pub runtime: Option<PathBuf>,
}

/// The configuration files of a node's containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The files with their texts, as they are without our part; the main one first, then those it imports.
    files: Vec<(PathBuf, String)>,
    /// Whether the main one is there.
    exists: bool,
    /// The version of the main one.
    version: i64,
    /// Whether files are merged key by key.
    merges: bool,
    /// What containerd does without a file, as it prints it itself.
    default: Option<String>,
}

impl Config {
    /// Reads it. `major` is the first number of containerd's version and `default` its configuration without a file, where they are known.
    ///
    /// # Errors
    /// When a file cannot be read, is no TOML or of a version too old.
    pub fn read(
        node: &NodeRoot,
        journal: Option<&Journal>,
        major: Option<u32>,
        default: Option<String>,
    ) -> Result<Self> {
        // An edit goes to the file, not to a link that leads there.
        let main_path = node
            .real(Path::new(MAIN))
            .with_context(|| format!("Follow {MAIN}"))?;
        let main = base(node, journal, &main_path)?;
        let exists = main.is_some();
        let text = main.unwrap_or_default();
        let parsed = parse(Path::new(MAIN), &text)?;
        let version = match parsed.get("version").and_then(Item::as_integer) {
            Some(version @ (2 | 3)) => version,
            None if !exists && major.is_some_and(|major| major >= 2) => 3,
            None if !exists => 2,
            other => bail!(
                "{MAIN} is of version {}, which Restow does not edit: `containerd config migrate` makes a newer one",
                other.unwrap_or(1)
            ),
        };
        let imported = imports(&parsed);
        let mut files = vec![(main_path, text)];
        for pattern in imported {
            for path in matching(node, &pattern)? {
                let path = node.real(&path)?;
                if path == Path::new(DROP_IN) || files.iter().any(|(known, _)| *known == path) {
                    continue;
                }
                let text = base(node, journal, &path)?.unwrap_or_default();
                parse(&path, &text)?;
                files.push((path, text));
            }
        }
        Ok(Self {
            files,
            exists,
            version,
            // A configuration of version 3 is read by containerd 2 only.
            merges: major.map_or(version == 3, |major| major >= 2),
            default,
        })
    }

    /// What has to change so that `handlers` are there.
    ///
    /// # Errors
    /// When one of that name is there already, or a file cannot be edited.
    pub fn changes(&self, handlers: &[Handler]) -> Result<Vec<Change>> {
        if handlers.is_empty() {
            return Ok(Vec::new());
        }
        for handler in handlers {
            if let Some((path, _)) = self.table(&["runtimes", &handler.name]) {
                bail!(
                    "{} has a runtime handler {:?} already, which Restow did not make: rename it or say --handler NAME",
                    path.display(),
                    handler.name
                );
            }
        }
        let text = self.handlers(handlers);
        let names: Vec<&str> = handlers.iter().map(|handler| &*handler.name).collect();
        let what = format!("containerd's runtime handlers {}", names.join(", "));
        let (main_path, main) = &self.files[0];
        if !self.merges {
            if !self.exists {
                let wanted = Wanted::File(format!("version = {}\n{text}", self.version));
                return Ok(vec![change(main_path, wanted, &what)]);
            }
            let holds = |(path, text): &&(PathBuf, String)| {
                parse(path, text).is_ok_and(|doc| {
                    doc.get("plugins")
                        .is_some_and(|plugins| plugins.get(self.plugin()).is_some())
                })
            };
            let (path, base) = self
                .files
                .iter()
                .rev()
                .find(holds)
                .unwrap_or(&self.files[0]);
            let edited = appended(path, base, &text)?;
            return Ok(vec![change(path, edited, &what)]);
        }
        let drop_in = Wanted::File(format!(
            "# Made by `restow install`; `restow uninstall` removes it.\nversion = {}\n{text}",
            self.version
        ));
        let mut changes = vec![change(Path::new(DROP_IN), drop_in, &what)];
        let what = format!("the import of {DROP_IN}");
        if !self.exists {
            let text = format!("version = {}\nimports = [\"{PATTERN}\"]\n", self.version);
            changes.push(change(main_path, Wanted::File(text), &what));
        } else if !imports(&parse(main_path, main)?)
            .iter()
            .any(|pattern| matches(pattern, Path::new(DROP_IN)))
        {
            let edited = Wanted::Edited {
                base: main.clone(),
                text: importing(main_path, main)?,
            };
            changes.push(change(main_path, edited, &what));
        }
        Ok(changes)
    }

    /// The name of the plugin that has the runtime handlers.
    fn plugin(&self) -> &'static str {
        plugin(self.version)
    }

    /// A table below the plugin's `containerd`, in the last file that has it.
    fn table(&self, path: &[&str]) -> Option<(&Path, Table)> {
        self.files.iter().rev().find_map(|(file, text)| {
            let doc = parse(file, text).ok()?;
            let mut item = doc.get("plugins")?.get(self.plugin())?.get("containerd")?;
            for name in path {
                item = item.get(name)?;
            }
            let table = item.clone().into_table().ok()?;
            Some((file.as_path(), table))
        })
    }

    /// The handlers as text: each as the node's default one is set, with our shim.
    fn handlers(&self, handlers: &[Handler]) -> String {
        let default = self.table(&[]).and_then(|(_, containerd)| {
            Some(containerd.get("default_runtime_name")?.as_str()?.to_owned())
        });
        let of_runc = |name: &str| {
            let (_, table) = self.table(&["runtimes", name])?;
            let kind = table.get("runtime_type").and_then(Item::as_str);
            (kind == Some(RUNTIME_TYPE)).then_some(table)
        };
        let like = default.as_deref().and_then(of_runc);
        let like = like.or_else(|| of_runc("runc")).unwrap_or_default();
        let mut runtimes = Table::new();
        runtimes.set_implicit(true);
        if self.table(&["runtimes"]).is_none() {
            // With a handler in a file, containerd forgets the one it has without.
            runtimes.insert("runc", Item::Table(self.default_handler()));
        }
        for handler in handlers {
            runtimes.insert(&handler.name, Item::Table(handler.table(&like)));
        }
        let mut item = Item::Table(runtimes);
        for name in ["runtimes", "containerd", self.plugin(), "plugins"] {
            let mut outer = Table::new();
            outer.set_implicit(true);
            outer.insert(name, item);
            item = Item::Table(outer);
        }
        let mut doc = DocumentMut::new();
        if let Item::Table(table) = item {
            *doc.as_table_mut() = table;
        }
        doc.to_string()
    }
}

impl Config {
    /// The handler that containerd has without a file.
    fn default_handler(&self) -> Table {
        let known = || {
            let doc = parse(Path::new(MAIN), self.default.as_deref()?).ok()?;
            let version = doc.get("version")?.as_integer()?;
            let runtimes = doc
                .get("plugins")?
                .get(plugin(version))?
                .get("containerd")?
                .get("runtimes")?;
            let mut table = runtimes.get("runc")?.clone().into_table().ok()?;
            if version != self.version {
                // Its keys may be others. What they are set to is the default anyway.
                table.retain(|key, _| key == "runtime_type");
            }
            Some(plain(&table))
        };
        known().unwrap_or_else(|| {
            let mut table = Table::new();
            table.insert("runtime_type", value(RUNTIME_TYPE));
            table
        })
    }
}

/// A table as its keys and values, without indents and comments.
fn plain(table: &Table) -> Table {
    let mut copy = Table::new();
    for (key, item) in table {
        match item {
            Item::Table(inner) => {
                copy.insert(key, Item::Table(plain(inner)));
            }
            Item::Value(one) => {
                copy.insert(key, value(one.clone().decorated(" ", "")));
            }
            Item::None | Item::ArrayOfTables(_) => {}
        }
    }
    copy
}

impl Handler {
    fn table(&self, like: &Table) -> Table {
        let mut table = Table::new();
        let ours = ["runtime_type", "runtime_path", "pod_annotations", "options"];
        table.insert("runtime_type", value(RUNTIME_TYPE));
        table.insert("runtime_path", value(self.shim.display().to_string()));
        let mut annotations = Array::new();
        let known = like.get("pod_annotations").and_then(Item::as_array);
        let known = known.into_iter().flatten().filter_map(|one| one.as_str());
        for one in known.filter(|one| *one != ANNOTATIONS).chain([ANNOTATIONS]) {
            annotations.push(one);
        }
        table.insert("pod_annotations", value(annotations));
        for (key, item) in like.iter().filter(|(key, _)| !ours.contains(key)) {
            if let Ok(plain) = item.clone().into_value() {
                table.insert(key, value(plain.decorated(" ", "")));
            }
        }
        let mut options = Table::new();
        for (key, item) in like
            .get("options")
            .and_then(Item::as_table_like)
            .into_iter()
            .flat_map(|table| table.iter())
        {
            if let Ok(plain) = item.clone().into_value() {
                options.insert(key, value(plain.decorated(" ", "")));
            }
        }
        if let Some(runtime) = &self.runtime {
            options.insert("BinaryName", value(runtime.display().to_string()));
        }
        if !options.is_empty() {
            table.insert("options", Item::Table(options));
        }
        table
    }
}

/// The name of the plugin that has the runtime handlers, in a configuration of this version.
#[must_use]
pub fn plugin(version: i64) -> &'static str {
    if version >= 3 {
        "io.containerd.cri.v1.runtime"
    } else {
        "io.containerd.grpc.v1.cri"
    }
}

fn change(path: &Path, wanted: Wanted, what: &str) -> Change {
    Change {
        path: path.to_owned(),
        wanted,
        what: what.to_owned(),
    }
}

/// The text of a file as it is without our part; `None` when it is not there, or all ours.
fn base(node: &NodeRoot, journal: Option<&Journal>, path: &Path) -> Result<Option<String>> {
    let read = || anyhow!("Cannot read {}", path.display());
    let Some(text) = node.text(path).with_context(read)? else {
        return Ok(None);
    };
    if let Some(entry) = journal.and_then(|journal| journal.entry(path)) {
        let now = State::at(&node.place(path, true)?)?;
        if entry.marks.iter().any(|mark| mark.is(&now)) {
            // What was kept is the original to the last byte.
            return match &entry.before {
                None => Ok(None),
                Some(_) => Ok(node
                    .text(&super::change::kept(path))
                    .with_context(read)?
                    .or_else(|| Some(without_ours(&text)))),
            };
        }
    }
    Ok(Some(without_ours(&text)))
}

fn parse(path: &Path, text: &str) -> Result<DocumentMut> {
    text.parse()
        .with_context(|| format!("{} is not TOML", path.display()))
}

fn imports(doc: &DocumentMut) -> Vec<String> {
    let array = doc.get("imports").and_then(Item::as_array);
    let texts = array.into_iter().flatten().filter_map(|one| one.as_str());
    texts.map(absolute).collect()
}

/// containerd takes a pattern without a leading slash as one in the directory of the file.
fn absolute(pattern: &str) -> String {
    if pattern.starts_with('/') {
        pattern.to_owned()
    } else {
        format!("/etc/containerd/{pattern}")
    }
}

fn matches(pattern: &str, path: &Path) -> bool {
    let options = glob::MatchOptions {
        require_literal_separator: true,
        ..glob::MatchOptions::new()
    };
    glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_path_with(path, options))
}

/// The files of the node that a pattern names, in the order of their names.
fn matching(node: &NodeRoot, pattern: &str) -> Result<Vec<PathBuf>> {
    let path = Path::new(pattern);
    if !pattern.contains(['*', '?', '[']) {
        return Ok(vec![path.to_owned()]);
    }
    let Some(dir) = path.parent() else {
        return Ok(Vec::new());
    };
    let Ok(entries) = std::fs::read_dir(node.place(dir, true)?) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry
            .with_context(|| format!("Read {}", dir.display()))?
            .file_name();
        let path = dir.join(name);
        if matches(pattern, &path) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The file with our block at its end.
fn appended(path: &Path, base: &str, block: &str) -> Result<Wanted> {
    let gap = if base.is_empty() || base.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let text = format!(
        "{base}{gap}{BEGIN}\n{}{END}\n",
        block.trim_start_matches('\n')
    );
    parse(path, &text).map_err(|_| {
        anyhow!(
            "{} writes its plugins as inline tables, to which nothing can be appended: write them as [plugins.…] sections",
            path.display()
        )
    })?;
    Ok(Wanted::Edited {
        base: base.to_owned(),
        text,
    })
}

/// The file with our drop-in among its imports.
fn importing(path: &Path, base: &str) -> Result<String> {
    let mut doc = parse(path, base)?;
    let Some(item) = doc.get_mut("imports") else {
        // Before everything, where no table has begun.
        return Ok(format!("{BEGIN}\nimports = [\"{DROP_IN}\"]\n{END}\n{base}"));
    };
    let array = item
        .as_array_mut()
        .with_context(|| format!("imports in {} is no list", path.display()))?;
    array.push(DROP_IN);
    Ok(doc.to_string())
}

/// A text without what Restow has put into it.
#[must_use]
pub fn without_ours(text: &str) -> String {
    let mut rest = String::with_capacity(text.len());
    let mut inside = false;
    for line in text.split_inclusive('\n') {
        match line.trim_end() {
            BEGIN => inside = true,
            END if inside => inside = false,
            _ if !inside => rest.push_str(line),
            _ => {}
        }
    }
    if inside {
        // Somebody took away the end: nothing is safe to take out.
        rest = text.to_owned();
    }
    if !rest.contains(DROP_IN) {
        return rest;
    }
    let Ok(mut doc) = rest.parse::<DocumentMut>() else {
        return rest;
    };
    let Some(array) = doc.get_mut("imports").and_then(Item::as_array_mut) else {
        return rest;
    };
    array.retain(|one| one.as_str() != Some(DROP_IN));
    doc.to_string()
}

#[cfg(test)]
mod tests;
