//! An OCI bundle, as far as Restow reads it. Never written back.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde_json::Value;

use crate::ids::ContainerPath;
use crate::policy::ANNOTATION_PREFIX;
use crate::target::SpecMount;

/// What a bundle's `config.json` says (OCI runtime specification, `config.md`).
#[derive(Debug, Default)]
pub struct Bundle {
    /// The spec's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The spec's mounts.
    pub mounts: Vec<SpecMount>,
    /// Paths that the spec hides from the container.
    pub masked: Vec<ContainerPath>,
    /// The spec's root file system is read-only.
    pub read_only_root: bool,
    /// The spec's host name.
    pub hostname: Option<String>,
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
        Ok(Some(Self::parse(&serde_json::from_slice(&bytes)?)))
    }

    fn parse(spec: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let annotations = spec["annotations"].as_object().into_iter().flatten();
        let mounts = spec["mounts"].as_array().into_iter().flatten();
        let masked = spec["linux"]["maskedPaths"].as_array();
        let masked = masked.into_iter().flatten();
        Self {
            annotations: annotations
                .filter_map(|(name, value)| Some((name.clone(), text(value)?)))
                .collect(),
            mounts: mounts
                .filter_map(|mount| {
                    let options = mount["options"].as_array().into_iter().flatten();
                    Some(SpecMount {
                        destination: ContainerPath::new(mount["destination"].as_str()?),
                        cgroup: mount["type"] == "cgroup",
                        options: options.filter_map(text).collect(),
                    })
                })
                .collect(),
            masked: masked
                .filter_map(Value::as_str)
                .map(ContainerPath::new)
                .collect(),
            read_only_root: spec["root"]["readonly"] == true,
            hostname: text(&spec["hostname"]).filter(|name| !name.is_empty()),
        }
    }
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
    fn what_is_read_of_a_bundle() {
        let spec = serde_json::json!({
            "hostname": "h",
            "root": {"path": "rootfs", "readonly": true},
            "annotations": {"restow.dev/enabled": "true"},
            "linux": {"maskedPaths": ["/sys/firmware", "/proc/keys"]},
            "mounts": [
                {"destination": "/proc", "type": "proc"},
                {"destination": "/data/", "type": "bind", "options": ["rbind", "ro"]},
                {"destination": "/x", "options": ["bind"]},
            ],
        });
        let bundle = Bundle::parse(&spec);
        assert_eq!(bundle.annotations["restow.dev/enabled"], "true");
        assert_eq!(bundle.hostname.as_deref(), Some("h"));
        assert!(bundle.read_only_root);
        assert_eq!(
            bundle.masked,
            ["/sys/firmware", "/proc/keys"].map(ContainerPath::new)
        );
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
