//! The table of scenarios and stacks, as Markdown.
//!
//! The same verdicts give the same text, whatever order the tests ran in: rows and columns are sorted, and what changes from run to
//! run (ids, inodes, process numbers) is left out of reasons.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::engine::{Manager, Mode, Runtime};
use crate::record::{Entry, Outcome};
use crate::scenarios::{AREAS, Name};
use crate::suite::Suite;

/// A column.
type Column = (Suite, Runtime);

/// Longer reasons are cut, in characters.
const LONGEST_REASON: usize = 180;

/// Draws the table of what ran below `manager`.
#[must_use]
pub fn render(entries: &[Entry], manager: Manager) -> String {
    let (of_manager, of_others): (Vec<Entry>, Vec<Entry>) = entries
        .iter()
        .cloned()
        .partition(|entry| entry.manager == manager);
    let entries: &[Entry] = &of_manager;
    let area = |entry: &Entry| Name::parse(&entry.scenario).area;
    // Nothing of it is meant to be run here.
    let elsewhere = |index: usize| {
        of_others.iter().any(|entry| area(entry) == index)
            && !entries.iter().any(|entry| area(entry) == index)
    };
    let columns = columns(entries);
    let mut rows: BTreeMap<Name, Cells<'_>> = BTreeMap::new();
    for (area, scenarios) in AREAS.iter().enumerate() {
        for number in 1..=scenarios.titles.len() {
            let name = Name {
                area,
                number,
                case: String::new(),
            };
            rows.insert(name, Cells::new());
        }
    }
    for entry in entries {
        let cells = rows.entry(Name::parse(&entry.scenario)).or_default();
        // A scenario that was run twice shows the worst.
        let cell = cells
            .entry((entry.suite, entry.runtime, entry.mode))
            .or_insert(entry);
        if rank(entry) > rank(cell) {
            *cell = entry;
        }
    }
    let mut reasons = Reasons::default();
    let mut tables = String::new();
    for (index, area) in AREAS.iter().enumerate() {
        if elsewhere(index) {
            continue;
        }
        let of_area: Vec<_> = rows.iter().filter(|(name, _)| name.area == index).collect();
        table(&mut tables, area.name, &of_area, &columns, &mut reasons);
    }
    let others: Vec<_> = rows
        .iter()
        .filter(|(name, _)| name.area == AREAS.len())
        .collect();
    if !others.is_empty() {
        table(
            &mut tables,
            "Beyond the list",
            &others,
            &columns,
            &mut reasons,
        );
    }
    let mut text = String::from(match manager {
        Manager::Suite => HEAD,
        Manager::Containerd => HEAD_PODS,
    });
    summary(&mut text, &rows, &columns);
    text.push_str(&tables);
    reasons.list(&mut text);
    text
}

type Cells<'a> = BTreeMap<(Suite, Runtime, Mode), &'a Entry>;

const HEAD: &str = "# What holds after a restore in another pod

Each scenario moves a probe from pod A, which is checkpointed and removed whole (cgroups and volumes too, unless the scenario says that it
goes on), to pod B. It is run on the distribution's runtime and CRIU alone (*stock*), then with Restow before CRIU. A cell says what
became of it: stock / Restow. Numbers lead to the reasons below the tables.

This file is written by `cargo xtask test --matrix`; do not edit it.

";

const HEAD_PODS: &str = "# What holds for pods of containerd

The scenarios of [matrix.md](matrix.md) with pods as the kubelet has containerd make them, over the container runtime interface. *Stock* is
containerd with its own shim: containerd 1.7 has no restore; containerd 2.1 restores an archive that is given as the image, and pulls the
image below it from a registry on the node. With Restow the pod's runtime handler has Restow's shim, and an annotation of the pod asks for the restore. A cell says what became of it: stock / Restow.
What is skipped cannot be asked for over this interface. containerd removes CRIU's log with a container that it could not restore, so that
stock's reasons are no more than what the kubelet is told. With crun stock restores nothing: containerd 2.1 gives `crun restore` a flag that
crun has not got.

This file is written by `cargo xtask test --matrix`; do not edit it.

";

/// The stacks that were run, with their versions, in the order of the columns.
fn columns(entries: &[Entry]) -> BTreeMap<Column, String> {
    let mut columns: BTreeMap<Column, String> = Suite::ALL
        .into_iter()
        .flat_map(|suite| Runtime::ALL.map(|runtime| ((suite, runtime), String::new())))
        .collect();
    for entry in entries.iter().filter(|entry| !entry.versions.is_empty()) {
        columns.insert((entry.suite, entry.runtime), entry.versions.clone());
    }
    columns
}

/// Shown when a scenario was run more than once: the higher one.
fn rank(entry: &Entry) -> (u8, &Outcome) {
    let rank = match &entry.outcome {
        Outcome::Skipped(_) | Outcome::NoRestore(_) => 0,
        Outcome::Right(_) => 1,
        Outcome::Wrong(_) => 2,
        Outcome::Broken(_) => 3,
    };
    (rank, &entry.outcome)
}

fn summary(
    text: &mut String,
    rows: &BTreeMap<Name, Cells<'_>>,
    columns: &BTreeMap<Column, String>,
) {
    text.push_str("| | ");
    for versions in columns.values() {
        let _ = write!(text, "{} | ", heading(versions));
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(columns.len()));
    for mode in [Mode::Stock, Mode::Restow] {
        let _ = write!(text, "\n| {mode}: right, of those run | ");
        for (suite, runtime) in columns.keys() {
            let all: Vec<&Outcome> = rows
                .values()
                .filter_map(|cells| cells.get(&(*suite, *runtime, mode)))
                .map(|entry| &entry.outcome)
                .collect();
            let run: Vec<&&Outcome> = all
                .iter()
                .filter(|outcome| !matches!(outcome, Outcome::Skipped(_) | Outcome::NoRestore(_)))
                .collect();
            if run.is_empty() && all.iter().any(|it| matches!(it, Outcome::NoRestore(_))) {
                text.push_str("no restore | ");
                continue;
            }
            let right = run
                .iter()
                .filter(|outcome| matches!(outcome, Outcome::Right(_)))
                .count();
            let _ = write!(text, "{right} of {} | ", run.len());
        }
    }
    text.push('\n');
}

fn heading(versions: &str) -> &str {
    if versions.is_empty() {
        "(not run)"
    } else {
        versions
    }
}

fn table(
    text: &mut String,
    title: &str,
    rows: &[(&Name, &Cells<'_>)],
    columns: &BTreeMap<Column, String>,
    reasons: &mut Reasons,
) {
    let _ = write!(text, "\n## {title}\n\n| | scenario | ");
    for versions in columns.values() {
        let _ = write!(text, "{} | ", heading(versions));
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(columns.len()));
    text.push('\n');
    for (index, (name, cells)) in rows.iter().enumerate() {
        let next_is_a_case = rows
            .get(index + 1)
            .is_some_and(|(next, _)| next.number == name.number && next.area == name.area);
        let number = match name.number {
            0 => String::new(),
            number => number.to_string(),
        };
        let scenario = title_of(name);
        // The scenario's own row says nothing when its cases say it all.
        let only_cases = cells.is_empty() && next_is_a_case && name.case.is_empty();
        let _ = write!(text, "| {number} | {scenario} | ");
        for (suite, runtime) in columns.keys() {
            let cell = |mode| cells.get(&(*suite, *runtime, mode)).copied();
            let cell = match (cell(Mode::Stock), cell(Mode::Restow)) {
                _ if only_cases => String::new(),
                (None, None) if cells.is_empty() => "no test".to_owned(),
                (None, None) => "not run".to_owned(),
                (Some(stock), Some(restow))
                    if stock.outcome == restow.outcome
                        && matches!(stock.outcome, Outcome::Skipped(_)) =>
                {
                    reasons.word(Some(stock))
                }
                (stock, restow) => {
                    format!("{} / {}", reasons.word(stock), reasons.word(restow))
                }
            };
            let _ = write!(text, "{cell} | ");
        }
        text.push('\n');
    }
}

fn title_of(name: &Name) -> String {
    let title = AREAS
        .get(name.area)
        .and_then(|area| area.titles.get(name.number.checked_sub(1)?));
    match title {
        None => escape(&name.case),
        Some(title) if name.case.is_empty() => escape(title),
        Some(_) => format!("… {}", escape(&name.case)),
    }
}

/// Reasons in the order in which they are first met, each once.
#[derive(Default)]
struct Reasons {
    numbers: BTreeMap<String, usize>,
    texts: Vec<String>,
}

impl Reasons {
    fn word(&mut self, entry: Option<&Entry>) -> String {
        let Some(entry) = entry else {
            return "not run".to_owned();
        };
        let (word, reason) = match &entry.outcome {
            Outcome::Right(_) => return "right".to_owned(),
            Outcome::NoRestore(_) => return "no restore".to_owned(),
            Outcome::Wrong(text) => ("wrong", text),
            Outcome::Skipped(text) => ("skipped", text),
            Outcome::Broken(text) => ("**broken**", text),
        };
        let reason = normal(reason, entry.known.as_deref());
        let next = self.texts.len() + 1;
        let number = *self.numbers.entry(reason.clone()).or_insert_with(|| {
            self.texts.push(reason);
            next
        });
        format!("{word} [{number}](#reasons)")
    }

    fn list(&self, text: &mut String) {
        if self.texts.is_empty() {
            return;
        }
        text.push_str("\n## Reasons\n\n");
        text.push_str("In the words of the check or of CRIU's log; ids and numbers that change are written as `…`.\n\n");
        for (index, reason) in self.texts.iter().enumerate() {
            let _ = writeln!(text, "{}. {}", index + 1, escape(reason));
        }
    }
}

/// Characters that mean something in a table of Markdown.
fn escape(text: &str) -> String {
    text.replace('|', "\\|")
        .replace('<', "&lt;")
        .replace('*', "\\*")
        .replace('_', "\\_")
}

/// A reason without what differs from run to run, on one short line. Which process or file is met first is chance, so a text ends with
/// the part of it that is known.
fn normal(text: &str, known: Option<&str>) -> String {
    let text = text.lines().next().unwrap_or_default();
    let known = known.and_then(|known| Some((text.find(known)? + known.len(), text)));
    let text = match known {
        Some((end, text)) if end < text.len() => &format!("{}…", &text[..end]),
        _ => text,
    };
    // Several errors of CRIU's log: the first is the cause.
    let text = text.split(" | ").next().unwrap_or_default();
    let mut out = String::new();
    let mut words = text.split_inclusive(|c: char| !is_word(c));
    for word in &mut words {
        let end = word.rfind(is_word).map_or(0, |last| last + 1);
        let (core, rest) = word.split_at(end);
        out.push_str(&if changes(core) {
            "…".to_owned()
        } else {
            core.to_owned()
        });
        out.push_str(rest);
    }
    // `(criu/files-reg.c:2353): ` differs between versions of CRIU.
    while let Some(start) = out.find("(criu/") {
        let end = out[start..]
            .find("): ")
            .map_or(out.len(), |end| start + end + 3);
        out.replace_range(start..end, "");
    }
    if out.chars().count() > LONGEST_REASON {
        out = out.chars().take(LONGEST_REASON).collect();
        out.push('…');
    }
    out.trim().to_owned()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// Whether a word is an id or a number that is another one in the next run.
fn changes(word: &str) -> bool {
    let node = word.strip_prefix("restow-");
    if node.is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '-')) {
        return true;
    }
    let bare = word
        .strip_prefix("pod")
        .or_else(|| word.strip_prefix("0x"))
        .unwrap_or(word);
    let hex = bare
        .chars()
        .all(|c| c.is_ascii_hexdigit() || c == '-' || c == '_');
    let digits = bare.chars().filter(char::is_ascii_digit).count();
    let number = !bare.is_empty() && bare.chars().all(|c| c.is_ascii_digit());
    (hex && digits > 0 && bare.len() >= 8) || (number && bare.len() >= 2) || word.starts_with("0x")
}

/// Scenarios of the list that no test has run, by name.
#[must_use]
pub fn gaps(entries: &[Entry]) -> Vec<String> {
    let run: BTreeSet<(usize, usize)> = entries
        .iter()
        .map(|entry| Name::parse(&entry.scenario))
        .map(|name| (name.area, name.number))
        .collect();
    let all = AREAS.iter().enumerate().flat_map(|(area, scenarios)| {
        (1..=scenarios.titles.len()).map(move |number| (area, number))
    });
    all.filter(|scenario| !run.contains(scenario))
        .map(|(area, number)| format!("{} {number}", AREAS[area].name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::CgroupView;

    fn entry(scenario: &str, mode: Mode, outcome: Outcome) -> Entry {
        Entry {
            scenario: scenario.into(),
            suite: Suite::Stable,
            runtime: Runtime::Runc,
            view: CgroupView::V2,
            manager: Manager::Suite,
            mode,
            versions: "runc 1.1.15, criu 4.1.1".into(),
            known: None,
            outcome,
        }
    }

    fn sample() -> Vec<Entry> {
        vec![
            entry(
                "Cgroup 2",
                Mode::Stock,
                Outcome::Wrong("The restore fails: (criu/files-reg.c:23): Can't open file x/pod1b2c3d4e-5f | more".into()),
            ),
            entry("Cgroup 2", Mode::Restow, Outcome::Right("fine".into())),
            entry(
                "Cgroup 7, host namespace",
                Mode::Restow,
                Outcome::Skipped("no such host".into()),
            ),
            entry("Something 1", Mode::Restow, Outcome::Right("fine".into())),
        ]
    }

    #[test]
    fn a_cell_says_what_stock_and_restow_did() {
        let text = render(&sample(), Manager::Suite);
        assert!(
            text.contains("| wrong [1](#reasons) / right | not run | not run | not run |"),
            "{text}"
        );
        assert!(
            text.contains("1. The restore fails: Can't open file x/…\n"),
            "{text}"
        );
        assert!(text.contains("| 1 | Private cgroup namespace: files of the container's cgroup are pod B's | no test |"), "{text}");
        assert!(
            text.contains("| 7 | … host namespace | not run / skipped [2](#reasons) |"),
            "{text}"
        );
        assert!(text.contains("## Beyond the list\n"), "{text}");
        assert!(
            text.contains("| stock: right, of those run | 0 of 1 |"),
            "{text}"
        );
    }

    #[test]
    fn a_stack_that_has_no_restore_is_not_counted() {
        let pods = |mode, outcome| Entry {
            manager: Manager::Containerd,
            ..entry("Cgroup 2", mode, outcome)
        };
        let text = render(
            &[
                pods(Mode::Stock, Outcome::NoRestore("it has none".into())),
                pods(Mode::Restow, Outcome::Right("fine".into())),
            ],
            Manager::Containerd,
        );
        assert!(
            text.contains("| stock: right, of those run | no restore | 0 of 0 |"),
            "{text}"
        );
        assert!(text.contains("| no restore / right |"), "{text}");
        assert!(!text.contains("## Reasons"), "{text}");
    }

    #[test]
    fn an_area_that_only_another_manager_runs_is_not_in_the_table() {
        let mut entries = sample();
        let pods = Entry {
            manager: Manager::Containerd,
            ..entry("Mounts 1", Mode::Restow, Outcome::Right("fine".into()))
        };
        entries.push(pods);
        let text = render(&entries, Manager::Containerd);
        assert!(text.contains("## Mounts\n"), "{text}");
        assert!(!text.contains("## Cgroup\n"), "{text}");
        let text = render(&entries, Manager::Suite);
        assert!(!text.contains("## Mounts\n"), "{text}");
        assert!(text.contains("## Cgroup\n"), "{text}");
    }

    #[test]
    fn the_order_of_the_entries_does_not_matter() {
        let mut entries = sample();
        let text = render(&entries, Manager::Suite);
        entries.reverse();
        assert_eq!(render(&entries, Manager::Suite), text);
    }

    #[test]
    fn reasons_keep_their_words_and_lose_what_changes() {
        assert_eq!(
            normal(
                "fd 3 of process 0 is /a (inode 31476, readable), not pod B's file (inode 31628)",
                None
            ),
            "fd 3 of process 0 is /a (inode …, readable), not pod B's file (inode …)"
        );
        assert_eq!(
            normal("mnt: No mapping for 158:(null) mountpoint", None),
            "mnt: No mapping for …:(null) mountpoint"
        );
        assert_eq!(
            normal("Read /sys/fs/cgroup/unified/restow-8933-6/kubepods", None),
            "Read /sys/fs/cgroup/unified/…/kubepods"
        );
        assert_eq!(
            normal("the cgroup of pod A has come back", None),
            "the cgroup of pod A has come back"
        );
    }

    #[test]
    fn scenarios_without_a_test_are_named() {
        let gaps = gaps(&sample());
        assert!(gaps.contains(&"Cgroup 1".to_owned()) && gaps.contains(&"Network 3".to_owned()));
        assert!(!gaps.contains(&"Cgroup 2".to_owned()) && !gaps.contains(&"Cgroup 7".to_owned()));
    }
}
