//! nginx: a page, the count of requests in memory that master and workers share, and the workers themselves.

use anyhow::{Context, Result, ensure};

use crate::place::{PORT, Place, SOCKET};
use crate::program::{Client, PLAIN, Program, number, same};

pub(crate) const NGINX: Program = Program {
    name: "nginx",
    args: |_| vec!["nginx", "-e", "stderr", "-c", "/settings/nginx.conf"],
    files: &[
        ("nginx.conf", include_str!("served/nginx.conf")),
        ("page.html", PAGE),
    ],
    listen: |place| match place {
        Place::Tcp => PORT.to_owned(),
        Place::Unix => format!("unix:{SOCKET}"),
    },
    before,
    after,
    ..PLAIN
};

const PAGE: &str = include_str!("served/page.html");

/// How many requests there have been, this one included.
fn requests(client: &Client<'_>) -> Result<u64> {
    let status = client.curl(&[], "/status")?;
    let line = status.lines().nth(2).unwrap_or_default();
    number(
        line.split_whitespace()
            .last()
            .with_context(|| status.clone())?,
    )
}

/// The numbers of the workers in the container.
fn workers(client: &Client<'_>) -> Result<String> {
    let children = client.run(&["cat", "/proc/1/task/1/children"])?;
    let mut workers: Vec<&str> = children.split_whitespace().collect();
    workers.sort_unstable();
    ensure!(workers.len() == 2, "nginx has these workers: {workers:?}");
    Ok(workers.join(" "))
}

fn before(client: &Client<'_>) -> Result<String> {
    client.curl_insist("/page.html")?;
    let workers = workers(client)?;
    Ok(format!("{}/{workers}", requests(client)?))
}

fn after(client: &Client<'_>, seen: &str) -> Result<String> {
    let (count, before) = seen.split_once('/').context(".")?;
    let count = number(count)?;
    let now = requests(client)?;
    ensure!(
        now == count + 1,
        "nginx counts {now} requests after {count}"
    );
    same("the list of workers", &workers(client)?, before)?;
    for _ in 0..5 {
        same("the page", &client.curl(&[], "/page.html")?, PAGE)?;
    }
    let now = requests(client)?;
    ensure!(
        now == count + 7,
        "nginx counts {now} requests after {count} and 7 more"
    );
    Ok(format!(
        "the same workers serve, and count on from request {count}"
    ))
}
