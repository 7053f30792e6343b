//! The tables in `docs/configuration.md` are made from the code: names, defaults and meanings of all settings.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use restow::policy::{ANNOTATION_PREFIX, NodeConfig};

/// Set to make it anew.
const VARIABLE: &str = "RESTOW_BLESS";

/// Annotations that are no settings of a policy.
const MORE: &[(&str, &str, &str)] = &[
    (
        "enabled",
        "`true`, `false`",
        "Restow works on this container. Any other annotation of ours implies `true`.",
    ),
    (
        "restore-from",
        "none",
        "Name of a checkpoint below a configured root (`NAME`, or `NAMESPACE/NAME`): the container is restored from it instead of being started.",
    ),
    (
        "map",
        "none",
        "Explicit maps, one a line, see [maps.md](maps.md). Only where the node allows them.",
    ),
];

/// Settings of a policy that no annotation can change.
const OF_THE_NODE: &[&str] = &["privileges"];

fn source(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path)).unwrap()
}

/// A field of a struct, or an item, as the source has it.
#[derive(Debug, Clone)]
struct Documented {
    name: String,
    kind: String,
    doc: String,
}

/// The public fields of `pub struct NAME`, as rustfmt leaves them.
fn fields(text: &str, name: &str) -> Vec<Documented> {
    let start = format!("pub struct {name} {{\n");
    let (_, rest) = text
        .split_once(&start)
        .unwrap_or_else(|| panic!("no {name}"));
    let (body, _) = rest.split_once("\n}\n").unwrap();
    let mut found = Vec::new();
    let mut doc = String::new();
    for line in body.lines().map(str::trim) {
        if let Some(more) = line.strip_prefix("///") {
            doc += more;
        } else if let Some((name, kind)) = line
            .strip_prefix("pub ")
            .and_then(|line| line.split_once(": "))
        {
            found.push(Documented {
                name: name.replace('_', "-"),
                kind: kind.trim_end_matches(',').to_owned(),
                doc: std::mem::take(&mut doc).trim().to_owned(),
            });
        }
    }
    found
}

/// What `choice!` declares: the type's documentation and its words.
fn choices(text: &str) -> BTreeMap<String, (String, Vec<String>)> {
    let mut found = BTreeMap::new();
    for block in text.split("\nchoice!(\n").skip(1) {
        let (block, _) = block.split_once("\n);").unwrap();
        let lines = block.lines().map(str::trim);
        let doc: String = lines.filter_map(|line| line.strip_prefix("///")).collect();
        let last = block.lines().last().unwrap().trim();
        let (name, variants) = last.split_once(" {").unwrap();
        let words = variants.split('"').skip(1).step_by(2).map(str::to_owned);
        found.insert(name.to_owned(), (doc.trim().to_owned(), words.collect()));
    }
    found
}

/// Documentation for programmers, for users: a link to a field is the name of the key.
fn words(doc: &str) -> String {
    let plain = doc.replace("[`", "`").replace("`]", "`");
    let mut text = String::new();
    for (number, part) in plain.split('`').enumerate() {
        let key = part.strip_prefix("Self::");
        let key = key.map(|name| name.replace('_', "-"));
        let part = key.unwrap_or_else(|| part.to_owned());
        let quote = if number == 0 { "" } else { "`" };
        let _ = write!(text, "{quote}{part}");
    }
    text.replace('|', "\\|")
}

/// A value as TOML writes it.
fn default(table: &toml::Table, name: &str) -> String {
    match table.get(name) {
        None => "none".to_owned(),
        Some(value) => format!("`{value}`"),
    }
}

/// The default configuration, which has to be what a configuration file can say.
fn defaults() -> toml::Table {
    toml::Table::try_from(NodeConfig::default()).unwrap()
}

fn settings() -> String {
    let config = source("policy/config.rs");
    let defaults = defaults();
    let mut text = "\n| key | default | meaning |\n|---|---|---|\n".to_owned();
    let mut tables = String::new();
    let mut known = Vec::new();
    for field in fields(&config, "NodeConfig") {
        known.push(field.name.clone());
        let (heading, rows) = match field.kind.as_str() {
            "Policy" => ("[defaults]", policy(&defaults["defaults"])),
            "Settings" => ("[checkpoints]", {
                let settings = fields(&source("checkpoint/settings.rs"), "Settings");
                rows(&settings, defaults["checkpoints"].as_table().unwrap())
            }),
            _ => {
                text += &rows(&[field], &defaults);
                continue;
            }
        };
        let _ = write!(
            tables,
            "\n### `{heading}`\n\n{}\n\n| key | default | meaning |\n|---|---|---|\n{rows}",
            words(&field.doc)
        );
    }
    for name in defaults.keys() {
        assert!(
            known.contains(name),
            "{name} is no field that the source shows"
        );
    }
    format!("{text}{tables}\n")
}

fn rows(fields: &[Documented], defaults: &toml::Table) -> String {
    let mut text = String::new();
    for field in fields {
        let meaning = match field.kind.as_str() {
            "Enable" => "Which containers are worked on: `annotated` are those that carry an annotation below `restow.dev/`, `all` are all of the node, unless one says `restow.dev/enabled: \"false\"`.".to_owned(),
            _ => words(&field.doc),
        };
        let _ = writeln!(
            text,
            "| `{}` | {} | {meaning} |",
            field.name,
            default(defaults, &field.name)
        );
    }
    text
}

/// The settings of a policy with their words.
fn of_policy() -> Vec<(String, Vec<String>, String)> {
    let text = source("policy/mod.rs");
    let choices = choices(&text);
    let fields = fields(&text, "Policy").into_iter();
    let settings = fields.filter_map(|field| {
        let (doc, words) = choices.get(&field.kind)?;
        Some((field.name, words.clone(), doc.clone()))
    });
    settings.collect()
}

fn policy(defaults: &toml::Value) -> String {
    let mut text = String::new();
    let table = defaults.as_table().unwrap();
    let settings = of_policy();
    for (name, _, doc) in &settings {
        let meaning = if OF_THE_NODE.contains(&name.as_str()) {
            words(doc)
        } else {
            "As the [annotation](#annotations).".to_owned()
        };
        let _ = writeln!(text, "| `{name}` | {} | {meaning} |", default(table, name));
    }
    assert_eq!(
        settings.len(),
        table.len(),
        "settings that the source does not show: {table}"
    );
    text
}

fn annotations() -> String {
    let mut text = "\n| annotation | values, default first | meaning |\n|---|---|---|\n".to_owned();
    let mut known = vec!["enabled".to_owned()];
    let row = |name: &str, values: &str, meaning: &str| {
        format!("| `{ANNOTATION_PREFIX}{name}` | {values} | {meaning} |\n")
    };
    text += &row(MORE[0].0, MORE[0].1, MORE[0].2);
    for (name, values, doc) in of_policy() {
        if OF_THE_NODE.contains(&name.as_str()) {
            continue;
        }
        let quoted: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
        text += &row(&name, &quoted.join(", "), &words(&doc));
        // The source says what the code takes.
        for value in &values {
            let pair = BTreeMap::from([(format!("{ANNOTATION_PREFIX}{name}"), value.clone())]);
            let policy = NodeConfig::default().policy_for(&pair);
            assert!(policy.unwrap().is_some(), "{name}: {value}");
        }
        known.push(name);
    }
    for (name, values, meaning) in &MORE[1..] {
        text += &row(name, values, meaning);
        known.push((*name).to_owned());
    }
    let unknown = BTreeMap::from([(format!("{ANNOTATION_PREFIX}none"), String::new())]);
    let error = NodeConfig::default()
        .policy_for(&unknown)
        .unwrap_err()
        .to_string();
    let (_, list) = error.split_once("known are ").unwrap();
    let mut list: Vec<&str> = list.split(", ").collect();
    list.sort_unstable();
    known.sort();
    assert_eq!(list, known, "the annotations that are known");
    text + "\n"
}

/// Environment variables of ours that users may set; the others are between our own programs.
const OWN: &[&str] = &[
    "RESTOW_COMPANION",
    "RESTOW_HOLD",
    "RESTOW_INTERPOSED",
    "RESTOW_WRAPPED",
    "RESTOW_BLESS",
];

fn variables(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            variables(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let quoted = text.split('"').skip(1).step_by(2);
            found.extend(
                quoted
                    .filter(|word| {
                        word.strip_prefix("RESTOW_").is_some_and(|rest| {
                            !rest.is_empty()
                                && rest.bytes().all(|c| c.is_ascii_uppercase() || c == b'_')
                        })
                    })
                    .map(str::to_owned),
            );
        }
    }
}

#[test]
fn the_documentation_has_all_settings() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = fs::read_to_string(&path).unwrap();
    let mut wanted = text.clone();
    for (name, made) in [("settings", settings()), ("annotations", annotations())] {
        let (start, end) = (
            format!("<!-- {name} -->\n"),
            format!("<!-- end of {name} -->"),
        );
        let (before, rest) = wanted.split_once(&start).unwrap();
        let (_, after) = rest.split_once(&end).unwrap();
        wanted = format!("{before}{start}{made}{end}{after}");
    }
    if std::env::var_os(VARIABLE).is_some() {
        fs::write(&path, wanted).unwrap();
    } else {
        assert!(
            text == wanted,
            "docs/configuration.md is not as the code: run this test with {VARIABLE}=1"
        );
    }
}

#[test]
fn the_documentation_has_all_variables_of_the_environment() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("docs/configuration.md")).unwrap();
    let mut found = Vec::new();
    for package in ["core", "hooks", "cli", "shim"] {
        variables(&root.join(package).join("src"), &mut found);
    }
    assert!(
        found.iter().any(|name| name == "RESTOW_CONFIG"),
        "{found:?}"
    );
    for name in found.iter().filter(|name| !OWN.contains(&name.as_str())) {
        assert!(
            text.contains(&format!("`{name}`")),
            "docs/configuration.md does not name {name}"
        );
    }
}
