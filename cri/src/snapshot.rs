//! A container's file system: what it has written over its image.

use containerd_client::services::v1::DiffRequest;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    Kind, MountsRequest, RemoveSnapshotRequest, StatSnapshotRequest, ViewSnapshotRequest,
};
use containerd_client::types::{Descriptor, Mount};

use crate::containerd::{client, unique};
use crate::error::Named;
use crate::{Containerd, Error, Result};

/// An uncompressed layer: it is unpacked on this node or the next, over no slow line.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

impl Containerd {
    /// What the snapshot `key` has over its parent, as a layer in containerd's content store: files, and whiteouts for what is
    /// gone. Call it on a client with a lease ([`Self::lease`]), or the layer may be collected before it is read.
    ///
    /// # Errors
    /// As every call.
    pub async fn diff(&self, snapshotter: &str, key: &str) -> Result<Descriptor> {
        let mut snapshots = client!(self, SnapshotsClient);
        let request = StatSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let stat = snapshots.stat(request).await.named("Stat snapshot", key)?;
        let info = stat.info.ok_or_else(|| missing(key, "information"))?;
        let view = format!("restow-{}-{}", std::process::id(), unique());
        let lower = if info.parent.is_empty() {
            Vec::new()
        } else {
            self.view(snapshotter, &view, &info.parent).await?
        };
        let made = self
            .compare(snapshotter, key, info.kind(), &view, lower)
            .await;
        if !info.parent.is_empty() {
            self.drop_view(snapshotter, &view).await?;
        }
        made
    }

    async fn compare(
        &self,
        snapshotter: &str,
        key: &str,
        kind: Kind,
        view: &str,
        lower: Vec<Mount>,
    ) -> Result<Descriptor> {
        if kind == Kind::Committed {
            return Err(missing(key, "writable layer"));
        }
        let request = MountsRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let upper = client!(self, SnapshotsClient).mounts(request).await;
        let request = DiffRequest {
            left: lower,
            right: upper.named("Mounts of snapshot", key)?.mounts,
            media_type: LAYER.to_owned(),
            r#ref: view.to_owned(),
            ..DiffRequest::default()
        };
        let answer = client!(self, DiffClient).diff(request).await;
        let answer = answer.named("Diff", key)?;
        answer.diff.ok_or_else(|| missing(key, "layer"))
    }

    async fn view(&self, snapshotter: &str, key: &str, parent: &str) -> Result<Vec<Mount>> {
        let request = ViewSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            ..ViewSnapshotRequest::default()
        };
        let answer = client!(self, SnapshotsClient).view(request).await;
        Ok(answer.named("View snapshot", parent)?.mounts)
    }

    async fn drop_view(&self, snapshotter: &str, key: &str) -> Result<()> {
        let request = RemoveSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let answer = client!(self, SnapshotsClient).remove(request).await;
        answer.named("Remove snapshot", key)
    }
}

fn missing(key: &str, what: &'static str) -> Error {
    Error::Missing {
        call: "Diff",
        object: format!("snapshot {key}"),
        what,
    }
}
