//! What a plan changes, as tables, and its findings.

mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;

use restow::finding::{Finding, Object, Rule, Severity};
use restow::ids::{ContainerPath, HostPath, MountId};
use restow::plan::{Plan, SocketAction, SocketPlace};
use restow::source::{Mount, Source};

use self::rows::{Merged, Row, changes, new_of};
use crate::output::{Style, Table, visible};

/// More rows or findings than this under one rule are folded.
const UNFOLDED: usize = 10;

/// A plan and what it is about.
pub(super) struct Shown<'a> {
    pub(super) source: &'a Source,
    pub(super) plan: &'a Plan,
    /// Namespaces of the spec, with the file that is joined.
    pub(super) joined: &'a BTreeMap<String, Option<PathBuf>>,
    /// Also what does not change, and nothing folded.
    pub(super) all: bool,
}

/// Rows of one kind.
struct Section {
    heading: &'static str,
    columns: [&'static str; 5],
    rows: Vec<Row>,
    /// How many objects of the kind stay as they are.
    unchanged: usize,
}

impl Shown<'_> {
    /// The whole text.
    pub(super) fn render(&self, style: Style) -> String {
        let mut text = String::new();
        let sections = [
            self.mounts(),
            self.files(),
            self.watches(),
            self.sockets(),
            self.cgroups(),
            self.names(),
        ];
        for section in sections {
            self.section(&mut text, section, style);
        }
        self.findings(&mut text, style);
        text
    }

    fn section(&self, text: &mut String, section: Section, style: Style) {
        let Section {
            heading,
            columns,
            rows,
            unchanged,
        } = section;
        if rows.is_empty() && unchanged == 0 {
            return;
        }
        let counted = match unchanged {
            0 => format!("{heading}: {} change", rows.len()),
            _ => format!(
                "{heading}: {} change, {unchanged} stay as they are",
                rows.len()
            ),
        };
        let _ = writeln!(text, "{}", style.strong(&counted));
        let (rows, folded) = self.fold(rows);
        let mut table = Table::new(&columns);
        for row in rows {
            table.row([row.who, row.path, row.old, row.new, row.rule]);
        }
        if !table.is_empty() {
            text.push_str(&table.render(&style));
        }
        for (rule, count) in folded {
            let _ = writeln!(text, "… and {count} more by {rule} (--all shows them)");
        }
        text.push('\n');
    }

    /// The rows that are shown, and how many of each rule are not.
    fn fold(&self, rows: Vec<Row>) -> (Vec<Row>, BTreeMap<String, usize>) {
        let mut shown = Vec::new();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for row in rows {
            let count = counts.entry(row.rule.clone()).or_default();
            *count += 1;
            if self.all || *count <= UNFOLDED {
                shown.push(row);
            }
        }
        if self.all {
            counts.clear();
        }
        let folded = counts
            .into_iter()
            .filter_map(|(rule, count)| {
                Some((rule, count.checked_sub(UNFOLDED).filter(|more| *more > 0)?))
            })
            .collect();
        (shown, folded)
    }

    fn mounts(&self) -> Section {
        let planned: BTreeMap<MountId, _> = self
            .plan
            .mounts
            .iter()
            .map(|mount| (mount.mnt_id, mount))
            .collect();
        let dropped: BTreeSet<MountId> = self.plan.dropped_mounts.iter().copied().collect();
        let masked: BTreeSet<&ContainerPath> = self.plan.masked.iter().collect();
        let mut rows = Vec::new();
        let mut unchanged = 0;
        for mount in &self.source.mounts {
            let (new, rule) = match planned.get(&mount.id) {
                // A masked file is hidden as it was.
                Some(plan) if !self.all && plan.source == HostPath::new("/dev/null") => {
                    unchanged += 1;
                    continue;
                }
                Some(plan) => (plan.source.to_string(), plan.rule),
                None if masked.contains(&mount.mount_point) => continue,
                None if dropped.contains(&mount.id) => ("(dropped)".into(), Rule::MountGone),
                None if mount.ext_key.is_some() => ("(missing)".into(), Rule::MountGone),
                None => {
                    unchanged += 1;
                    if self.all {
                        rows.push(self.mount(mount, "(made by criu)".into(), "-".into()));
                    }
                    continue;
                }
            };
            rows.push(self.mount(mount, new, rule.to_string()));
        }
        let added = |path: &ContainerPath, new: String, rule: Rule| Row {
            who: String::new(),
            path: path.to_string(),
            old: "(none)".into(),
            new,
            rule: rule.to_string(),
        };
        let attached = self.plan.added_mounts.iter();
        rows.extend(
            attached.map(|mount| added(&mount.mount_point, mount.source.to_string(), mount.rule)),
        );
        let there = |path: &&ContainerPath| self.all || is_there(path);
        let masked = self.plan.masked.iter().filter(there);
        rows.extend(masked.map(|path| added(path, "(masked)".into(), Rule::Masked)));
        let read_only = self.plan.read_only_paths.iter().filter(there);
        let read_only = read_only.chain(&self.plan.read_only_mounts);
        rows.extend(read_only.map(|path| added(path, "(read-only)".into(), Rule::Access)));
        Section {
            heading: "Mounts",
            columns: ["mnt_id#", "mount point~", "old~", "new~", "rule"],
            rows,
            unchanged,
        }
    }

    fn mount(&self, mount: &Mount, new: String, rule: String) -> Row {
        let recorded = self.source.manifest.as_ref().and_then(|manifest| {
            let mut mounts = manifest.mounts.iter();
            mounts.find(|recorded| recorded.mnt_id == mount.id)
        });
        Row {
            who: mount.id.to_string(),
            path: mount.mount_point.to_string(),
            old: recorded.map_or_else(
                || mount.root.to_string(),
                |recorded| format!("{}:{}", recorded.fs_type, recorded.root),
            ),
            new,
            rule,
        }
    }

    fn files(&self) -> Section {
        let mut changed = Merged::default();
        let mut planned = BTreeSet::new();
        for file in self.plan.files.iter().filter(|file| changes(file)) {
            planned.insert(file.id);
            let row = Row {
                who: String::new(),
                path: file.old.to_string(),
                old: file.old_object.clone().unwrap_or_default(),
                new: new_of(file),
                rule: file.rule.to_string(),
            };
            changed.add(row, &file.holders);
        }
        let rest = self
            .source
            .files
            .values()
            .filter(|file| !planned.contains(&file.id));
        let unchanged = rest.clone().count();
        if self.all {
            for file in rest {
                let row = Row {
                    who: String::new(),
                    path: file.path.to_string(),
                    old: String::new(),
                    new: String::new(),
                    rule: "-".into(),
                };
                changed.add(row, self.source.holders_of(file.id));
            }
        }
        Section {
            heading: "Open files",
            columns: ["who", "path~", "old~", "new~", "rule"],
            rows: changed.into_rows(),
            unchanged,
        }
    }

    fn watches(&self) -> Section {
        let mut merged = Merged::default();
        for watch in &self.plan.watches {
            let old = watch.old.as_ref();
            let row = Row {
                who: String::new(),
                path: old.unwrap_or(&watch.new).to_string(),
                old: format!("watch {}", watch.wd),
                new: watch.new.to_string(),
                rule: watch.rule.to_string(),
            };
            merged.add(row, &watch.holders);
        }
        Section {
            heading: "Watches",
            columns: ["who", "path~", "old", "new~", "rule"],
            rows: merged.into_rows(),
            unchanged: self.source.watches.len() - self.plan.watches.len(),
        }
    }

    fn sockets(&self) -> Section {
        let sockets = &self.plan.sockets;
        let mut merged = Merged::default();
        let mut unchanged = sockets.unix.len();
        for socket in &sockets.inet {
            if socket.action == SocketAction::Keep {
                unchanged += 1;
                if !self.all {
                    continue;
                }
            }
            let row = Row {
                who: String::new(),
                path: format!("{:?}", socket.protocol).to_lowercase(),
                old: place(&socket.old),
                new: match socket.action {
                    SocketAction::Keep | SocketAction::Rebind => place(&socket.new),
                    SocketAction::Disconnect => format!("{} (unconnected)", socket.new.local),
                    SocketAction::Close => "(closed)".into(),
                },
                rule: socket.rule.to_string(),
            };
            merged.add(row, &socket.holders);
        }
        if self.all {
            for socket in &sockets.unix {
                let row = Row {
                    who: String::new(),
                    path: "unix".into(),
                    old: socket.name.clone(),
                    new: socket.name.clone(),
                    rule: "-".into(),
                };
                merged.add(row, &socket.holders);
            }
        }
        Section {
            heading: "Sockets",
            columns: ["who", "protocol", "old~", "new~", "rule"],
            rows: merged.into_rows(),
            unchanged,
        }
    }

    fn cgroups(&self) -> Section {
        let cgroup = &self.plan.cgroup;
        let mut together: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        let mut unchanged = 0;
        for (hierarchy, old) in &cgroup.old_container {
            let new = cgroup.container.get(hierarchy);
            if new == Some(old) {
                unchanged += 1;
            }
            if new != Some(old) || self.all {
                let new = new.map_or_else(|| "(no such hierarchy)".into(), ToString::to_string);
                let hierarchies = together.entry((old.to_string(), new)).or_default();
                hierarchies.push(hierarchy.to_string());
            }
        }
        let rule = Rule::CgroupPlacement.to_string();
        let mut rows: Vec<Row> = together
            .into_iter()
            .map(|((old, new), hierarchies)| Row {
                who: "container".into(),
                path: hierarchies.join(","),
                rule: if old == new { "-".into() } else { rule.clone() },
                old,
                new,
            })
            .collect();
        rows.extend(cgroup.placements.iter().map(|placement| Row {
            who: format!("process {}", placement.pid),
            path: placement.hierarchy.to_string(),
            old: String::new(),
            new: placement.cgroup.to_string(),
            rule: rule.clone(),
        }));
        Section {
            heading: "Cgroups",
            columns: ["who", "hierarchies~", "old~", "new~", "rule"],
            rows,
            unchanged,
        }
    }

    fn names(&self) -> Section {
        let mut rows = Vec::new();
        let mut unchanged = 0;
        let row = |path: &str, old: &str, new: &str, rule: &str| Row {
            who: String::new(),
            path: path.to_owned(),
            old: old.to_owned(),
            new: new.to_owned(),
            rule: rule.to_owned(),
        };
        match &self.plan.hostname {
            Some(name) if name.old != name.new => {
                let rule = Rule::Hostname.to_string();
                rows.push(row("host name", &name.old, &name.new, &rule));
            }
            _ => unchanged += 1,
        }
        for (kind, path) in self.joined {
            if let Some(path) = path {
                let new = path.display().to_string();
                rows.push(row(
                    &format!("{kind} namespace"),
                    "of the old pod",
                    &new,
                    "-",
                ));
            }
        }
        unchanged += 1;
        if self.all {
            let whose = match self.plan.cgroup.private_namespace {
                true => "its own",
                false => "the node's",
            };
            rows.push(row("cgroup namespace", whose, whose, "-"));
        }
        Section {
            heading: "Names and namespaces",
            columns: ["who", "what", "old~", "new~", "rule"],
            rows,
            unchanged,
        }
    }

    fn findings(&self, text: &mut String, style: Style) {
        let all = self.plan.findings.iter();
        let findings: Vec<&Finding> = all.filter(|finding| self.all || !idle(finding)).collect();
        let count = |severity| {
            findings
                .iter()
                .filter(|one| one.severity == severity)
                .count()
        };
        if !findings.is_empty() {
            let _ = writeln!(text, "{}", style.strong("Findings"));
        }
        let mut counts: BTreeMap<(Severity, Rule), usize> = BTreeMap::new();
        for finding in &findings {
            let count = counts.entry((finding.severity, finding.rule)).or_default();
            *count += 1;
            if self.all || *count <= UNFOLDED {
                one(text, finding, style);
            }
        }
        for ((severity, rule), count) in counts.iter().rev() {
            if !self.all && *count > UNFOLDED {
                let more = count - UNFOLDED;
                let _ = writeln!(
                    text,
                    "… and {more} more of severity {severity} by {rule} (--all shows them)"
                );
            }
        }
        let (blockers, warnings) = (count(Severity::Blocker), count(Severity::Warning));
        let verdict = match (blockers, warnings) {
            (0, 0) => style.paint("32", "The restore is possible."),
            (0, _) => style.paint(
                "33",
                &format!(
                    "The restore is possible, with {} to know of.",
                    plural(warnings, "thing")
                ),
            ),
            (_, _) => style.paint(
                "31",
                &format!(
                    "The restore is not possible: {}.",
                    plural(blockers, "blocker")
                ),
            ),
        };
        let _ = writeln!(text, "{verdict}");
    }
}

fn place(place: &SocketPlace) -> String {
    match place.peer {
        Some(peer) => format!("{} ↔ {peer}", place.local),
        None => place.local.to_string(),
    }
}

/// Whether a path of the kernel's is there at all; what a spec masks is not everywhere.
fn is_there(path: &ContainerPath) -> bool {
    let kernel = ["/proc", "/sys"].map(ContainerPath::new);
    !kernel.iter().any(|top| path.strip(top).is_some()) || path.as_path().exists()
}

/// Whether it is about a path that a spec masks or makes read-only, and that is not there.
fn idle(finding: &Finding) -> bool {
    matches!(
        (&finding.object, finding.severity),
        (Object::Mount { mount_point, mnt_id: None }, Severity::Note) if !is_there(mount_point)
    )
}

fn plural(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

fn one(text: &mut String, finding: &Finding, style: Style) {
    let severity = finding.severity.to_string();
    let severity = match finding.severity {
        Severity::Blocker => style.paint("31", &severity),
        Severity::Warning => style.paint("33", &severity),
        Severity::Note => severity,
    };
    let what = visible(&format!(
        "{}: {} [{}]",
        finding.object, finding.text, finding.rule
    ));
    let _ = writeln!(text, "{severity}: {what}");
    if let Some(way_out) = &finding.way_out {
        let _ = writeln!(text, "    → {}", visible(way_out));
    }
}
