//! What a container's spec asks to be restored from, and making it ready.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::about::{About, container_of, namespace_of};
use super::apply::Apply;
use super::error::{Error, failed, refused};
use super::images;
use super::incoming::Form;
use super::name::{CheckpointName, Namespace};
use super::prepared::Prepared;
use super::rights::Rights;
use super::settings::Settings;
use super::store::{Entry, Store};
use super::undo::Undo;
use super::unpack::{self, DELETED_FILES, ROOTFS_DIFF};
use super::work::{State, Work, id_of, of_bundle};
use crate::policy::{NodeConfig, OnFailure};
use crate::source::images::ImageDir;

/// A spec without these bytes asks for no restore, which is found out without parsing: what is behind the slash of the annotation
/// `restow.dev/restore-from`, as JSON may spell that in two ways.
pub const ASKING: &[u8] = b"restore-from";

/// What containerd and CRI-O call a container that only holds a pod's namespaces.
const KINDS: [&str; 2] = [
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri-o.ContainerType",
];
const SANDBOX: &str = "sandbox";

/// A container that is to be restored instead of started.
#[derive(Debug, Clone)]
pub struct Asked {
    name: CheckpointName,
    /// The annotation names this container, not only its pod.
    for_container: bool,
    on_failure: OnFailure,
    /// The pod's, `None` for a container without a pod.
    namespace: Option<Namespace>,
    container: Option<String>,
    rights: Rights,
    settings: Settings,
}

impl Asked {
    /// Reads `restow.dev/restore-from` out of an OCI spec. `None` when it asks for nothing, or is of a pod's sandbox: the pod's
    /// annotations mean its containers.
    ///
    /// # Errors
    /// When an annotation of ours is wrong or not allowed. Nothing may be started then.
    pub fn from_spec(spec: &Value, config: &NodeConfig) -> Result<Option<Self>, Error> {
        let annotations: BTreeMap<String, String> = spec["annotations"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect();
        let kind = KINDS.iter().find_map(|name| annotations.get(*name));
        if kind.is_some_and(|kind| kind == SANDBOX) {
            return Ok(None);
        }
        let Some(policy) = config.policy_for(&annotations)? else {
            return Ok(None);
        };
        let Some(from) = policy.restore_from else {
            return Ok(None);
        };
        Ok(Some(Self {
            name: from.name,
            for_container: from.for_container,
            on_failure: policy.on_failure,
            namespace: namespace_of(&annotations).map(Namespace::new).transpose()?,
            container: container_of(&annotations).map(str::to_owned),
            rights: Rights::of(spec),
            settings: config.checkpoints.clone(),
        }))
    }

    /// The checkpoint's name.
    #[must_use]
    pub fn name(&self) -> &CheckpointName {
        &self.name
    }

    /// What is to happen when it cannot be restored.
    #[must_use]
    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    /// Makes the checkpoint ready: finds it, brings it into a directory of our own, checks it there, and applies its changes
    /// to the container's root file system, which is mounted at `rootfs`. What an earlier try for this bundle left is undone
    /// first.
    ///
    /// # Errors
    /// When it is not there, not this pod's, damaged, or more than the node allows. Nothing is left behind then.
    pub fn prepare(&self, bundle: &Path, rootfs: &Path) -> Result<Prepared, Error> {
        if let Some((dir, _)) = of_bundle(&self.settings.unpack, bundle) {
            super::undo::undo(&dir, rootfs).map_err(failed("undo the changes of", rootfs))?;
            crate::host::own_dir::remove(&dir)?;
        }
        let entry = self.find()?;
        let work = Work::new(&self.settings.unpack)?;
        let state = State {
            checkpoint: self.name.to_string(),
            bundle: bundle.to_path_buf(),
            bundle_id: id_of(bundle).map_err(failed("find", bundle))?,
            rootfs: rootfs.to_path_buf(),
        };
        let prepared = self.fill(&entry, &work).and_then(|()| {
            work.belongs(&state)?;
            self.apply(&entry, &work, rootfs)
        });
        match prepared {
            Ok(()) => Ok(Prepared::new(work, state)),
            Err(error) => {
                // The first fault is what the user needs; what cannot be removed is collected by the next.
                let _ = super::undo::undo(work.path(), rootfs).map(|()| work.remove());
                Err(error)
            }
        }
    }

    /// The checkpoint in the store, if this pod may look at it.
    fn find(&self) -> Result<Entry, Error> {
        // A container without a pod was made by someone who is root on the node.
        if let (Some(own), Some(wanted)) = (&self.namespace, self.name.namespace())
            && own != wanted
            && !self.settings.cross_namespace
        {
            return Err(Error::OtherNamespace {
                name: self.name.clone(),
                of: wanted.to_string(),
                wanted: own.clone(),
            });
        }
        let namespace = self.namespace.clone().unwrap_or_else(Namespace::node);
        Store::with(self.settings.clone()).find(&self.name, &namespace)
    }

    /// Brings it into our own directory, and checks it there.
    fn fill(&self, entry: &Entry, work: &Work) -> Result<(), Error> {
        let fault = refused(&entry.path);
        if entry.form == Form::Directory {
            unpack::directory(&entry.directory()?, work, &self.settings).map_err(&fault)?;
        } else {
            unpack::archive(entry.file()?, work, &self.settings).map_err(&fault)?;
        }
        let mut about = About::default();
        for (dir, names) in [
            (work.meta(), unpack::DESCRIPTIONS.as_slice()),
            (work.images(), &[crate::source::manifest::FILE_NAME]),
        ] {
            for name in names {
                match File::open(dir.join(name)) {
                    Ok(file) => about.of_file(name, file).map_err(&fault)?,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(fault(error)),
                }
            }
        }
        self.judge(entry, &about)?;
        let dir = File::open(work.images()).map_err(failed("open", &work.images()))?;
        let unusable = |source| Error::Images {
            path: entry.path.clone(),
            source: Box::new(source),
        };
        let dir = ImageDir::open(dir.into()).map_err(unusable)?;
        images::check(&dir).map_err(unusable)
    }

    /// Whether it may be used for this container.
    fn judge(&self, entry: &Entry, about: &About) -> Result<(), Error> {
        if let (Some(own), false) = (&self.namespace, self.settings.cross_namespace) {
            let said = about.namespaces.iter().map(String::as_str);
            let mut said = said
                .chain(entry.namespace().map(Namespace::as_str))
                .peekable();
            if said.peek().is_none() {
                return Err(Error::NoNamespace {
                    name: self.name.clone(),
                    path: entry.path.clone(),
                });
            }
            if let Some(other) = said.find(|said| *said != own.as_str()) {
                return Err(Error::OtherNamespace {
                    name: self.name.clone(),
                    of: other.to_owned(),
                    wanted: own.clone(),
                });
            }
        }
        if let (Some(own), Some(of), false) =
            (&self.container, &about.container, self.for_container)
            && own != of
        {
            return Err(Error::OtherContainer {
                name: self.name.clone(),
                of: of.clone(),
                container: own.clone(),
            });
        }
        Ok(())
    }

    /// Applies the changes of the root file system.
    fn apply(&self, entry: &Entry, work: &Work, rootfs: &Path) -> Result<(), Error> {
        let open = |name: &str| -> Result<Option<File>, Error> {
            let path: PathBuf = work.meta().join(name);
            match File::open(&path) {
                Ok(file) => Ok(Some(file)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(failed("open", &path)(error)),
            }
        };
        let (diff, deleted) = (open(ROOTFS_DIFF)?, open(DELETED_FILES)?);
        if diff.is_none() && deleted.is_none() {
            return Ok(());
        }
        let wrong = |what: String| Error::Rootfs {
            path: entry.path.clone(),
            rootfs: rootfs.to_path_buf(),
            what,
        };
        if self.rights.mapped {
            return Err(wrong(
                "the container runs in a user namespace of its own, for which owners are not translated yet; checkpoint a \
                 container that has changed nothing in its root file system, or run the pod in the node's (hostUsers: true)"
                    .into(),
            ));
        }
        let changed = || -> std::io::Result<()> {
            let mut undo = Undo::new(work.path())?;
            let most = self.settings.max_entries;
            let mut apply = Apply::new(rootfs, &mut undo, &self.rights, most)?;
            if let Some(diff) = diff {
                apply.archive(diff)?;
            }
            if let Some(deleted) = deleted {
                apply.deleted(deleted)?;
            }
            apply.finish()
        };
        changed().map_err(|error| wrong(error.to_string()))
    }
}
