//! Redis: keys of several types, a counter, and the id of the run.

use anyhow::{Context, Result};

use crate::place::{PORT, Place, SOCKET};
use crate::program::{Client, PLAIN, Program, same};

pub(crate) const REDIS: Program = Program {
    name: "redis",
    args: |place| {
        let mut args = vec!["redis-server", "--save", "", "--protected-mode", "no"];
        args.extend(match place {
            Place::Tcp => ["--port", PORT, "--bind", "*"],
            Place::Unix => ["--port", "0", "--unixsocket", SOCKET],
        });
        args
    },
    before,
    after,
    ..PLAIN
};

fn cli(client: &Client<'_>, words: &[&str]) -> Result<String> {
    client.run(&[&connect(client.place), words].concat())
}

fn connect(place: Place) -> Vec<&'static str> {
    match place {
        Place::Tcp => vec!["redis-cli", "-e", "-p", PORT],
        Place::Unix => vec!["redis-cli", "-e", "-s", SOCKET],
    }
}

/// Differs in every run.
fn run_id(client: &Client<'_>) -> Result<String> {
    let info = cli(client, &["INFO", "server"])?;
    let id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    Ok(id.context("Redis tells no run_id")?.to_owned())
}

fn before(client: &Client<'_>) -> Result<String> {
    client.insist(&[&connect(client.place)[..], &["PING"]].concat())?;
    cli(client, &["SET", "ship", "Ever Given"])?;
    cli(client, &["RPUSH", "ports", "Tanjung Pelepas", "Rotterdam"])?;
    cli(client, &["SET", "berth", "7", "EX", "86400"])?;
    cli(client, &["DEBUG", "POPULATE", "20000", "container", "100"]).ok();
    for _ in 0..3 {
        cli(client, &["INCR", "visits"])?;
    }
    run_id(client)
}

fn after(client: &Client<'_>, seen: &str) -> Result<String> {
    same("run_id", &run_id(client)?, seen)?;
    same("ship", &cli(client, &["GET", "ship"])?, "Ever Given")?;
    let ports = cli(client, &["LRANGE", "ports", "0", "-1"])?;
    same("ports", &ports, "Tanjung Pelepas\nRotterdam")?;
    same("berth", &cli(client, &["GET", "berth"])?, "7")?;
    same("visits", &cli(client, &["INCR", "visits"])?, "4")?;
    cli(client, &["SET", "ship", "Ever Greet"])?;
    same("ship", &cli(client, &["GET", "ship"])?, "Ever Greet")?;
    Ok("the same run of it has all keys, counts on and takes new ones".to_owned())
}
