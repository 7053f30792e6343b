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
    /// What of the directory is not in it.
    left_out: Vec<&'static str>,
    /// Files that are in it besides, by their paths in it.
    files: Vec<(&'static str, PathBuf)>,
    /// Its archive, where it has been written already.
    archive: Option<PathBuf>,
}

impl Image {
    /// The sandbox's.
    ///
    /// # Errors
    /// Never; for symmetry with those that build programs.
    pub fn pause() -> Result<Self> {
        Ok(Self {
            entrypoint: vec!["/probe".to_owned(), "pause".to_owned()],
            ..Self::named(PAUSE_IMAGE)
        })
    }

    /// The probe's.
    ///
    /// # Errors
    /// Never; for symmetry with those that build programs.
    pub fn probe() -> Result<Self> {
        Ok(Self::named(PROBE_IMAGE))
    }

    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            entrypoint: Vec::new(),
            tree: None,
            left_out: Vec::new(),
            files: Vec::new(),
            archive: None,
        }
    }

    /// One with all that is in the directory `tree`, named `docker.io/library/NAME:latest`.
    #[must_use]
    pub fn of_tree(name: &str, tree: &Path) -> Self {
        Self {
            tree: Some(tree.to_owned()),
            ..Self::named(&format!("docker.io/library/{name}:latest"))
        }
    }

    /// The same under another name, with the registry in it.
    #[must_use]
    pub fn called(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The same without what is at these paths of the directory, and with these files besides, by path in it and here.
    #[must_use]
    pub fn changed(mut self, left_out: &[&'static str], files: &[(&'static str, PathBuf)]) -> Self {
        self.left_out = left_out.to_vec();
        self.files = files.to_vec();
        self
    }

    /// The same with its archive at `path`, where it is written unless it is there: large ones are made once.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kept(mut self, path: &Path) -> Result<Self> {
        if !path.is_file() {
            let unfinished = path.with_extension(format!("unfinished-{}", std::process::id()));
            self.write(&unfinished)?;
            std::fs::rename(&unfinished, path)
                .with_context(|| format!("Rename {}", unfinished.display()))?;
        }
        self.archive = Some(path.to_owned());
        Ok(self)
    }

    /// Its archive, where it is kept.
    pub(super) fn archive(&self) -> Option<&Path> {
        self.archive.as_deref()
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
            self.add_tree(&mut tar, tree, Path::new(""))
                .with_context(|| format!("Add {} to a layer", tree.display()))?;
        }
        for (path, file) in &self.files {
            tar.append_path_with_name(file, path)
                .with_context(|| format!("Add {} to a layer", file.display()))?;
        }
        let mut out = tar.into_inner().context("Finish a layer")?;
        out.flush().context("Write a layer")?;
        let digest = out.hash.finalize();
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl Image {
    /// Adds what is in the directory `below` of the tree, with all below that.
    fn add_tree(
        &self,
        tar: &mut tar::Builder<impl Write>,
        tree: &Path,
        below: &Path,
    ) -> Result<()> {
        for entry in std::fs::read_dir(tree.join(below))? {
            let entry = entry?;
            let path = below.join(entry.file_name());
            if self
                .left_out
                .iter()
                .any(|left_out| path == Path::new(left_out))
            {
                continue;
            }
            tar.append_path_with_name(entry.path(), &path)?;
            if entry.file_type()?.is_dir() {
                self.add_tree(tar, tree, &path)?;
            }
        }
        Ok(())
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
