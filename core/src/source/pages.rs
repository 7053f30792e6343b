//! Whether memory is whole: what the pagemaps promise is in the files with pages.
//!
//! CRIU does not compare them. Of a file that is too short the restored tasks read on and on: `preadv` gives nothing and is
//! called again (`criu/pie/restorer.c`, `restore_preadv`), until the client of CRIU gives up.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;

use criu_image::views::PstreeEntry;
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
/// CRIU does not empty a directory before it dumps there. So a file with pages that a process of the checkpoint has is not compared with
/// what other pagemaps say of it, which an earlier dump may have left.
///
/// The cost follows the number of areas, not of pages: the files with pages are not read.
///
/// # Errors
/// When a pagemap cannot be read, or a file is missing or too short.
pub fn check(images: &ImageDir) -> Result<(), Error> {
    let processes = images.all::<PstreeEntry>("pstree.img", Kind::Pstree)?;
    let own: BTreeSet<String> = processes
        .iter()
        .map(|process| format!("pagemap-{}.img", process.pid))
        .collect();
    let mut of_processes: BTreeMap<u32, Promise> = BTreeMap::new();
    let mut needed: BTreeMap<u32, Promise> = BTreeMap::new();
    for name in images.names()? {
        let Some(text) = name.to_str() else { continue };
        if Named::of(text) != Named::Record(Kind::Pagemap) {
            continue;
        }
        let Some((id, promise)) = promised(images, text)? else {
            continue;
        };
        let is_own = own.contains(text);
        let all = if is_own {
            &mut of_processes
        } else {
            &mut needed
        };
        let known = all.entry(id).or_insert_with(|| promise.clone());
        // Of two that are no process's, one is an earlier dump's.
        if (promise.bytes < known.bytes) != is_own {
            *known = promise;
        }
    }
    needed.extend(of_processes);
    for (id, Promise { bytes, pagemap }) in needed {
        if bytes == 0 {
            continue;
        }
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

/// What a pagemap says of a file with pages.
#[derive(Clone)]
struct Promise {
    bytes: u64,
    pagemap: String,
}

/// The id of the file with pages, and what a pagemap says of it.
fn promised(images: &ImageDir, name: &str) -> Result<Option<(u32, Promise)>, Error> {
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
    let promise = Promise {
        bytes: pages.saturating_mul(page_size()),
        pagemap: name.to_owned(),
    };
    Ok(id.map(|id| (id, promise)))
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
