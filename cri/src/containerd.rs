//! containerd's own API: what CRI does not show, and containers that CRI does not know.

use std::path::Path;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::services::v1::{
    Container, CreateRequest, DeleteRequest, GetContainerRequest, ListContainersRequest,
    ListNamespacesRequest, VersionResponse,
};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::error::Named;
use crate::socket::{self, MAX_MESSAGE};
use crate::{ContainerId, Error, Result};

/// The namespace in which containerd's CRI plugin keeps its containers.
pub const K8S_NAMESPACE: &str = "k8s.io";

/// A client of containerd's API in one namespace. A clone shares the connection.
#[derive(Debug, Clone)]
pub struct Containerd {
    channel: Channel,
    headers: Headers,
}

/// What protects content and snapshots from containerd's garbage collection until [`Containerd::drop_lease`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease(String);

/// Adds namespace and lease to every request.
#[derive(Debug, Clone)]
pub(crate) struct Headers {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            metadata.insert("containerd-lease", lease.clone());
        }
        Ok(request)
    }
}

/// A channel whose requests name the namespace.
pub(crate) type Service = InterceptedService<Channel, Headers>;

/// A client of one of containerd's services.
macro_rules! client {
    ($this:expr, $client:ident) => {
        $client::new($this.service()).max_decoding_message_size($crate::socket::MAX_MESSAGE)
    };
}
pub(crate) use client;

impl Containerd {
    /// Connects to containerd's socket, for calls in `namespace`.
    ///
    /// # Errors
    /// When nothing listens there, or `namespace` is no name.
    pub async fn connect(socket: impl AsRef<Path>, namespace: &str) -> Result<Self> {
        Self::over(socket::connect(socket.as_ref()).await?, namespace)
    }

    /// A client over a connection that is there already.
    ///
    /// # Errors
    /// When `namespace` is no name.
    pub fn over(channel: Channel, namespace: &str) -> Result<Self> {
        Ok(Self {
            channel,
            headers: Headers {
                namespace: header(namespace)?,
                lease: None,
            },
        })
    }

    /// The connection, for calls that have no method here.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn service(&self) -> Service {
        InterceptedService::new(self.channel.clone(), self.headers.clone())
    }

    /// containerd's version.
    ///
    /// # Errors
    /// As every call: when containerd does not answer or refuses.
    pub async fn version(&self) -> Result<VersionResponse> {
        let mut client = VersionClient::new(self.service()).max_decoding_message_size(MAX_MESSAGE);
        client.version(()).await.named("Version", "containerd")
    }

    /// The names of containerd's namespaces.
    ///
    /// # Errors
    /// As every call.
    pub async fn namespaces(&self) -> Result<Vec<String>> {
        let request = ListNamespacesRequest::default();
        let answer = client!(self, NamespacesClient).list(request).await;
        let all = answer.named("List namespaces", "containerd")?.namespaces;
        Ok(all.into_iter().map(|namespace| namespace.name).collect())
    }

    /// A container's record.
    ///
    /// # Errors
    /// As every call; [`Error::is_not_found`] when there is none.
    pub async fn container(&self, id: &ContainerId) -> Result<Container> {
        let request = GetContainerRequest { id: id.0.clone() };
        let answer = client!(self, ContainersClient).get(request).await;
        let answer = answer.named("Get container", id.as_str())?;
        answer.container.ok_or_else(|| Error::Missing {
            call: "Get container",
            object: id.0.clone(),
            what: "container",
        })
    }

    /// The containers that meet one of the filters (`id~=^22fab`), all without filters.
    ///
    /// # Errors
    /// As every call.
    pub async fn containers(&self, filters: Vec<String>) -> Result<Vec<Container>> {
        let request = ListContainersRequest { filters };
        let answer = client!(self, ContainersClient).list(request).await;
        Ok(answer.named("List containers", "containerd")?.containers)
    }

    /// Makes a lease; what the client that comes with it makes belongs to it, and stays until [`Self::drop_lease`], or until
    /// `hours` have gone when nobody lives to call that.
    ///
    /// # Errors
    /// As every call.
    pub async fn lease(&self, hours: u32) -> Result<(Self, Lease)> {
        let labels = [("containerd.io/gc.expire".to_owned(), expiry(hours))];
        let request = CreateRequest {
            id: format!("restow-{}-{}", std::process::id(), unique()),
            labels: labels.into(),
        };
        let answer = client!(self, LeasesClient).create(request).await;
        let id = answer
            .named("Create lease", "containerd")?
            .lease
            .map(|lease| lease.id)
            .unwrap_or_default();
        let mut with = self.clone();
        with.headers.lease = Some(header(&id)?);
        Ok((with, Lease(id)))
    }

    /// Gives a lease back; what only it held is collected.
    ///
    /// # Errors
    /// As every call.
    pub async fn drop_lease(&self, lease: Lease) -> Result<()> {
        let request = DeleteRequest {
            id: lease.0.clone(),
            sync: false,
        };
        let answer = client!(self, LeasesClient).delete(request).await;
        answer.named("Delete lease", &lease.0).map(drop)
    }
}

fn header(text: &str) -> Result<MetadataValue<Ascii>> {
    let invalid = || Error::Call {
        call: "Name",
        object: format!("{text:?}"),
        status: Box::new(Status::invalid_argument("it is no name for containerd")),
    };
    if text.is_empty() {
        return Err(invalid());
    }
    text.parse().map_err(|_| invalid())
}

/// A number that no other of this process has, nor one that had its process id before.
pub(crate) fn unique() -> u128 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos())
}

/// The moment `hours` from now as RFC 3339 has it.
fn expiry(hours: u32) -> String {
    let now = std::time::SystemTime::now();
    let then = now + std::time::Duration::from_secs(u64::from(hours) * 3600);
    prost_types::Timestamp::from(then).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_at_a_time_that_containerd_can_parse() {
        let text = expiry(1);
        assert!(text.contains('T') && text.ends_with('Z'), "{text}");
    }

    #[test]
    fn a_namespace_is_a_name() {
        assert!(header("k8s.io").is_ok());
        assert!(header("").is_err());
        assert!(header("a\nb").is_err());
    }
}
