//! What a shim or a runtime does before it restores a container, as a program for the suites:
//! `restow-prepare prepare|undo|finish BUNDLE`. It prints the image directory.

use std::path::Path;

use anyhow::{Context, Result, bail};
use restow::checkpoint::{Asked, Prepared};
use restow::policy::{NODE_CONFIG, NodeConfig};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, bundle] = arguments.as_slice() else {
        bail!("usage: restow-prepare prepare|undo|finish BUNDLE");
    };
    let bundle = Path::new(bundle);
    let config = NodeConfig::read(Path::new(NODE_CONFIG))?;
    if what == "prepare" {
        let spec = std::fs::read(bundle.join("config.json")).context("Read the bundle")?;
        let asked = Asked::from_spec(&serde_json::from_slice(&spec)?, &config)?;
        let asked = asked.context("The spec asks for no checkpoint")?;
        let prepared = asked.prepare(bundle, &bundle.join("rootfs"))?;
        println!("{}", prepared.image_dir().display());
        return Ok(());
    }
    let prepared = Prepared::of_bundle(&config, bundle).context("Nothing is prepared for it")?;
    match what.as_str() {
        "undo" => Ok(prepared.undo()?),
        "finish" => Ok(prepared.finish()?),
        _ => bail!("There is no {what}"),
    }
}
