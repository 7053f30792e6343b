//! What a checkpoint says of itself. Nothing here decides anything but a refusal: names, to be shown and compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use serde::Serialize;
use serde_json::Value;

use super::error::{Error, refused};
use super::incoming::Form;
use super::store::Entry;
use super::unpack::{DESCRIPTIONS, MAX_DESCRIPTION};
use crate::archive::{self, EXPANSION};
use crate::host::carry::{below, beneath};
use crate::source::manifest::{FILE_NAME, Manifest};

/// Annotations and labels that name a pod's namespace: containerd's, CRI-O's, and the label of all.
const NAMESPACE: [&str; 3] = [
    "io.kubernetes.cri.sandbox-namespace",
    "io.kubernetes.cri-o.Namespace",
    "io.kubernetes.pod.namespace",
];

/// The same for the pod's name.
const POD: [&str; 3] = [
    "io.kubernetes.cri.sandbox-name",
    "io.kubernetes.cri-o.KubeName",
    "io.kubernetes.pod.name",
];

/// The same for the container's name.
const CONTAINER: [&str; 2] = [
    crate::policy::CONTAINER_NAME,
    "io.kubernetes.container.name",
];

/// The image's name.
const IMAGE: [&str; 2] = [
    "io.kubernetes.cri.image-name",
    "io.kubernetes.cri-o.ImageName",
];

/// What a checkpoint says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct About {
    /// The namespaces that it names; more than one only when it contradicts itself.
    pub namespaces: BTreeSet<String>,
    /// The pod's name.
    pub pod: Option<String>,
    /// The container's name.
    pub container: Option<String>,
    /// The name of the container's image.
    pub image: Option<String>,
    /// The runtime that made it.
    pub runtime: Option<String>,
    /// The release of the kernel it was made on.
    pub kernel: Option<String>,
    /// When it was made, in seconds since the epoch.
    pub time: Option<u64>,
}

/// The first of these annotations that is there.
pub(super) fn first<'v>(
    annotations: impl Fn(&str) -> Option<&'v str>,
    names: &[&str],
) -> Option<&'v str> {
    names.iter().find_map(|name| annotations(name))
}

/// Whose pod a container's annotations say it is of.
pub(super) fn namespace_of(annotations: &BTreeMap<String, String>) -> Option<&str> {
    first(|name| annotations.get(name).map(String::as_str), &NAMESPACE)
}

/// What a container's annotations call it.
pub(super) fn container_of(annotations: &BTreeMap<String, String>) -> Option<&str> {
    first(|name| annotations.get(name).map(String::as_str), &CONTAINER)
}

impl About {
    pub(super) fn read(entry: &Entry) -> Result<Self, Error> {
        let fault = refused(&entry.path);
        let mut about = Self::default();
        if entry.form == Form::Directory {
            let dir = entry.directory()?;
            about.of_directory(&dir).map_err(fault)?;
        } else {
            about.of_archive(entry.file()?).map_err(fault)?;
        }
        Ok(about)
    }

    fn of_archive(&mut self, file: File) -> io::Result<()> {
        let mut tar = archive::open(file, EXPANSION)?;
        while let Some(member) = tar.next_member()? {
            let path = below(&member.path)?;
            let Some(path) = path.to_str() else { continue };
            let path = path.strip_prefix("checkpoint/").unwrap_or(path);
            if is_description(path) && member.is_file && member.size <= MAX_DESCRIPTION {
                self.add(path, &tar.read()?)?;
            }
        }
        Ok(())
    }

    /// Reads it out of a directory with the archive's layout.
    pub(super) fn of_directory(&mut self, dir: &OwnedFd) -> io::Result<()> {
        for name in DESCRIPTIONS.iter().chain([&FILE_NAME]) {
            for path in [
                Path::new(name).to_path_buf(),
                Path::new("checkpoint").join(name),
            ] {
                let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
                let file = match beneath(dir.as_fd(), &path, flags) {
                    Ok(fd) => File::from(fd),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                self.of_file(name, file)?;
            }
        }
        Ok(())
    }

    /// Reads one of the descriptions.
    pub(super) fn of_file(&mut self, name: &str, file: File) -> io::Result<()> {
        let mut bytes = Vec::new();
        file.take(MAX_DESCRIPTION + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_DESCRIPTION {
            return Err(io::Error::other(format!(
                "{name} is larger than the {MAX_DESCRIPTION} bytes that are read"
            )));
        }
        self.add(name, &bytes)
    }

    fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let damaged = |error: &dyn std::fmt::Display| io::Error::other(format!("{name}: {error}"));
        if name == FILE_NAME {
            let manifest = Manifest::read(bytes).map_err(|error| damaged(&crate::chain(&error)))?;
            self.names(|name| manifest.identity.get(name).map(String::as_str));
            self.runtime.get_or_insert(manifest.runtime);
            self.kernel.get_or_insert(manifest.kernel);
            self.time.get_or_insert(manifest.time);
            return Ok(());
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|error| damaged(&error))?;
        self.names(|name| value["annotations"][name].as_str());
        self.names(|name| value["labels"][name].as_str());
        if let (None, Some(runtime)) = (&self.runtime, value["ociRuntime"].as_str()) {
            self.runtime = Some(runtime.to_owned());
        }
        if let (None, Some(image)) = (&self.image, value["rootfsImageName"].as_str()) {
            self.image = Some(image.to_owned());
        }
        Ok(())
    }

    fn names<'v>(&mut self, said: impl Fn(&str) -> Option<&'v str>) {
        let namespaces = NAMESPACE.iter().filter_map(|name| said(name));
        self.namespaces.extend(namespaces.map(str::to_owned));
        for (to, names) in [
            (&mut self.pod, POD.as_slice()),
            (&mut self.container, &CONTAINER),
            (&mut self.image, &IMAGE),
        ] {
            if to.is_none() {
                *to = first(&said, names).map(str::to_owned);
            }
        }
    }
}

fn is_description(name: &str) -> bool {
    name == FILE_NAME || DESCRIPTIONS.contains(&name)
}
