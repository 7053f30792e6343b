//! containerd's content store.

use std::io::Write;

use containerd_client::services::v1::ReadContentRequest;
use containerd_client::services::v1::content_client::ContentClient;

use crate::containerd::client;
use crate::error::Named;
use crate::{Containerd, Error, Result};

impl Containerd {
    /// Copies the content `digest` into `out` and tells how many bytes it was; `progress` is told the bytes so far.
    ///
    /// # Errors
    /// As every call, and when `out` takes no more.
    pub async fn read_content(
        &self,
        digest: &str,
        out: &mut (dyn Write + Send),
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<u64> {
        let request = ReadContentRequest {
            digest: digest.to_owned(),
            // All of it.
            offset: 0,
            size: 0,
        };
        let answer = client!(self, ContentClient).read(request).await;
        let mut stream = answer.named("Read content", digest)?;
        let mut got = 0;
        loop {
            let part = stream.message().await.map(tonic::Response::new);
            let Some(part) = part.named("Read content", digest)? else {
                return Ok(got);
            };
            out.write_all(&part.data).map_err(|source| Error::Write {
                digest: digest.to_owned(),
                source,
            })?;
            got += part.data.len() as u64;
            progress(got);
        }
    }
}
