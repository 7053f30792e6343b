//! The volumes of one checkpoint, unpacked where its plan says.

use std::io;

use super::{Unpacked, unpack};
use crate::plan::CarryPlan;
use crate::source::images::ImageDir;

/// Unpacks them in their order; `tell` gets lines for the log.
///
/// # Errors
/// With the volume that could not be unpacked; nothing is left behind then.
pub fn unpack_volumes(
    carried: &[CarryPlan],
    images: &ImageDir,
    mut tell: impl FnMut(String),
) -> io::Result<Vec<Unpacked>> {
    carried
        .iter()
        .map(|plan| {
            let volume = &plan.volume;
            let named = |error: io::Error| {
                io::Error::new(
                    error.kind(),
                    format!("volume {} ({}): {error}", volume.mount_point, plan.into),
                )
            };
            // A file of the image directory itself, whatever the manifest says.
            if volume.file.contains('/') {
                let text = format!("{:?} is no name of an archive", volume.file);
                return Err(named(io::Error::other(text)));
            }
            let file = images.other(&volume.file).map_err(io::Error::other);
            let archive = file.map_err(named)?.ok_or_else(|| {
                named(io::Error::other(format!(
                    "{} is not in the checkpoint",
                    volume.file
                )))
            })?;
            tell(format!(
                "volume {}: unpacking {}",
                volume.mount_point, volume.file
            ));
            let unpacked = unpack(archive, volume, &plan.into).map_err(named)?;
            tell(format!(
                "volume {}: unpacked into {}",
                volume.mount_point, plan.into
            ));
            Ok(unpacked)
        })
        .collect()
}
