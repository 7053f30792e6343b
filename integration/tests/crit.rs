//! JSON as CRIU's own `crit` prints it: the same text for every real image, and what crit prints makes the same image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use criu_image::json::{self, Options};
use criu_image::schema::{Label, MessageDef, Style, Type};
use criu_image::views::FileEntry;
use criu_image::wire::Message;
use criu_image::{Builder, Framing, Image, Kind, Named, Reader};
use restow_integration::root;
use restow_integration::suite::Suite;

/// Kinds whose images `crit` cannot decode, or not without losing something.
fn beyond_crit(kind: Kind) -> bool {
    matches!(kind, Kind::Pidfd | Kind::BinfmtMisc)
}

fn images(dir: &Path, all: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            images(&path, all)?;
        } else if matches!(Named::of(&name), Named::Record(kind) if !beyond_crit(kind)) {
            all.push(path);
        }
    }
    all.sort();
    Ok(())
}

#[test]
fn json_is_what_crit_prints() -> Result<()> {
    for (suite, version) in [
        (Suite::Stable, "criu-4.1.1"),
        (Suite::Testing, "criu-4.2.1"),
    ] {
        let root = root::with_crit(suite, &mut |step| eprintln!("{step}"))?;
        let mut all = Vec::new();
        for set in ["objects", "pod"] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../testdata")
                .join(set)
                .join(version);
            images(&dir, &mut all)?;
        }
        ensure!(all.len() > 50, "The images in testdata are missing");
        let mut different = Vec::new();
        for path in all {
            for pretty in [false, true] {
                different.extend(compare(&root, &path, &with_text(&path)?, pretty)?);
            }
        }
        // The crit of criu 4.1 does not know all fields of 4.2.
        let all = (suite == Suite::Testing).then_some(Kind::ALL);
        for kind in all
            .into_iter()
            .flatten()
            .filter(|kind| !beyond_crit(**kind))
        {
            let bytes = sample(*kind)?;
            for pretty in [false, true] {
                different.extend(compare(&root, Path::new(kind.name()), &bytes, pretty)?);
            }
        }
        assert!(different.is_empty(), "{}", different.join("\n"));
    }
    Ok(())
}

/// An image of a kind with every field that the schema has: for kinds that no machine here makes.
fn sample(kind: Kind) -> Result<Vec<u8>> {
    let def = MessageDef::of(kind.message(0)).context("The schema has all messages")?;
    let mut message = filled(def, 0);
    let mut extra = Vec::new();
    // Lengths have to be those of what follows.
    match kind.framing() {
        Framing::Plain => {}
        Framing::Sized(lengths) => {
            for field in lengths {
                message.set_u64(*field, 5);
                extra.extend(b"bytes");
            }
        }
        Framing::SharedMemory => {
            message.set_u64(2, 5);
            message.remove(3);
            extra.extend(b"bytes\0\0\0");
        }
        Framing::Semaphores => {
            message.set_u64(2, 3);
            extra.extend(b"\x01\0\x02\0\x03\0\0\0");
        }
        Framing::MessageQueue => {
            message.set_u64(3, 1);
            extra.extend(b"\x04\0\0\0\x08\x01\x10\x05bytes\0\0\0");
        }
        Framing::Ghost => {
            message.remove(9);
            extra.extend(b"everything");
        }
    }
    if kind == Kind::Inventory {
        message.set_u64(1, 2);
    }
    let mut builder = Builder::new(kind);
    builder.push_with(&message, &extra);
    if kind == Kind::Pagemap {
        let def = MessageDef::of(kind.message(1)).context("The schema has all messages")?;
        builder.push(&filled(def, 0));
    }
    Ok(builder.finish())
}

/// A message with a value in every field.
fn filled(def: &MessageDef, depth: usize) -> Message<'static> {
    let mut message = Message::default();
    for field in def.fields {
        // Two of what is repeated; addresses have one part, or four.
        let count = match (field.label, field.style) {
            (Label::Repeated, Style::Address) => 4,
            (Label::Repeated, _) => 2,
            _ => 1,
        };
        for _ in 0..count {
            match field.typ {
                Type::Message(_) if depth > 3 => {}
                Type::Message(nested) => {
                    message.push_bytes(field.number, filled(nested, depth + 1).encode());
                }
                Type::String => message.push_bytes(field.number, "text \u{e9}\n"),
                Type::Bytes => message.push_bytes(field.number, b"\0bytes=\xff "),
                Type::Enum(values) => {
                    message.push_u64(field.number, values.values[0].0.unsigned_abs().into());
                }
                Type::Bool => message.push_u64(field.number, 1),
                Type::Fixed32 => message.push_fixed32(field.number, 0xdead_beef),
                Type::Fixed64 => message.push_fixed64(field.number, 0xdead_beef_0bad_cafe),
                Type::S32 | Type::S64 => message.push_u64(field.number, 153),
                Type::I32 | Type::I64 => message.push_u64(field.number, u64::MAX),
                Type::U32 => message.push_u64(field.number, 0x0012_3457),
                Type::U64 => message.push_u64(field.number, 0xffff_f000_0012_3457),
            }
        }
    }
    message
}

/// An image without names that are not UTF-8: of one, the crit of criu 4.1 prints what Python calls its bytes, and the
/// crit of 4.2 fails.
fn with_text(path: &Path) -> Result<Vec<u8>> {
    let image = Image::detect(path, fs::read(path)?)?;
    if image.kind() != Kind::Files {
        return Ok(image.bytes().to_vec());
    }
    let changed = image.rewrite::<criu_image::Error>(|record| {
        let mut file: FileEntry = record.view()?;
        if let Some(reg) = &mut file.reg {
            reg.name = reg.name.to_string().into();
        }
        record.with(&file)
    });
    Ok(changed?)
}

/// How our JSON of an image differs from crit's.
fn compare(root: &Path, path: &Path, bytes: &[u8], pretty: bool) -> Result<Option<String>> {
    let mut command = Command::new("chroot");
    command
        .arg(root)
        .args(["crit", "decode"])
        .args(pretty.then_some("--pretty"));
    // A file: crit seeks in what follows records.
    let copy = root.join("tmp/compared.img");
    fs::write(&copy, bytes)?;
    let output = command.stdin(fs::File::open(&copy)?).output();
    fs::remove_file(&copy)?;
    let output = output.context("Start crit")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        return Ok(Some(format!("{}: crit fails: {text}", path.display())));
    }
    let mut ours = Vec::new();
    let mut reader = Reader::new(path, bytes, None)?;
    json::decode(
        &mut reader,
        &mut ours,
        Options {
            pretty,
            no_payload: false,
        },
    )?;
    ours.push(b'\n');
    let crit = String::from_utf8_lossy(&output.stdout).into_owned();
    let ours = String::from_utf8_lossy(&ours).into_owned();
    let Some(at) = crit
        .bytes()
        .zip(ours.bytes())
        .position(|(crit, ours)| crit != ours)
    else {
        return Ok((crit != ours).then(|| format!("{}: one is longer", path.display())));
    };
    let part = |text: &str| {
        let part = &text.as_bytes()[at.saturating_sub(60)..(at + 60).min(text.len())];
        String::from_utf8_lossy(part).into_owned()
    };
    let (crit, ours) = (part(&crit), part(&ours));
    Ok(Some(format!(
        "{} (pretty: {pretty}):\n  crit {crit}\n  ours {ours}",
        path.display()
    )))
}
