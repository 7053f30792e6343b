//! An OCI bundle, as far as Restow reads it. Never written back.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::resolve_in;
use crate::ids::{ContainerPath, HostPath};
use crate::policy::ANNOTATION_PREFIX;
use crate::privileges::Allowed;
use crate::target::{SpecMount, TargetMount};

/// What a bundle's `config.json` says (OCI runtime specification, `config.md`).
#[derive(Debug, Default)]
pub struct Bundle {
    /// The spec's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The spec's mounts.
    pub mounts: Vec<SpecMount>,
    /// The spec's OOM score adjustment.
    pub oom_score: Option<i32>,
    /// What the spec allows the container's processes; `None` without a spec.
    pub allowed: Option<Allowed>,
    /// Paths that the spec hides from the container.
    pub masked: Vec<ContainerPath>,
    /// Paths that the spec makes read-only.
    pub read_only_paths: Vec<ContainerPath>,
    /// The spec's root file system is read-only.
    pub read_only_root: bool,
    /// The spec's host name.
    pub hostname: Option<String>,
    /// Where its root file system is.
    pub root: Option<PathBuf>,
    /// The spec's bind mounts with their sources, in the order of the spec.
    pub binds: Vec<TargetMount>,
    /// The spec's `cgroupsPath`.
    pub cgroups_path: Option<String>,
    /// The spec's namespaces by type (`uts`, `network`, ...), with the file that is joined where there is one.
    pub namespaces: BTreeMap<String, Option<PathBuf>>,
    /// Devices that are made besides those that every container has.
    pub devices: Vec<ContainerPath>,
}

impl Bundle {
    /// Reads `config.json`. When `only_annotated` and no annotation of ours is in the file at all, `None`, without the
    /// cost of parsing: that is the case for nearly every container of a node.
    ///
    /// # Errors
    /// When there is no such file or it is no JSON.
    pub fn read(dir: &Path, only_annotated: bool) -> io::Result<Option<Self>> {
        let bytes = std::fs::read(dir.join("config.json"))?;
        if only_annotated && !contains(&bytes, ANNOTATION_PREFIX.as_bytes()) {
            return Ok(None);
        }
        Ok(Some(Self::parse(dir, &serde_json::from_slice(&bytes)?)))
    }

    /// The bundle with its mounts where they really are: runtimes follow links in a destination, inside the container's root
    /// file system. Where that is not there (yet), the destinations stay as they are.
    #[must_use]
    pub fn resolved(mut self) -> Self {
        let Some(root) = &self.root else { return self };
        for mount in &mut self.mounts {
            mount.destination = resolve_in(root, &mount.destination);
        }
        for bind in &mut self.binds {
            bind.key = resolve_in(root, &ContainerPath::new(&bind.key)).to_string();
        }
        self
    }

    fn parse(dir: &Path, spec: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let annotations = spec["annotations"].as_object().into_iter().flatten();
        let mounts = spec["mounts"].as_array().into_iter().flatten();
        let linux = &spec["linux"];
        let namespaces = linux["namespaces"].as_array().into_iter().flatten();
        let devices = linux["devices"].as_array().into_iter().flatten();
        let paths = |name: &str| -> Vec<ContainerPath> {
            let paths = linux[name].as_array().into_iter().flatten();
            paths
                .filter_map(Value::as_str)
                .map(ContainerPath::new)
                .collect()
        };
        Self {
            annotations: annotations
                .filter_map(|(name, value)| Some((name.clone(), text(value)?)))
                .collect(),
            root: spec["root"]["path"].as_str().map(|path| dir.join(path)),
            binds: mounts
                .clone()
                .filter_map(|mount| bind(dir, mount))
                .collect(),
            cgroups_path: text(&linux["cgroupsPath"]).filter(|path| !path.is_empty()),
            namespaces: namespaces
                .filter_map(|namespace| {
                    let path = namespace["path"].as_str().filter(|path| !path.is_empty());
                    Some((text(&namespace["type"])?, path.map(PathBuf::from)))
                })
                .collect(),
            devices: devices
                .filter_map(|device| device["path"].as_str().map(ContainerPath::new))
                .collect(),
            mounts: mounts
                .filter_map(|mount| {
                    let options = mount["options"].as_array().into_iter().flatten();
                    Some(SpecMount {
                        destination: ContainerPath::new(mount["destination"].as_str()?),
                        cgroup: mount["type"] == "cgroup",
                        kind: text(&mount["type"]).unwrap_or_default(),
                        options: options.filter_map(text).collect(),
                    })
                })
                .collect(),
            oom_score: spec["process"]["oomScoreAdj"]
                .as_i64()
                .and_then(|score| score.try_into().ok()),
            allowed: Some(Allowed::by_spec(spec)),
            masked: paths("maskedPaths"),
            read_only_paths: paths("readonlyPaths"),
            read_only_root: spec["root"]["readonly"] == true,
            hostname: text(&spec["hostname"]).filter(|name| !name.is_empty()),
        }
    }
}

/// A mount of the spec as CRIU is told of it, if it is a bind mount.
fn bind(dir: &Path, mount: &Value) -> Option<TargetMount> {
    let mut options = mount["options"].as_array().into_iter().flatten();
    options
        .any(|option| option == "bind" || option == "rbind")
        .then_some(())?;
    Some(TargetMount {
        key: ContainerPath::new(mount["destination"].as_str()?).to_string(),
        // A relative source is one below the bundle.
        source: HostPath::new(dir.join(mount["source"].as_str()?)),
    })
}

/// JSON may write the slash as `\/`, but no runtime's writer does, and then the annotation is merely not seen.
fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_our_annotations_is_not_even_parsed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "no json at all").unwrap();
        assert!(Bundle::read(dir.path(), true).unwrap().is_none());
        assert!(Bundle::read(dir.path(), false).is_err());
    }

    #[test]
    fn a_destination_is_where_its_links_lead_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("rootfs");
        std::fs::create_dir_all(root.join("run")).unwrap();
        std::fs::create_dir_all(root.join("var")).unwrap();
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::os::unix::fs::symlink("/run", root.join("var/run")).unwrap();
        std::os::unix::fs::symlink("../../../../etc", root.join("up")).unwrap();
        let mount =
            |at: &str| serde_json::json!({"destination": at, "source": "/s", "options": ["bind"]});
        let mounts: Vec<_> = ["/var/run/secrets/token", "/up/x", "/plain"]
            .map(mount)
            .into();
        let spec = serde_json::json!({"root": {"path": "rootfs"}, "mounts": mounts});
        let bundle = Bundle::parse(dir.path(), &spec).resolved();
        let keys: Vec<_> = bundle.binds.iter().map(|bind| bind.key.as_str()).collect();
        assert_eq!(keys, ["/run/secrets/token", "/etc/x", "/plain"]);
        let places = bundle
            .mounts
            .iter()
            .map(|mount| mount.destination.to_string());
        assert_eq!(places.collect::<Vec<_>>(), keys);
    }

    #[test]
    fn what_is_read_of_a_bundle() {
        let spec = serde_json::json!({
            "hostname": "h",
            "root": {"path": "rootfs", "readonly": true},
            "annotations": {"restow.dev/enabled": "true"},
            "mounts": [
                {"destination": "/proc", "type": "proc"},
                {"destination": "/data/", "type": "bind", "source": "data", "options": ["rbind", "ro"]},
                {"destination": "/x", "options": ["bind"]},
            ],
            "linux": {
                "cgroupsPath": "a:b:c",
                "namespaces": [{"type": "uts", "path": "/proc/1/ns/uts"}, {"type": "pid"}],
                "maskedPaths": ["/sys/firmware", "/proc/keys"],
                "readonlyPaths": ["/proc/sys"],
                "devices": [{"path": "/dev/fuse"}],
            },
        });
        let bundle = Bundle::parse(Path::new("/b"), &spec);
        assert_eq!(bundle.annotations["restow.dev/enabled"], "true");
        assert_eq!(bundle.hostname.as_deref(), Some("h"));
        assert!(bundle.read_only_root);
        assert_eq!(bundle.read_only_paths, [ContainerPath::new("/proc/sys")]);
        assert_eq!(
            bundle.masked,
            ["/sys/firmware", "/proc/keys"].map(ContainerPath::new)
        );
        assert_eq!(bundle.root.as_deref(), Some(Path::new("/b/rootfs")));
        let bind = TargetMount {
            key: "/data".into(),
            source: HostPath::new("/b/data"),
        };
        assert_eq!(bundle.binds, [bind]);
        assert_eq!(bundle.cgroups_path.as_deref(), Some("a:b:c"));
        let uts = bundle.namespaces["uts"].as_deref();
        assert_eq!(uts, Some(Path::new("/proc/1/ns/uts")));
        assert_eq!(bundle.namespaces["pid"], None);
        assert_eq!(bundle.devices, [ContainerPath::new("/dev/fuse")]);
        let mounts = bundle
            .mounts
            .iter()
            .map(|mount| (mount.destination.to_string(), mount.options.join(",")));
        let mounts: Vec<_> = mounts.collect();
        let expected = [("/proc", ""), ("/data", "rbind,ro"), ("/x", "bind")];
        assert_eq!(
            mounts,
            expected.map(|(at, options)| (at.to_owned(), options.to_owned()))
        );
    }
}
