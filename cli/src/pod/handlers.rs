//! The runtime handlers of a node, as containerd's CRI plugin tells them: which of them restore.

use anyhow::{Context, anyhow};
use serde_json::Value;

use super::node::{Node, call};
use crate::Failure;

/// Restow's shim, by the file name in a handler's `runtime_path`.
const SHIM: &str = "containerd-shim-restow-v2";

/// A runtime handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// Its name, which a RuntimeClass has as `handler`.
    pub name: String,
    /// Whether its shim is Restow's.
    pub restow: bool,
    /// The OCI runtime's program, empty for the default.
    pub program: String,
}

/// The handlers of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handlers {
    all: Vec<Handler>,
    default: String,
}

impl Handlers {
    /// Asks a node.
    ///
    /// # Errors
    /// When it does not answer, or is no containerd.
    pub async fn ask(node: &Node) -> Result<Self, Failure> {
        let status = node.cri.status(true).await.map_err(call)?;
        let text = status.info.get("config").ok_or_else(|| {
            Failure::Refused(anyhow!(
                "{} does not tell its configuration; is it containerd?",
                node.socket().display()
            ))
        })?;
        let config: Value =
            serde_json::from_str(text).context("Read the configuration of containerd's CRI")?;
        Ok(Self::of(&config["containerd"]))
    }

    fn of(config: &Value) -> Self {
        let runtimes = config["runtimes"].as_object();
        let mut all: Vec<Handler> = runtimes
            .into_iter()
            .flatten()
            .map(|(name, runtime)| {
                let path = runtime["runtimePath"].as_str().unwrap_or_default();
                Handler {
                    name: name.clone(),
                    restow: path.rsplit('/').next() == Some(SHIM),
                    program: runtime["options"]["BinaryName"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned(),
                }
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            all,
            default: config["defaultRuntimeName"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        }
    }

    /// One by its name; an empty name is the default.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Handler> {
        let name = if name.is_empty() { &self.default } else { name };
        self.all.iter().find(|handler| handler.name == name)
    }

    /// Where a container that `old` ran is restored: there, if its shim is Restow's, else by the one of Restow's with the same OCI
    /// runtime. Images are not the runtime's, so another one's will do when there is no such.
    #[must_use]
    pub fn restoring(&self, old: &str) -> Option<&Handler> {
        let old = self.get(old);
        if let Some(old) = old.filter(|old| old.restow) {
            return Some(old);
        }
        let restow = || self.all.iter().filter(|handler| handler.restow);
        let same = old.and_then(|old| restow().find(|it| it.program == old.program));
        same.or_else(|| restow().next())
    }

    /// All names, for errors.
    #[must_use]
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.all.iter().map(|it| it.name.as_str()).collect();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn handlers() -> Handlers {
        Handlers::of(&json!({
            "defaultRuntimeName": "runc",
            "runtimes": {
                "runc": {"runtimePath": "", "options": {"BinaryName": "runc"}},
                "crun": {"options": {"BinaryName": "crun"}},
                "restow-runc": {"runtimePath": "/opt/restow/bin/containerd-shim-restow-v2", "options": {"BinaryName": "runc"}},
                "restow-crun": {"runtimePath": "/opt/restow/bin/containerd-shim-restow-v2", "options": {"BinaryName": "crun"}},
            },
        }))
    }

    #[test]
    fn the_restoring_twin_has_the_same_runtime() {
        let handlers = handlers();
        let name = |old| handlers.restoring(old).map(|it| it.name.as_str());
        assert_eq!(name(""), Some("restow-runc"));
        assert_eq!(name("crun"), Some("restow-crun"));
        assert_eq!(name("restow-runc"), Some("restow-runc"));
        assert_eq!(name("gone"), Some("restow-crun"));
    }

    #[test]
    fn without_restows_shim_none_restores() {
        let mut handlers = handlers();
        handlers.all.retain(|it| !it.restow);
        assert_eq!(handlers.restoring("runc"), None);
    }
}
