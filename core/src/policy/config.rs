//! The node's configuration file, and a container's annotations on top of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::maps::{self, Map, Maps, Origin};
use super::{ANNOTATION_PREFIX, Choice, Policy, RestoreFrom};
use crate::checkpoint::{NameError, Settings};
use crate::ids::HostPath;

/// Annotation in which containerd's CRI plugin names the container.
pub const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";

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
    /// Annotations (without prefix) a pod may set; absent: all, but `map` only when [`Self::allowed_maps`] has something.
    pub allowed_annotations: Option<Vec<String>>,
    /// The real criu. Absent: the first `criu` in PATH that is not this program.
    pub criu: Option<PathBuf>,
    /// The real OCI runtime behind `restow-runtime`, by path or by its name in PATH. Absent: the first of `crun` and `runc` in PATH.
    pub runtime: Option<PathBuf>,
    /// The directory with Restow's `criu`. Absent: the one that the asking program is in.
    pub lib_dir: Option<PathBuf>,
    /// The shim that containerd's own is, for Restow's to stand before. Absent: the first `containerd-shim-runc-v2` beside Restow's, in
    /// PATH, or where packages put shims.
    pub stock_shim: Option<PathBuf>,
    /// Settings for containers that say nothing else.
    pub defaults: Policy,
    /// Explicit maps for every container.
    pub maps: Vec<String>,
    /// The same, which are not an error in containers where they match nothing.
    pub optional_maps: Vec<String>,
    /// Kinds of maps (`path`, `mount`, `file`, `cgroup`) a pod may set.
    pub allowed_maps: Vec<String>,
    /// Directories of the node below which a pod's maps may name places.
    pub map_roots: Vec<PathBuf>,
    /// Where checkpoints are, and which may be used.
    pub checkpoints: Settings,
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
    /// What is to be restored is no name.
    #[error("{name} names no checkpoint")]
    Checkpoint {
        /// What the user calls it.
        name: String,
        /// Why.
        source: NameError,
    },
    /// A map that cannot be used.
    #[error(transparent)]
    Map(#[from] maps::Error),
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
        policy.maps = self.maps()?;
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
                if !self.allows(key) {
                    return Err(Error::NotAllowed { name: name.clone() });
                }
                let called = format!("Annotation {name}");
                match key {
                    "enabled" => {
                        enabled = Some(word(&called, value, &[("true", true), ("false", false)])?);
                    }
                    "map" => {
                        let origin = match for_container {
                            true => Origin::Container,
                            false => Origin::Pod,
                        };
                        let judge = |map: &Map| self.judge(map);
                        policy.maps.add_said(value, origin, &called, false, judge)?;
                    }
                    "restore-from" => {
                        let name = value.parse();
                        policy.restore_from = Some(RestoreFrom {
                            name: name.map_err(|source| Error::Checkpoint {
                                name: called,
                                source,
                            })?,
                            for_container,
                        });
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

impl NodeConfig {
    /// Whether a pod may set an annotation. A map may lead anywhere, so that the node has to allow it in so many words.
    fn allows(&self, key: &str) -> bool {
        match &self.allowed_annotations {
            Some(allowed) => allowed.iter().any(|word| word == key),
            None => key != "map" || !self.allowed_maps.is_empty(),
        }
    }

    /// The maps of this file.
    ///
    /// # Errors
    /// With the first that is none.
    pub fn maps(&self) -> Result<Maps, Error> {
        let mut maps = Maps::default();
        for (texts, name, optional) in [
            (&self.maps, "maps", false),
            (&self.optional_maps, "optional-maps", true),
        ] {
            let place = format!("{name} in the node's configuration");
            for text in texts {
                maps.add_said(text, Origin::Node, &place, optional, |_| Ok(None))?;
            }
        }
        Ok(maps)
    }

    /// Below which directory of the node a pod's map has to stay, or why the pod may not set it.
    fn judge(&self, map: &Map) -> Result<Option<HostPath>, String> {
        if !self.allowed_maps.iter().any(|kind| kind == map.kind()) {
            return Err(format!(
                "may not be set by pods on this node (allowed-maps in the node's configuration has no {:?})",
                map.kind()
            ));
        }
        let Some(path) = map.on_node() else {
            return Ok(None);
        };
        let roots = self.map_roots.iter().map(HostPath::new);
        let mut roots = roots.filter(|root| path.strip(root).is_some());
        roots.next().map(Some).ok_or_else(|| {
            format!(
                "names {path}, which is below none of the map-roots in the node's configuration"
            )
        })
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
            "on-failure" => self.on_failure = choose(name, value)?,
            _ => {
                return Err(Error::Unknown {
                    name: name.into(),
                    known: "enabled, cgroup-files, manage-cgroups, hostname, tcp, volumes, map, restore-from, on-failure"
                        .into(),
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
    fn a_pod_maps_only_what_the_node_lets_it() {
        let asked = |config: &str, map: &str| {
            let config: NodeConfig = toml::from_str(config).unwrap();
            let policy = config.policy_for(&annotations(&[("restow.dev/map", map)]));
            policy
                .map(|policy| policy.unwrap().maps)
                .map_err(|error| error.to_string())
        };
        let path = "path:/a=/b";
        assert!(
            asked("", path)
                .unwrap_err()
                .contains("may not be set by pods")
        );
        let allowed = "allowed-annotations = ['map']\n";
        assert!(asked(allowed, path).unwrap_err().contains("allowed-maps"));
        let allowed =
            format!("{allowed}allowed-maps = ['path', 'mount']\nmap-roots = ['/srv/shared']\n");
        let maps = asked(&allowed, path).unwrap();
        assert_eq!(
            maps.iter()
                .map(|said| said.root.clone())
                .collect::<Vec<_>>(),
            [None]
        );
        let elsewhere = asked(&allowed, "mount:/m=/srv/shared2/x").unwrap_err();
        assert!(
            elsewhere.contains("below none of the map-roots"),
            "{elsewhere}"
        );
        let below = asked(&allowed, "mount:/m=/srv/shared/x").unwrap();
        let roots: Vec<_> = below.iter().map(|said| said.root.clone()).collect();
        assert_eq!(roots, [Some(HostPath::new("/srv/shared"))]);
        assert!(
            asked(&allowed, "cgroup:/a=/b")
                .unwrap_err()
                .contains("has no \"cgroup\"")
        );
        let node = format!(
            "{allowed}maps = ['path:/a=/node', 'path:/c=/d']\noptional-maps = ['path:/e=/f']"
        );
        let both = asked(&node, path).unwrap();
        let texts: Vec<_> = both
            .iter()
            .map(|said| (said.map.to_string(), said.optional))
            .collect();
        let expected = [
            ("path:/c=/d", false),
            ("path:/e=/f", true),
            ("path:/a=/b", false),
        ];
        assert_eq!(
            texts,
            expected.map(|(text, optional)| (text.to_owned(), optional))
        );
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
