//! Whether an image directory is whole and can be read: checked where CRIU will read it.

use std::io;
use std::path::PathBuf;

use criu_image::{Kind, Named, Reader};
use nix::sys::stat::fstat;

use crate::source::images::{Error, ImageDir, MAX_RECORD, MAX_SIZE};
use crate::source::pages;

/// Reads every record of every image, in the memory of one, and compares the files with memory with what the pagemaps say.
///
/// # Errors
/// With the first image that is damaged, too large or missing.
pub fn check(images: &ImageDir) -> Result<(), Error> {
    let mut missing = vec!["inventory.img", "pstree.img"];
    for name in images.names()? {
        let Some(text) = name.to_str() else { continue };
        missing.retain(|name| *name != text);
        match Named::of(text) {
            // They have bounds of their own, below.
            Named::Record(Kind::Pagemap) => {}
            Named::Record(kind) => records(images, text, kind)?,
            Named::Old => {
                return Err(Error::Read {
                    path: images.path().join(text),
                    source: io::Error::other(
                        "CRIU does not write images of this layout any more; checkpoint again with a current one",
                    ),
                });
            }
            Named::Raw | Named::Other => {}
        }
    }
    if let Some(name) = missing.first() {
        return Err(Error::Missing {
            dir: images.path().to_path_buf(),
            name: (*name).into(),
        });
    }
    pages::check(images)
}

fn records(images: &ImageDir, name: &str, kind: Kind) -> Result<(), Error> {
    let Some(file) = images.other(name)? else {
        return Ok(());
    };
    let path: PathBuf = images.path().join(name);
    // All messages of a queue are held at once.
    if kind == Kind::IpcMsg {
        let size = fstat(&file).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
        if size > MAX_SIZE {
            return Err(Error::TooLarge {
                path,
                what: format!("it has {size} bytes"),
                limit: MAX_SIZE,
            });
        }
    }
    let limit = u32::try_from(MAX_RECORD).unwrap_or(u32::MAX);
    let mut reader = Reader::new(path, file, Some(kind))?.with_limit(limit);
    while reader.advance()? {
        reader.message()?;
        reader.skip_extra()?;
    }
    Ok(())
}
