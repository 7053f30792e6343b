//! Changes the host name in the images of a checkpoint:
//!
//! ```sh
//! cargo run --example rename_host -- checkpoint/ new-name
//! ```
//!
//! Everything else in the image stays as it is, byte for byte.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use criu_image::views::UtsnsEntry;
use criu_image::{Image, Kind, Named};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args_os().skip(1);
    let (Some(dir), Some(name)) = (args.next().map(PathBuf::from), args.next()) else {
        return Err("Usage: rename_host DIR NAME".into());
    };
    let name = name
        .into_string()
        .map_err(|name| format!("{} is no host name", name.display()))?;
    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        if Named::of(&entry.file_name().to_string_lossy()) != Named::Record(Kind::Utsns) {
            continue;
        }
        let image = Image::open(entry.path(), Kind::Utsns)?;
        let bytes = image.rewrite::<criu_image::Error>(|record| {
            let mut uts: UtsnsEntry = record.view()?;
            println!("{}: {} -> {name}", image.name().display(), uts.nodename);
            uts.nodename = name.as_str().into();
            record.with(&uts)
        })?;
        // Beside the old one first: a reader never sees half a file.
        let new = entry.path().with_extension("img.new");
        fs::write(&new, bytes)?;
        fs::rename(&new, entry.path())?;
    }
    Ok(())
}
