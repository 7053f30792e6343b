//! Names of checkpoints. A name is never a path.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name is a file's name with `.tar.zst` behind it and, while it is written, a prefix; file systems take 255 bytes.
const MAX_LENGTH: usize = 200;

/// Endings of archives, which are no part of the name.
pub(super) const ENDINGS: [&str; 5] = [".tar", ".tar.zst", ".tar.gz", ".tzst", ".tgz"];

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no name of a checkpoint: {why}")]
pub struct NameError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// What may stand as one part of a name.
fn part(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        Err("a part of it is empty")
    } else if text.len() > MAX_LENGTH {
        Err("it is longer than 200 bytes")
    } else if text.starts_with('.') {
        Err("it starts with a dot")
    } else if text.contains('/') {
        Err("it is a path; it can be a name, or a namespace and a name with a slash between")
    } else if text.chars().any(char::is_control) {
        Err("it has control characters")
    } else {
        Ok(())
    }
}

/// The namespace a checkpoint belongs to: one of Kubernetes, or that of containers without a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Namespace(String);

impl Namespace {
    /// Takes a name.
    ///
    /// # Errors
    /// When it cannot be the name of a directory.
    pub fn new(text: &str) -> Result<Self, NameError> {
        part(text).map_err(|why| NameError {
            text: text.to_owned(),
            why,
        })?;
        Ok(Self(text.to_owned()))
    }

    /// Where checkpoints of containers without a pod are. No namespace of Kubernetes has this name: those are DNS labels.
    #[must_use]
    pub fn node() -> Self {
        Self("_node".into())
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Namespace {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(&text)
    }
}

impl From<Namespace> for String {
    fn from(namespace: Namespace) -> Self {
        namespace.0
    }
}

/// The name of a checkpoint: `name`, or `namespace/name`. The ending of an archive (`.tar`, `.tar.zst`, ...) is no part of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CheckpointName {
    namespace: Option<Namespace>,
    name: String,
}

impl CheckpointName {
    /// A name in a namespace.
    ///
    /// # Errors
    /// When `name` is none.
    pub fn within(namespace: Namespace, name: &str) -> Result<Self, NameError> {
        let parsed: Self = name.parse()?;
        if parsed.namespace.is_some() {
            return Err(NameError {
                text: name.to_owned(),
                why: "it names a namespace already",
            });
        }
        Ok(Self {
            namespace: Some(namespace),
            ..parsed
        })
    }

    /// The namespace, when the name says one.
    #[must_use]
    pub fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    /// The name without the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for CheckpointName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let failed = |why| NameError {
            text: text.to_owned(),
            why,
        };
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        part(name).map_err(failed)?;
        let bare = without_ending(name).unwrap_or(name);
        part(bare).map_err(failed)?;
        let namespace = namespace.map(|namespace| {
            part(namespace).map_err(failed)?;
            Ok(Namespace(namespace.to_owned()))
        });
        Ok(Self {
            namespace: namespace.transpose()?,
            name: bare.to_owned(),
        })
    }
}

/// The name of an archive without what says that it is one; `None` when nothing says so.
pub(super) fn without_ending(file: &str) -> Option<&str> {
    ENDINGS
        .iter()
        .filter_map(|ending| file.strip_suffix(ending))
        .min_by_key(|name| name.len())
}

impl TryFrom<String> for CheckpointName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<CheckpointName> for String {
    fn from(name: CheckpointName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for CheckpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}
