//! Images made here, in the format of `docker save`: nothing is pulled.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{PAUSE_IMAGE, PROBE_IMAGE};
use crate::tools;

/// What the probe's image has beside the probe.
const DIRECTORIES: &[&str] = &["dev", "etc", "proc", "sys", "tmp", "reports", "data"];

/// An image that containerd can import.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    entrypoint: Vec<String>,
    /// A directory whose content it is, or nothing for the probe alone.
    tree: Option<PathBuf>,
}

impl Image {
    /// The sandbox's.
    ///
    /// # Errors
    /// Never; for symmetry with those that build programs.
    pub fn pause() -> Result<Self> {
        Ok(Self {
            name: PAUSE_IMAGE.to_owned(),
            entrypoint: vec!["/probe".to_owned(), "pause".to_owned()],
            tree: None,
        })
    }

    /// The probe's.
    ///
    /// # Errors
    /// Never; for symmetry with those that build programs.
    pub fn probe() -> Result<Self> {
        Ok(Self {
            name: PROBE_IMAGE.to_owned(),
            entrypoint: Vec::new(),
            tree: None,
        })
    }

    /// One with all that is in the directory `tree`, named `docker.io/library/NAME:latest`.
    #[must_use]
    pub fn of_tree(name: &str, tree: &Path) -> Self {
        Self {
            name: format!("docker.io/library/{name}:latest"),
            entrypoint: Vec::new(),
            tree: Some(tree.to_owned()),
        }
    }

    /// Its full name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes its archive.
    pub(super) fn write(&self, archive: &Path) -> Result<()> {
        let layer = archive.with_extension("layer");
        let digest = self.layer(&layer)?;
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
            "history": [{"created_by": "restow-integration"}],
        });
        let manifest =
            json!([{"Config": "config.json", "RepoTags": [self.name], "Layers": ["layer.tar"]}]);
        let file = File::create(archive)
            .with_context(|| format!("Create the archive {}", archive.display()))?;
        let mut tar = tar::Builder::new(file);
        let mut data = File::open(&layer).context("Read a layer")?;
        append(&mut tar, "config.json", &serde_json::to_vec(&config)?)?;
        tar.append_file("layer.tar", &mut data)
            .context("Add a layer to an archive")?;
        append(&mut tar, "manifest.json", &serde_json::to_vec(&manifest)?)?;
        tar.into_inner().context("Finish an archive")?;
        std::fs::remove_file(&layer).context("Remove a layer")
    }

    /// Writes its one layer and returns the hash of it.
    fn layer(&self, path: &Path) -> Result<String> {
        let file = File::create(path).with_context(|| format!("Create {}", path.display()))?;
        let mut tar = tar::Builder::new(Hashing {
            inner: io::BufWriter::new(file),
            hash: Sha256::new(),
        });
        tar.follow_symlinks(false);
        for name in DIRECTORIES {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(if *name == "tmp" { 0o1777 } else { 0o755 });
            header.set_size(0);
            tar.append_data(&mut header, name, io::empty())
                .with_context(|| format!("Add {name} to a layer"))?;
        }
        let mut program = File::open(tools::probe()?).context("Open the probe")?;
        tar.append_file("probe", &mut program)
            .context("Add the probe to a layer")?;
        if let Some(tree) = &self.tree {
            tar.append_dir_all(".", tree)
                .with_context(|| format!("Add {} to a layer", tree.display()))?;
        }
        let mut out = tar.into_inner().context("Finish a layer")?;
        out.flush().context("Write a layer")?;
        let digest = out.hash.finalize();
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn append(tar: &mut tar::Builder<File>, name: &str, data: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(data.len() as u64);
    tar.append_data(&mut header, name, data)
        .with_context(|| format!("Add {name} to an archive"))
}

/// Writes on, and hashes what it writes.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
