//! Image files that no VM is writing to, by qemu-img.
//!
//! Formats are always declared and backing files always named by us: nothing that stands in an image makes a file be
//! opened. What must be durable is synced, the file and then its folder.

mod files;
mod growth;
mod header;
mod space;
mod tool;
mod users;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use files::{blocking, folder, glance, images_in, io_error, lies_on, look, place, remove, sync, temporary};
use growth::{Mapped, growth};
use header::{Header, resolve};
use serde::Deserialize;
use stillpoint_common::{DiskFormat, FileIdentity, LayerFile};
use stillpoint_engine::ports::{
    Extent, FileUser, Flatten, ImageError, ImageFacts, Images, Moved, OfflineMerge, ProgressSink, Seen, Space, Stop,
};
use tool::{Tool, failed};

use crate::{config::QemuConfig, nodes};

/// Works on images with qemu-img.
#[derive(Debug, Clone)]
pub struct QemuImages {
    config: QemuConfig,
}

/// What we read of `qemu-img info`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    virtual_size: u64,
    #[serde(default)]
    actual_size: u64,
    format_specific: Option<FormatSpecific>,
}

#[derive(Deserialize)]
struct FormatSpecific {
    #[serde(default)]
    data: SpecificData,
}

#[derive(Default, Deserialize)]
struct SpecificData {
    #[serde(default)]
    corrupt: bool,
}

/// What we read of `qemu-img check`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Check {
    #[serde(default)]
    allocated_clusters: u64,
    #[serde(default)]
    check_errors: u64,
}

impl QemuImages {
    /// With this qemu-img.
    #[must_use]
    pub const fn new(config: QemuConfig) -> Self {
        Self { config }
    }

    fn tool<'a>(&'a self, subject: &'a Path) -> Tool<'a> {
        Tool { program: &self.config.qemu_img, subject }
    }

    /// Runs a call whose work does not grow with the image.
    async fn quick<const N: usize>(&self, subject: &Path, words: [&str; N]) -> Result<Vec<u8>, ImageError> {
        self.tool(subject).quick(self.config.deadlines.image, arguments(words)).await
    }

    /// The extents of one layer, without what it lies on. Also while a VM has it open; then what QEMU has not written down
    /// yet is not among them.
    async fn map<const N: usize>(&self, layer: &LayerFile, part: [&str; N]) -> Result<Vec<Mapped>, ImageError> {
        let chain = unlocked(layer)?;
        let words = ["map", "-U", "--output=json"].into_iter().chain(part).chain([chain.as_str()]);
        let map = self.tool(&layer.path).quick(self.config.deadlines.image, arguments(words)).await?;
        understood("map", &map)
    }

    /// The file under the name of a new overlay is the overlay: empty, of this size, on this backing file.
    async fn is_empty_overlay(&self, overlay: &Path, name: &str, virtual_size: u64) -> Result<bool, ImageError> {
        if header(overlay)?.and_then(|header| header.backing) != Some(name.into()) {
            return Ok(false);
        }
        let alone = serde_json::json!({
            "driver": "qcow2", "backing": null, "file": {"driver": "file", "filename": said(overlay)?},
        });
        let check = self.quick(overlay, ["check", "-U", "--output=json", &format!("json:{alone}")]).await?;
        let check: Check = understood("check", &check)?;
        let facts = self.stat(overlay, DiskFormat::Qcow2).await?;
        Ok(check.allocated_clusters == 0 && check.check_errors == 0 && facts.virtual_size == virtual_size)
    }
}

#[async_trait]
impl Images for QemuImages {
    async fn stat(&self, path: &Path, format: DiskFormat) -> Result<ImageFacts, ImageError> {
        let identity = look(path)?;
        let begins_as_qcow2 = format == DiskFormat::Raw && header(path)?.is_some();
        let header = if format == DiskFormat::Qcow2 { header(path)? } else { None };
        if header.as_ref().is_some_and(|header| header.external_data) {
            let message = "its data is in another file, which is not supported".to_owned();
            return Err(ImageError::Unusable { path: path.to_owned(), message });
        }
        let info = self.quick(path, ["info", "-U", "--output=json", "-f", format.driver(), said(path)?]).await?;
        let info: Info = understood("info", &info)?;
        let backing = header.and_then(|header| header.backing).map(|name| resolve(folder(path), &name));
        let corrupt = info.format_specific.is_some_and(|specific| specific.data.corrupt);
        let (virtual_size, allocated) = (info.virtual_size, info.actual_size);
        Ok(ImageFacts { identity, virtual_size, allocated, backing, corrupt, begins_as_qcow2 })
    }

    async fn create_overlay(
        &self,
        overlay: &Path,
        backing: &LayerFile,
        virtual_size: u64,
    ) -> Result<FileIdentity, ImageError> {
        let name = backing_name(overlay, &backing.path)?;
        look(&backing.path)?;
        if overlay.symlink_metadata().is_err() {
            let new = temporary(overlay);
            let (format, size) = (backing.format.driver(), virtual_size.to_string());
            let target = said(&new)?;
            let words = ["create", "-q", "-f", "qcow2", "-u", "-b", &name, "-F", format, target, &size];
            let made = match self.quick(overlay, words).await {
                // Whole on the disk before it has its name: after a power cut a file of that name can be read.
                Ok(_) => sync(&new).await.and_then(|()| place(&new, overlay)),
                Err(error) => Err(error),
            };
            let _ = fs::remove_file(&new);
            match made {
                // Somebody was quicker; below we see whether it is what we want.
                Ok(()) | Err(ImageError::Exists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if !self.is_empty_overlay(overlay, &name, virtual_size).await? {
            return Err(ImageError::Exists { path: overlay.to_owned() });
        }
        sync(overlay).await?;
        look(overlay)
    }

    async fn create_variables(&self, path: &Path) -> Result<(), ImageError> {
        if path.symlink_metadata().is_ok() {
            return Ok(());
        }
        let (template, new) = (&self.config.uefi_variables, temporary(path));
        if !template.exists() {
            return Err(ImageError::NoFirmware { path: template.clone() });
        }
        let words = ["convert", "-q", "-f", "raw", "-O", "qcow2", said(template)?, said(&new)?];
        let made = self.quick(path, words).await.and_then(|_| place(&new, path));
        let _ = fs::remove_file(&new);
        match made {
            // Somebody was quicker.
            Ok(()) | Err(ImageError::Exists { .. }) => sync(path).await,
            Err(error) => Err(error),
        }
    }

    async fn clear_unfinished(&self, overlay: &Path) -> Result<(), ImageError> {
        let new = temporary(overlay);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&new, "removing", &error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// By `qemu-img commit`. Killed in the middle, it leaves a parent that holds some of the child's data, which the child
    /// hides, and whose metadata is sound: an entry is written after what it points to is allocated, so that at most a
    /// few clusters are allocated and not used. Beginning again writes the same data to the same places.
    async fn merge_offline(
        &self,
        merge: &OfflineMerge,
        stop: &Stop,
        progress: &ProgressSink,
    ) -> Result<Moved, ImageError> {
        let total = self.stat(&merge.child.path, merge.child.format).await?.allocated;
        let chain = chain(&merge.layers())?;
        let tool = self.tool(&merge.parent.path);
        let moved = tool.until(stop, total, progress, arguments(["commit", "-d", "-p", &chain])).await?;
        match moved {
            Moved::Whole => sync(&merge.parent.path).await?,
            Moved::Stopped => {}
        }
        Ok(moved)
    }

    /// By `qemu-img rebase`, which writes the new backing file's name last. Killed before, it leaves a child that holds
    /// some of its parent's data and still lies on it.
    async fn stream_offline(
        &self,
        merge: &OfflineMerge,
        stop: &Stop,
        progress: &ProgressSink,
    ) -> Result<Moved, ImageError> {
        let Some(base) = merge.below.first() else {
            return Err(failed("rebase", "nothing lies below the parent".to_owned()));
        };
        let total = self.stat(&merge.parent.path, merge.parent.format).await?.allocated;
        let chain = chain(&merge.layers())?;
        let words = ["rebase", "-p", "-F", base.format.driver(), "-b", said(&base.path)?, &chain];
        match self.tool(&merge.child.path).until(stop, total, progress, arguments(words)).await? {
            Moved::Stopped => return Ok(Moved::Stopped),
            Moved::Whole => {}
        }
        // The tool wrote the whole path; a layer names what it lies on without folder.
        self.repoint(&merge.child, base).await?;
        Ok(Moved::Whole)
    }

    async fn look_at(&self, files: &[LayerFile]) -> Result<Vec<Result<Seen, ImageError>>, ImageError> {
        let files = files.to_vec();
        blocking(move || Ok(files.iter().map(glance).collect())).await
    }

    async fn beside(&self, folder: &Path) -> Result<Vec<(PathBuf, Seen)>, ImageError> {
        let folder = folder.to_owned();
        blocking(move || images_in(&folder)).await
    }

    async fn missing(&self, paths: &[PathBuf]) -> Result<BTreeSet<PathBuf>, ImageError> {
        let paths = paths.to_vec();
        let gone = |path: &PathBuf| matches!(look(path), Err(ImageError::Missing { .. }));
        blocking(move || Ok(paths.into_iter().filter(gone).collect())).await
    }

    async fn users(&self, paths: &[PathBuf]) -> Result<Vec<FileUser>, ImageError> {
        let paths = paths.to_vec();
        blocking(move || Ok(users::of(&paths))).await
    }

    async fn merge_growth(&self, child: &LayerFile, parent: &LayerFile) -> Result<u64, ImageError> {
        let (child, parent) = (self.map(child, []).await?, self.map(parent, []).await?);
        Ok(growth(&child, &parent))
    }

    /// By `qemu-img map` of the layer without what it lies on: what is `present` is its own, zeros and all.
    async fn extents(&self, layer: &LayerFile, part: &Range<u64>) -> Result<Vec<Extent>, ImageError> {
        // The tool counts with signed numbers.
        let length = part.end.saturating_sub(part.start).min(i64::MAX.unsigned_abs().saturating_sub(part.start));
        let (start, length) = (format!("--start-offset={}", part.start), format!("--max-length={length}"));
        let mapped = self.map(layer, [start.as_str(), &length]).await?;
        Ok(mapped.iter().filter_map(Mapped::own).collect())
    }

    async fn space(&self, path: &Path) -> Result<Space, ImageError> {
        let (path, within) = (path.to_owned(), self.config.deadlines.image);
        let late = |_| failed("looking at a file system", format!("it did not answer within {within:?}"));
        tokio::time::timeout(within, blocking(move || space::space(&path))).await.map_err(late)?
    }

    async fn overlays_of(&self, path: &Path) -> Result<Vec<PathBuf>, ImageError> {
        let path = path.to_owned();
        blocking(move || {
            let wanted = look(&path)?;
            let folder = folder(&path);
            let entries = fs::read_dir(folder).map_err(|error| io_error(folder, "reading", &error))?;
            let overlays = entries.flatten().map(|entry| entry.path()).filter(|file| lies_on(file, wanted));
            Ok(overlays.collect())
        })
        .await
    }

    async fn repoint(&self, overlay: &LayerFile, backing: &LayerFile) -> Result<(), ImageError> {
        let name = backing_name(&overlay.path, &backing.path)?;
        let target = said(&overlay.path)?;
        let words = ["rebase", "-u", "-f", overlay.format.driver(), "-F", backing.format.driver(), "-b", &name, target];
        self.quick(&overlay.path, words).await?;
        sync(&overlay.path).await
    }

    async fn flatten(&self, flatten: &Flatten, progress: &ProgressSink) -> Result<(), ImageError> {
        let Some(top) = flatten.layers.last() else { return Err(failed("flatten", "a chain without layers".into())) };
        let total = self.stat(&top.path, top.format).await?.virtual_size;
        let chain = chain(&flatten.layers)?;
        let options: &[&str] = match flatten.format {
            // Without it the size is rounded up to whole cylinders.
            DiskFormat::Vpc => &["-o", "force_size=on"],
            DiskFormat::Raw | DiskFormat::Qcow2 | DiskFormat::Vhdx => &[],
        };
        let mut words = arguments(["convert", "-U", "-p", "-O", flatten.format.driver()]);
        words.extend(arguments(options.iter().copied()));
        words.extend(arguments([chain.as_str(), said(&flatten.target)?]));
        self.tool(&flatten.target).long(total, progress, words).await?;
        sync(&flatten.target).await
    }

    async fn remove(&self, path: &Path, expected: FileIdentity) -> Result<(), ImageError> {
        let path = path.to_owned();
        if let Some(last) = blocking(move || remove(&path, expected)).await? {
            drop(tokio::task::spawn_blocking(move || drop(last)));
        }
        Ok(())
    }
}

fn arguments<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<OsString> {
    words.into_iter().map(OsString::from).collect()
}

fn chain(layers: &[LayerFile]) -> Result<String, ImageError> {
    nodes::chain(layers).map(|chain| format!("json:{chain}")).map_err(|message| failed("qemu-img", message))
}

/// One layer alone, for a look at its tables. QEMU locks a layer that it is merging against whoever reads its content, since
/// that may go through layers which change; what the layer itself holds does not.
fn unlocked(layer: &LayerFile) -> Result<String, ImageError> {
    let mut node = nodes::chain(std::slice::from_ref(layer)).map_err(|message| failed("qemu-img", message))?;
    node["file"]["locking"] = "off".into();
    Ok(format!("json:{node}"))
}

fn said(path: &Path) -> Result<&str, ImageError> {
    nodes::text(path).map_err(|message| failed("qemu-img", message))
}

/// What an overlay's header says of its backing file, which lies in the same folder.
fn backing_name(overlay: &Path, backing: &Path) -> Result<String, ImageError> {
    if folder(overlay) != folder(backing) {
        let message = format!("it lies in another folder than its backing file {}", backing.display());
        return Err(failed(&format!("making {}", overlay.display()), message));
    }
    nodes::backing_name(backing).map_err(|message| failed("qemu-img", message))
}

fn understood<'a, T: Deserialize<'a>>(verb: &str, output: &'a [u8]) -> Result<T, ImageError> {
    serde_json::from_slice(output).map_err(|error| failed(&format!("reading the answer of {verb}"), error.to_string()))
}

fn header(path: &Path) -> Result<Option<Header>, ImageError> {
    Header::read(path).map_err(|error| io_error(path, "reading", &error))
}
