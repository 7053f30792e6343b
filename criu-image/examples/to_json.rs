//! Prints an image as JSON, as `crit decode` does: `cargo run --example to_json -- files.img`.

use std::error::Error;
use std::fs::File;
use std::{env, io};

use criu_image::Reader;
use criu_image::json::{Options, decode};

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args_os().nth(1).ok_or("Usage: to_json IMAGE")?;
    let mut reader = Reader::new(&path, File::open(&path)?, None)?;
    decode(&mut reader, io::stdout().lock(), Options::default())?;
    println!();
    Ok(())
}
