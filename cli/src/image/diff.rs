//! `restow image diff`: what two image sets mean, compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use criu_image::object::{Object, Value as Field, value};
use criu_image::schema::{Label, Style as Shown};
use criu_image::wire::FieldRef;
use criu_image::{Image, Record};
use serde_json::{Value, json};

use super::Report;
use crate::Failure;
use crate::input::{ImageSet, Input};
use crate::output::{Style, Table, visible_bytes};

/// How deep messages are compared by their fields; deeper ones are compared by their bytes.
const MAX_DEPTH: usize = 100;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Image file, image directory or checkpoint archive
    a: PathBuf,

    /// The same of the other side
    b: PathBuf,

    /// Print JSON for programs instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, style: Style) -> Result<ExitCode, Failure> {
    let mut found = Vec::new();
    match (Input::open(&args.a)?, Input::open(&args.b)?) {
        (Input::Image(a), Input::Image(b)) => {
            let name = b
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            images(&name, &read(&a)?, &read(&b)?, &mut found)?;
        }
        (Input::Set(a), Input::Set(b)) => sets(&a, &b, &mut found)?,
        _ => {
            return Err(Failure::Usage(anyhow::anyhow!(
                "One is an image file, the other holds many images"
            )));
        }
    }
    let same = found.is_empty();
    let mut table = Table::new(&["image", "record", "field~", "a~", "b~"]);
    let mut json = Vec::new();
    let none = || "(none)".to_owned();
    for Difference {
        image,
        record,
        field,
        a,
        b,
    } in found
    {
        json.push(json!({"image": image, "record": record, "field": field, "a": a, "b": b}));
        table.row([
            image,
            record,
            field,
            a.unwrap_or_else(none),
            b.unwrap_or_else(none),
        ]);
    }
    if args.json || !same {
        Report::new(table, Value::Array(json)).print(args.json, style)?;
    }
    Ok(ExitCode::from(u8::from(!same)))
}

fn read(path: &Path) -> Result<Image> {
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(Image::detect(path, bytes)?)
}

/// A field, or a record or image as a whole, that is not the same.
struct Difference {
    image: String,
    record: String,
    field: String,
    a: Option<String>,
    b: Option<String>,
}

fn sets(a: &ImageSet, b: &ImageSet, found: &mut Vec<Difference>) -> Result<()> {
    let whole = |image: &str, a: Option<String>, b: Option<String>| Difference {
        image: image.to_owned(),
        record: String::new(),
        field: String::new(),
        a,
        b,
    };
    let present = || Some("(image)".to_owned());
    for name in a.names() {
        match (a.any_image(name)?, b.any_image(name)?) {
            (Some(a), Some(b)) => images(name, &a, &b, found)?,
            _ => found.push(whole(name, present(), None)),
        }
    }
    found.extend(
        b.names()
            .filter(|name| !a.has(name))
            .map(|name| whole(name, None, present())),
    );
    let is_image = |name: &&String| name.ends_with(".img");
    let names: std::collections::BTreeSet<_> = a
        .others()
        .keys()
        .chain(b.others().keys())
        .filter(is_image)
        .collect();
    for name in names {
        let size = |set: &ImageSet| set.others().get(name).map(|size| format!("{size} bytes"));
        let (a, b) = (size(a), size(b));
        if a != b {
            found.push(whole(name, a, b));
        }
    }
    Ok(())
}

/// The records of an image by their keys, with index, message and payload.
type Keyed = BTreeMap<(String, usize), (usize, Vec<u8>, Vec<u8>)>;

/// What tells a record of an image apart from the others: its type and id, or its place.
fn key(object: &Object<'_>, index: usize) -> String {
    let fields = [
        "id", "fd", "mnt_id", "pid", "pipe_id", "id_for", "inode_id", "orig_id", "start", "vaddr",
        "map_id", "off", "name", "ifindex",
    ];
    let kind = object
        .name_of("type")
        .map(|name| format!("{name} "))
        .unwrap_or_default();
    let found = fields.iter().find_map(|name| match object.get(name)? {
        Field::Unsigned(number) if matches!(*name, "start" | "vaddr" | "off") => {
            Some(format!("{name} {number:#x}"))
        }
        Field::Unsigned(number) => Some(format!("{name} {number}")),
        Field::Text(text) => Some(format!("{name} {}", visible_bytes(text))),
        _ => None,
    });
    found.map_or_else(|| format!("#{index}"), |found| format!("{kind}{found}"))
}

fn images(name: &str, a: &Image, b: &Image, found: &mut Vec<Difference>) -> Result<()> {
    // Keys that are there twice are told apart by their order.
    let keyed = |image: &Image| -> Result<Keyed> {
        let mut all = BTreeMap::new();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for record in image.records() {
            let record = record?;
            let key = key(&record.object()?, record.index);
            let count = seen.entry(key.clone()).or_default();
            all.insert(
                (key, *count),
                (record.index, record.payload.to_vec(), record.extra.to_vec()),
            );
            *count += 1;
        }
        Ok(all)
    };
    if a.kind() != b.kind() {
        anyhow::bail!(
            "{name}: one is an image of {}, the other of {}",
            a.kind(),
            b.kind()
        );
    }
    let (of_a, of_b) = (keyed(a)?, keyed(b)?);
    let keys: std::collections::BTreeSet<_> = of_a.keys().chain(of_b.keys()).collect();
    for key in keys {
        let record = if key.1 == 0 {
            key.0.clone()
        } else {
            format!("{} ({})", key.0, key.1 + 1)
        };
        let difference = |field: String, a, b| Difference {
            image: name.to_owned(),
            record: record.clone(),
            field,
            a,
            b,
        };
        let present = |is: bool| is.then(|| "(record)".to_owned());
        let (Some(in_a), Some(in_b)) = (of_a.get(key), of_b.get(key)) else {
            found.push(difference(
                String::new(),
                present(of_a.contains_key(key)),
                present(of_b.contains_key(key)),
            ));
            continue;
        };
        let object = |image: &Image, index: usize, payload: &[u8]| -> Result<Vec<Leaf>> {
            let record = Record::new(image, index, payload);
            let mut leaves = Vec::new();
            leaves_of(&record.object()?, "", 0, &mut leaves);
            Ok(leaves)
        };
        compare(
            &object(a, in_a.0, &in_a.1)?,
            &object(b, in_b.0, &in_b.1)?,
            |field, a, b| found.push(difference(field, a, b)),
        );
        if in_a.2 != in_b.2 {
            let size = |bytes: &[u8]| Some(format!("{} bytes", bytes.len()));
            found.push(difference("(payload)".into(), size(&in_a.2), size(&in_b.2)));
        }
    }
    Ok(())
}

/// A field with its path and its value as text.
type Leaf = (String, String);

fn leaves_of(object: &Object<'_>, path: &str, depth: usize, out: &mut Vec<Leaf>) {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for (def, field) in object.fields() {
        let count = counts.entry(field.number).or_default();
        let Some(def) = def else {
            out.push((format!("{path}_unknown[{}]", field.number), raw(field)));
            continue;
        };
        let mut here = format!("{path}{}", def.name);
        let value = value(def, field);
        if def.label == Label::Repeated {
            // Elements with a key of their own stay the same when others come or go.
            here = match &value {
                Some(Field::Object(element)) => {
                    format!("{here}[{}]", key(element, *count).trim_start_matches('#'))
                }
                _ => format!("{here}[{count}]"),
            };
        }
        *count += 1;
        let text = match value {
            Some(Field::Object(nested)) if depth < MAX_DEPTH => {
                let before = out.len();
                leaves_of(&nested, &format!("{here}."), depth + 1, out);
                if out.len() == before {
                    out.push((here, "{}".to_owned()));
                }
                continue;
            }
            Some(Field::Unsigned(number)) if matches!(def.style, Shown::Hex | Shown::Flags(_)) => {
                format!("{number:#x}")
            }
            Some(Field::Unsigned(number)) => number.to_string(),
            Some(Field::Signed(number)) => number.to_string(),
            Some(Field::Bool(value)) => value.to_string(),
            Some(Field::Enum(_, Some(name))) => name.to_owned(),
            Some(Field::Text(bytes) | Field::Bytes(bytes)) if bytes.len() <= 4096 => {
                visible_bytes(bytes)
            }
            _ => raw(field),
        };
        out.push((here, text));
    }
}

fn raw(field: &FieldRef<'_>) -> String {
    match field.as_u64() {
        Some(number) => number.to_string(),
        None => {
            field
                .value
                .iter()
                .take(64)
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
                + &format!(" ({} bytes)", field.value.len())
        }
    }
}

fn compare(a: &[Leaf], b: &[Leaf], mut found: impl FnMut(String, Option<String>, Option<String>)) {
    if a == b {
        return;
    }
    let group = |leaves: &[Leaf]| {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (path, text) in leaves {
            all.entry(path.clone()).or_default().push(text.clone());
        }
        all
    };
    let (of_a, mut of_b) = (group(a), group(b));
    for (path, texts) in of_a {
        let others = of_b.remove(&path);
        if others.as_ref() != Some(&texts) {
            found(
                path,
                Some(texts.join(", ")),
                others.map(|others| others.join(", ")),
            );
        }
    }
    for (path, texts) in of_b {
        found(path, None, Some(texts.join(", ")));
    }
}
