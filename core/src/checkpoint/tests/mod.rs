//! Checkpoints that are built here, kept and prepared without root: owners are whoever runs the tests.

mod attacks;
mod prepare;
mod rootfs;
mod store;

use std::fs;
use std::path::{Path, PathBuf};

use criu_image::views::{InventoryEntry, PstreeEntry, View};
use criu_image::wire::Message;
use criu_image::{Builder, Kind};
use serde_json::{Value, json};
use tar::{EntryType, Header};

use super::{Asked, Error, Prepared, Settings};
use crate::policy::NodeConfig;

/// A node's directories.
struct Lab {
    dir: tempfile::TempDir,
    config: NodeConfig,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let config = NodeConfig {
            checkpoints: Settings {
                roots: vec![at("store")],
                flat_roots: vec![at("flat")],
                unpack: at("unpacked"),
                ..Settings::default()
            },
            ..NodeConfig::default()
        };
        for name in ["store", "flat", "bundle", "bundle/rootfs"] {
            private(&at(name));
        }
        Self { dir, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn rootfs(&self) -> PathBuf {
        self.path("bundle/rootfs")
    }

    /// Puts an archive below the root of a namespace.
    fn keep(&self, namespace: &str, name: &str, archive: &[u8]) {
        let dir = self.path("store").join(namespace);
        if !dir.exists() {
            private(&dir);
        }
        write(&dir.join(format!("{name}.tar")), archive);
    }

    /// Prepares what a container of namespace `team` with this annotation asks for.
    fn prepare(&self, name: &str) -> Result<Prepared, Error> {
        self.prepare_as(&spec("team", "web", name))
    }

    fn prepare_as(&self, spec: &Value) -> Result<Prepared, Error> {
        let asked = Asked::from_spec(spec, &self.config)?.expect("it asks for a checkpoint");
        asked.prepare(&self.path("bundle"), &self.rootfs())
    }

    /// The sentence of a refusal, after which nothing may be left.
    fn refusal(&self, name: &str) -> String {
        let error = self.prepare(name).unwrap_err();
        assert_eq!(self.left(), Vec::<PathBuf>::new(), "nothing is left");
        crate::chain(&error)
    }

    /// What is in the directory for unpacked checkpoints.
    fn left(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("unpacked")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

fn private(dir: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o755).create(dir).unwrap();
}

fn write(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn spec(namespace: &str, container: &str, checkpoint: &str) -> Value {
    json!({
        "process": {"user": {"uid": 0, "gid": 0}},
        "annotations": {
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.container-name": container,
            "io.kubernetes.cri.sandbox-namespace": namespace,
            "restow.dev/restore-from": checkpoint,
        },
    })
}

/// A tar archive, whatever stands in it.
struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// A checkpoint that can be prepared: one process with two pages, of a container `web` in namespace `team`.
    fn checkpoint() -> Self {
        Self::new()
            .file("spec.dump", spec_dump("team").to_string().as_bytes())
            .file("config.dump", b"{}")
            .file("checkpoint/inventory.img", &inventory())
            .file("checkpoint/pstree.img", &pstree())
            .file("checkpoint/pagemap-1.img", &pagemap(7, 2))
            .file("checkpoint/pages-7.img", &[1; 8192])
            .file("dump.log", b"a log")
    }

    /// A member with everything said.
    fn entry(mut self, name: &str, kind: EntryType, link: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        let field = &mut header.as_old_mut().linkname;
        field[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(nix::unistd::geteuid().as_raw().into());
        header.set_gid(nix::unistd::getegid().as_raw().into());
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            let (major, minor) = link_device(link);
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(name, EntryType::Regular, "", 0o644, content)
    }

    fn directory(self, name: &str) -> Self {
        self.entry(name, EntryType::Directory, "", 0o755, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// `major:minor`, which a device has in place of a link.
fn link_device(text: &str) -> (u32, u32) {
    let (major, minor) = text.split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

fn spec_dump(namespace: &str) -> Value {
    json!({"annotations": {
        "io.kubernetes.cri.sandbox-namespace": namespace,
        "io.kubernetes.cri.sandbox-name": "pod-a",
        "io.kubernetes.cri.container-name": "web",
    }})
}

fn inventory() -> Vec<u8> {
    let mut builder = Builder::new(Kind::Inventory);
    let entry = InventoryEntry {
        img_version: 2,
        ..InventoryEntry::default()
    };
    builder.push(&entry.to_message());
    builder.finish()
}

/// A list of processes with one in it.
fn pstree() -> Vec<u8> {
    let mut builder = Builder::new(Kind::Pstree);
    let entry = PstreeEntry {
        pid: 1,
        threads: vec![1],
        ..PstreeEntry::default()
    };
    builder.push(&entry.to_message());
    builder.finish()
}

/// A pagemap with one area of `pages` pages that are in `pages-<id>.img`.
fn pagemap(id: u64, pages: u64) -> Vec<u8> {
    let mut builder = Builder::new(Kind::Pagemap);
    let mut head = Message::parse(&[]).unwrap();
    head.push_u64(1, id);
    builder.push(&head);
    let mut entry = Message::parse(&[]).unwrap();
    for (field, value) in [(1, 0x1000), (2, pages), (4, 4)] {
        entry.push_u64(field, value);
    }
    builder.push(&entry);
    builder.finish()
}
