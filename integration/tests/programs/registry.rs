//! A server written in Go: a registry with everything in memory. An upload that is begun before the move is finished after it.

use anyhow::{Context, Result};

use crate::place::{PORT, Place, SOCKET};
use crate::program::{Client, PLAIN, Program, same};

/// Debian's Go leaves off for its programs what upstream's has on: the limit of the container's CPU time is read, and read again.
pub(crate) const REGISTRY: Program = Program {
    name: "registry",
    args: |_| vec!["docker-registry", "serve", "/settings/registry.yml"],
    environment: &[("GODEBUG", "containermaxprocs=1,updatemaxprocs=1")],
    files: &[("registry.yml", include_str!("served/registry.yml"))],
    listen: |place| match place {
        Place::Tcp => format!("addr: ':{PORT}'"),
        Place::Unix => format!("net: unix, addr: {SOCKET}"),
    },
    before,
    after,
    ..PLAIN
};

/// What is uploaded in two parts.
const PARTS: [&str; 2] = ["begun in one pod, ", "finished in another"];

/// Where the next part of an upload goes, as the answer to the one before says.
fn location(answer: &str) -> Result<String> {
    let line = answer
        .lines()
        .find_map(|line| line.strip_prefix("Location: "));
    let url = line
        .with_context(|| format!("No Location: {answer}"))?
        .trim();
    let path = url.splitn(4, '/').nth(3).context("Location has no path")?;
    Ok(format!("/{path}"))
}

fn digest(client: &Client<'_>, text: &str) -> Result<String> {
    let sum = client.run(&["sh", "-c", "printf %s \"$1\" | sha256sum", "sh", text])?;
    Ok(format!("sha256:{}", sum.split(' ').next().unwrap_or("")))
}

fn send(client: &Client<'_>, method: &str, part: &str, path: &str) -> Result<String> {
    let kind = "Content-Type: application/octet-stream";
    let options = ["--include", "--request", method, "--header", kind];
    client.curl(&[&options[..], &["--data-binary", part]].concat(), path)
}

/// How many files of its CPU limit it holds; without a limit none.
fn held(client: &Client<'_>) -> Result<usize> {
    let links = client.run(&[
        "sh",
        "-c",
        "for fd in /proc/1/fd/*; do readlink $fd; done; true",
    ])?;
    Ok(links.lines().filter(|link| link.contains("/cpu.")).count())
}

fn before(client: &Client<'_>) -> Result<String> {
    client.curl_insist("/v2/")?;
    let begun = send(client, "POST", "", "/v2/kept/blobs/uploads/")?;
    let begun = send(client, "PATCH", PARTS[0], &location(&begun)?)?;
    Ok(format!("{} {}", held(client)?, location(&begun)?))
}

fn after(client: &Client<'_>, seen: &str) -> Result<String> {
    let (files, upload) = seen.split_once(' ').context("What was seen is two words")?;
    let digest = digest(client, &PARTS.concat())?;
    let end = send(client, "PATCH", PARTS[1], upload)?;
    let end = format!("{}&digest={digest}", location(&end)?);
    send(client, "PUT", "", &end)?;
    let blob = client.curl(&[], &format!("/v2/kept/blobs/{digest}"))?;
    same("what was uploaded", &blob, &PARTS.concat())?;
    same("files of its CPU limit", &held(client)?.to_string(), files)?;
    Ok(format!(
        "an upload was finished that was begun before; it holds {files} files of its CPU limit"
    ))
}
