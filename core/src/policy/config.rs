//! The node's configuration file, and a container's annotations on top of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ANNOTATION_PREFIX, Choice, Policy};

/// Annotation in which containerd's CRI plugin names the container.
const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";

/// Which containers Restow works on without being asked by an annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enable {
    /// Only those that carry an annotation below `restow.dev/`.
    #[default]
    Annotated,
    /// Every container of the node, unless it says `restow.dev/enabled: "false"`.
    All,
}

/// The node's configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct NodeConfig {
    /// Which containers are worked on.
    pub enable: Enable,
    /// Annotations (without prefix) a pod may set; absent: all.
    pub allowed_annotations: Option<Vec<String>>,
    /// The real criu. Absent: the first `criu` in PATH that is not this program.
    pub criu: Option<PathBuf>,
    /// Settings for containers that say nothing else.
    pub defaults: Policy,
}

/// Why a configuration or an annotation cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is there but cannot be read.
    #[error("Cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no valid configuration.
    #[error("{path} is not a valid Restow configuration")]
    Parse {
        /// The file.
        path: PathBuf,
        /// It says `enable = "all"`, whatever else is wrong with it.
        for_all: bool,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A setting has a value it cannot have.
    #[error("{name} is {value:?}; it can be {expected}")]
    Value {
        /// What the user calls it.
        name: String,
        /// Its value.
        value: String,
        /// The words it can be.
        expected: String,
    },
    /// A setting that does not exist.
    #[error("{name} does not exist; known are {known}")]
    Unknown {
        /// What the user calls it.
        name: String,
        /// The known ones.
        known: String,
    },
    /// An annotation this node does not let pods set.
    #[error(
        "Annotation {name} may not be set by pods on this node (allowed-annotations in the node's configuration)"
    )]
    NotAllowed {
        /// The annotation as the pod spells it.
        name: String,
    },
}

impl Error {
    /// Whether it is of a configuration that turns Restow on for every container.
    pub fn for_all(&self) -> bool {
        matches!(self, Self::Parse { for_all: true, .. })
    }
}

impl NodeConfig {
    /// Reads the configuration from `path`; a file that does not exist is an empty one.
    ///
    /// # Errors
    /// When the file cannot be read or says something unknown: a misspelt setting is not ignored.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(source) => {
                return Err(Error::Read {
                    path: path.into(),
                    source,
                });
            }
        };
        toml::from_str(&text).map_err(|source| {
            let table: Option<toml::Table> = text.parse().ok();
            let for_all = table.is_some_and(|table| {
                table.get("enable").and_then(toml::Value::as_str) == Some("all")
            });
            Error::Parse {
                path: path.into(),
                for_all,
                source: Box::new(source),
            }
        })
    }

    /// The policy for a container with these annotations, or `None` when it has not opted in.
    ///
    /// `restow.dev/x.<container>` (the container's name as the kubelet knows it) wins over `restow.dev/x`; settings for
    /// other containers of the pod do not count.
    ///
    /// # Errors
    /// When an annotation is unknown, has an impossible value, or is not allowed on this node.
    pub fn policy_for(
        &self,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Option<Policy>, Error> {
        let container = annotations.get(CONTAINER_NAME).map(String::as_str);
        let mut enabled = None;
        let mut asked = false;
        let mut policy = self.defaults.clone();
        // Settings for the pod first, so that those for the container win.
        for for_container in [false, true] {
            for (name, value) in annotations {
                let Some(setting) = name.strip_prefix(ANNOTATION_PREFIX) else {
                    continue;
                };
                let (key, suffix) = setting
                    .split_once('.')
                    .map_or((setting, None), |(key, suffix)| (key, Some(suffix)));
                if suffix.is_some() != for_container || (for_container && suffix != container) {
                    continue;
                }
                if let Some(allowed) = &self.allowed_annotations
                    && !allowed.iter().any(|word| word == key)
                {
                    return Err(Error::NotAllowed { name: name.clone() });
                }
                let called = format!("Annotation {name}");
                match key {
                    "enabled" => {
                        enabled = Some(word(&called, value, &[("true", true), ("false", false)])?);
                    }
                    _ => policy.set(key, &called, value)?,
                }
                asked = true;
            }
        }
        let on = enabled.unwrap_or(asked || self.enable == Enable::All);
        Ok(on.then_some(policy))
    }
}

impl Policy {
    /// Changes the setting `key`; `name` is what the user calls it.
    ///
    /// # Errors
    /// When there is no such setting, or it cannot have this value.
    pub fn set(&mut self, key: &str, name: &str, value: &str) -> Result<(), Error> {
        match key {
            "cgroup-files" => self.cgroup_files = choose(name, value)?,
            "manage-cgroups" => self.manage_cgroups = choose(name, value)?,
            "hostname" => self.hostname = choose(name, value)?,
            "tcp" => self.tcp = choose(name, value)?,
            "volumes" => self.volumes = choose(name, value)?,
            _ => {
                return Err(Error::Unknown {
                    name: name.into(),
                    known: "enabled, cgroup-files, manage-cgroups, hostname, tcp, volumes".into(),
                });
            }
        }
        Ok(())
    }
}

fn choose<T: Choice>(name: &str, value: &str) -> Result<T, Error> {
    word(name, value, T::words())
}

fn word<T: Copy>(name: &str, value: &str, words: &[(&str, T)]) -> Result<T, Error> {
    words
        .iter()
        .find(|(text, _)| *text == value)
        .map(|(_, choice)| *choice)
        .ok_or_else(|| Error::Value {
            name: name.into(),
            value: value.into(),
            expected: words
                .iter()
                .map(|(text, _)| *text)
                .collect::<Vec<_>>()
                .join(" or "),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{CgroupFiles, Hostname};

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn without_an_annotation_nothing_is_done() {
        let other = annotations(&[("io.kubernetes.cri.container-name", "web")]);
        assert_eq!(NodeConfig::default().policy_for(&other).unwrap(), None);
        let all = NodeConfig {
            enable: Enable::All,
            ..NodeConfig::default()
        };
        assert_eq!(all.policy_for(&other).unwrap(), Some(Policy::default()));
        assert_eq!(
            all.policy_for(&annotations(&[("restow.dev/enabled", "false")]))
                .unwrap(),
            None
        );
    }

    #[test]
    fn the_containers_own_setting_wins() {
        let both = annotations(&[
            ("io.kubernetes.cri.container-name", "web"),
            ("restow.dev/cgroup-files", "remap"),
            ("restow.dev/cgroup-files.web", "ignore"),
            ("restow.dev/hostname.other", "source"),
        ]);
        let policy = NodeConfig::default().policy_for(&both).unwrap().unwrap();
        assert_eq!(policy.cgroup_files, CgroupFiles::Ignore);
        assert_eq!(policy.hostname, Hostname::Target);
    }

    #[test]
    fn a_setting_for_another_container_is_no_opt_in() {
        let other = annotations(&[
            ("io.kubernetes.cri.container-name", "web"),
            ("restow.dev/enabled.db", "true"),
        ]);
        assert_eq!(NodeConfig::default().policy_for(&other).unwrap(), None);
    }

    #[test]
    fn wrong_words_are_named() {
        let wrong = annotations(&[("restow.dev/cgroup-files", "maybe")]);
        let error = NodeConfig::default().policy_for(&wrong).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Annotation restow.dev/cgroup-files is \"maybe\"; it can be remap or ignore"
        );
        let unknown = annotations(&[("restow.dev/cgroupfiles", "remap")]);
        assert!(
            NodeConfig::default()
                .policy_for(&unknown)
                .unwrap_err()
                .to_string()
                .contains("does not exist")
        );
    }

    #[test]
    fn a_broken_configuration_that_says_all_is_known_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        for (text, for_all) in [
            ("enable = 'all'\nmisspelt = 1", true),
            ("misspelt = 1", false),
            ("enable = 'all", false),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(
                NodeConfig::read(&path).unwrap_err().for_all(),
                for_all,
                "{text}"
            );
        }
    }

    #[test]
    fn the_node_can_forbid_a_setting() {
        let config: NodeConfig =
            toml::from_str("allowed-annotations = ['enabled']\n[defaults]\nhostname = 'source'")
                .unwrap();
        assert_eq!(config.defaults.hostname, Hostname::Source);
        let error = config
            .policy_for(&annotations(&[("restow.dev/hostname", "target")]))
            .unwrap_err();
        assert!(matches!(error, Error::NotAllowed { .. }));
    }
}
