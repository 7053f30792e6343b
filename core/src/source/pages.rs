//! Whether memory is whole: what the pagemaps promise is in the files with pages.
//!
//! CRIU does not compare them. Of a file that is too short the restored tasks read on and on: `preadv` gives nothing and is
//! called again (`criu/pie/restorer.c`, `restore_preadv`), until the client of CRIU gives up.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;

use criu_image::wire::fields;
use criu_image::{Kind, Named, Reader};

use super::image_dir::{Error, ImageDir};

/// Fields of `pagemap_head` and `pagemap_entry` (`images/pagemap.proto`).
const PAGES_ID: u32 = 1;
const COMPAT_NR_PAGES: u32 = 2;
const IN_PARENT: u32 = 3;
const FLAGS: u32 = 4;
const NR_PAGES: u32 = 5;

/// `PE_PRESENT`: the pages are in this image set (`criu/include/pagemap.h`).
const PRESENT: u64 = 1 << 2;

/// No honest record of a pagemap has more bytes: five numbers.
const MAX_RECORD: u32 = 128;

/// Checks that every file with pages has at least what the pagemaps say.
///
/// The cost follows the number of areas, not of pages: the files with pages are not read.
///
/// # Errors
/// When a pagemap cannot be read, or a file is missing or too short.
pub fn check(images: &ImageDir) -> Result<(), Error> {
    let page = page_size();
    let mut needed: BTreeMap<u32, (u64, String)> = BTreeMap::new();
    for name in images.names()? {
        let Some(text) = name.to_str() else { continue };
        if Named::of(text) != Named::Record(Kind::Pagemap) {
            continue;
        }
        if let Some((id, pages)) = promised(images, text)? {
            let bytes = pages.saturating_mul(page);
            let entry = needed.entry(id).or_insert_with(|| (0, text.to_owned()));
            if bytes > entry.0 {
                *entry = (bytes, text.to_owned());
            }
        }
    }
    for (id, (bytes, pagemap)) in needed.into_iter().filter(|(_, (bytes, _))| *bytes > 0) {
        let name = format!("pages-{id}.img");
        let size = size_of(images, &name)?;
        if size.is_none_or(|size| size < bytes) {
            return Err(Error::Pages {
                path: images.path().join(&name),
                has: size.map_or_else(
                    || "it is missing".into(),
                    |size| format!("it has {size} bytes"),
                ),
                pagemap,
                bytes,
            });
        }
    }
    Ok(())
}

/// The id of the file with pages and how many pages a pagemap says are in it.
fn promised(images: &ImageDir, name: &str) -> Result<Option<(u32, u64)>, Error> {
    let Some(file) = images.other(name)? else {
        return Ok(None);
    };
    let path = images.path().join(name);
    let mut reader = Reader::new(&path, file, Some(Kind::Pagemap))?.with_limit(MAX_RECORD);
    let damaged = |error: &criu_image::wire::Error| Error::Read {
        path: path.clone(),
        source: io::Error::new(io::ErrorKind::InvalidData, error.what.clone()),
    };
    let (mut id, mut pages) = (None, 0u64);
    while reader.advance()? {
        let (mut compat, mut full, mut flags, mut in_parent) = (0, None, None, false);
        let first = reader.index() == 0;
        for field in fields(reader.payload()) {
            let field = field.map_err(|error| damaged(&error))?;
            let Some(value) = field.as_u64() else {
                continue;
            };
            match field.number {
                PAGES_ID if first => id = u32::try_from(value).ok(),
                COMPAT_NR_PAGES => compat = value,
                IN_PARENT => in_parent = value != 0,
                FLAGS => flags = Some(value),
                NR_PAGES => full = Some(value),
                _ => {}
            }
        }
        // An image of a CRIU before flags has only the pages of the parent marked.
        let present = flags.map_or(!in_parent, |flags| flags & PRESENT != 0);
        if !first && present {
            pages = pages.saturating_add(full.unwrap_or(compat));
        }
    }
    Ok(id.map(|id| (id, pages)))
}

fn size_of(images: &ImageDir, name: &str) -> Result<Option<u64>, Error> {
    use nix::errno::Errno;
    use nix::fcntl::AtFlags;
    // Through a link, which a staging directory has in its place.
    match nix::sys::stat::fstatat(images.descriptor(), OsStr::new(name), AtFlags::empty()) {
        Ok(stat) => Ok(Some(u64::try_from(stat.st_size).unwrap_or(0))),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(Error::Read {
            path: images.path().join(name),
            source: errno.into(),
        }),
    }
}

/// The node's. Images of a machine with another cannot be restored here at all.
fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let size = size
        .ok()
        .flatten()
        .and_then(|size| u64::try_from(size).ok());
    size.unwrap_or(4096)
}
