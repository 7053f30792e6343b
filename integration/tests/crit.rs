//! JSON as CRIU's own `crit` prints it: the same text for every real image, and what crit prints makes the same image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use criu_image::json::{self, Options};
use criu_image::views::FileEntry;
use criu_image::{Image, Kind, Named, Reader};
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
                different.extend(compare(&root, &path, pretty)?);
            }
        }
        assert!(different.is_empty(), "{}", different.join("\n"));
    }
    Ok(())
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
fn compare(root: &Path, path: &Path, pretty: bool) -> Result<Option<String>> {
    let bytes = with_text(path)?;
    let mut command = Command::new("chroot");
    command
        .arg(root)
        .args(["crit", "decode"])
        .args(pretty.then_some("--pretty"));
    // A file: crit seeks in what follows records.
    let copy = root.join("tmp/compared.img");
    fs::write(&copy, &bytes)?;
    let output = command.stdin(fs::File::open(&copy)?).output();
    fs::remove_file(&copy)?;
    let output = output.context("Start crit")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        return Ok(Some(format!("{}: crit fails: {text}", path.display())));
    }
    let mut ours = Vec::new();
    let mut reader = Reader::new(path, bytes.as_slice(), None)?;
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
