//! The volumes of one container, packed into its image directory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::pack;
use crate::ids::ContainerPath;
use crate::plan::is_empty_dir;
use crate::source::manifest::CarriedVolume;
use crate::target::TargetMount;

/// Name of the archive of the volume with this number.
fn name(number: usize) -> String {
    format!("volume-{number}.tar.zst")
}

/// Packs each emptyDir among a container's bind mounts into an image directory; `tell` gets lines for the log.
///
/// # Errors
/// With the volume that could not be packed. What was written is removed.
pub fn pack_volumes(
    binds: &[TargetMount],
    images: BorrowedFd<'_>,
    mut tell: impl FnMut(String),
) -> io::Result<Vec<CarriedVolume>> {
    let mut volumes = Vec::new();
    for bind in binds {
        if !is_empty_dir(&bind.source) {
            if bind.source.to_string().contains("/volume-subpaths/") {
                tell(format!(
                    "volume {}: a part of a volume (subPath) is not carried",
                    bind.key
                ));
            }
            continue;
        }
        match pack_volume(volumes.len(), bind, images, &mut tell) {
            Ok(volume) => volumes.push(volume),
            Err(error) => {
                remove(volumes.len() + 1, images);
                return Err(io::Error::new(
                    error.kind(),
                    format!("volume {} ({}): {error}", bind.key, bind.source),
                ));
            }
        }
    }
    Ok(volumes)
}

fn pack_volume(
    number: usize,
    bind: &TargetMount,
    images: BorrowedFd<'_>,
    tell: &mut impl FnMut(String),
) -> io::Result<CarriedVolume> {
    let file = name(number);
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let out = File::from(openat(images.as_fd(), file.as_str(), flags, mode)?);
    tell(format!("volume {}: packing {}", bind.key, bind.source));
    let packed = pack(&bind.source, out, &mut |bytes| {
        tell(format!("volume {}: {bytes} bytes read so far", bind.key));
    })?;
    tell(format!(
        "volume {}: {} entries, {} bytes, {} packed in {file}",
        bind.key, packed.entries, packed.content, packed.size
    ));
    if !packed.left_out.is_empty() {
        tell(format!(
            "volume {}: not carried: {}",
            bind.key,
            packed.left_out.join(", ")
        ));
    }
    Ok(CarriedVolume {
        mount_point: ContainerPath::new(&bind.key),
        file,
        size: packed.size,
        sha256: packed.sha256,
        content: packed.content,
        entries: packed.entries,
    })
}

/// Removes the first `count` archives from an image directory, where they are.
pub fn remove(count: usize, images: BorrowedFd<'_>) {
    for number in 0..count {
        let _ = unlinkat(images, name(number).as_str(), UnlinkatFlags::NoRemoveDir);
    }
}
