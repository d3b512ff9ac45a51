//! How layers are named and described as QEMU block nodes.
//!
//! A layer has two nodes: `L…` reads its format, `F…` its file. With the 24 digits of the layer's id they fit QEMU's 31
//! characters, and a running VM tells by itself which layer is where. Formats are declared, never probed; a backing
//! file is named by node, never followed from an image's header.

use std::path::Path;

use serde_json::{Value, json};
use stillpoint_common::{DiskFormat, DiskName, LayerFile, LayerId, MediumFile, PassThroughDisk};

/// How a node may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// The guest, or whatever becomes of an overlay, writes to it.
    Write,
    /// It is below another layer. A merge may make it writable for a while, which `auto-read-only` allows.
    Below,
}

pub(crate) fn format_node(layer: LayerId) -> String {
    format!("L{layer}")
}

pub(crate) fn file_node(layer: LayerId) -> String {
    format!("F{layer}")
}

/// The layer whose format node this is.
pub(crate) fn layer_of(node: &str) -> Option<LayerId> {
    node.strip_prefix('L')?.parse().ok()
}

/// Id of the guest's device for a disk.
pub(crate) fn device(disk: &DiskName) -> String {
    format!("disk-{disk}")
}

/// The flash that holds the variables of the firmware.
const FLASH: &str = "/machine/system.flash1";

/// Path of what the device of a disk reads and writes through. The firmware's variables are in the machine itself.
pub(crate) fn backend(disk: &DiskName) -> String {
    if *disk == DiskName::uefi_variables() {
        return FLASH.to_owned();
    }
    format!("/machine/peripheral/{}/virtio-backend", device(disk))
}

/// The disk whose device this is, by its path in the machine: `/machine/peripheral/disk-system/virtio-backend`.
pub(crate) fn disk_of(device_path: &str) -> Option<DiskName> {
    if device_path == FLASH {
        return Some(DiskName::uefi_variables());
    }
    device_path.split('/').find_map(|part| part.strip_prefix("disk-")?.parse().ok())
}

/// A path that JSON can carry.
pub(crate) fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("the path {} is not valid UTF-8", path.display()))
}

/// Description of a layer's file node.
pub(crate) fn file(layer: &LayerFile, access: Access) -> Result<Value, String> {
    Ok(json!({
        "driver": "file",
        "node-name": file_node(layer.id),
        "filename": text(&layer.path)?,
        "auto-read-only": access == Access::Below,
        "discard": "unmap",
    }))
}

/// Description of a layer's format node, over its file node and over `backing`.
pub(crate) fn format(layer: &LayerFile, backing: Option<LayerId>, access: Access) -> Value {
    let mut node = json!({
        "driver": layer.format.driver(),
        "node-name": format_node(layer.id),
        "file": file_node(layer.id),
        "read-only": access == Access::Below,
        "discard": "unmap",
    });
    if layer.format == DiskFormat::Qcow2 {
        node["backing"] = backing.map_or(Value::Null, |layer| format_node(layer).into());
    }
    node
}

/// Node of a pass-through disk.
pub(crate) fn pass_through_node(disk: &DiskName) -> String {
    format!("pass-{disk}")
}

/// Description of a pass-through disk's node.
pub(crate) fn pass_through(disk: &PassThroughDisk) -> Result<Value, String> {
    Ok(json!({
        "driver": "host_device",
        "node-name": pass_through_node(&disk.name),
        "filename": text(&disk.device)?,
        "read-only": disk.read_only,
        "discard": "unmap",
    }))
}

/// Node of a medium, and id of the guest's device for it.
pub(crate) fn medium_node(name: &DiskName) -> String {
    format!("medium-{name}")
}

/// Description of a medium's node. Nothing of it can be written, and nothing is opened beside its file.
pub(crate) fn medium(name: &DiskName, medium: &MediumFile) -> Result<Value, String> {
    let mut node = json!({
        "driver": medium.format.driver(),
        "node-name": medium_node(name),
        "file": {"driver": "file", "filename": text(&medium.path)?, "read-only": true},
        "read-only": true,
    });
    if medium.format == DiskFormat::Qcow2 {
        node["backing"] = Value::Null;
    }
    Ok(node)
}

/// Node of the firmware's code.
pub(crate) const FIRMWARE: &str = "firmware";

/// Description of the firmware's code, which nobody writes to.
pub(crate) fn firmware(code: &Path) -> Result<Value, String> {
    let file = json!({"driver": "file", "filename": text(code)?, "read-only": true});
    Ok(json!({"driver": "raw", "node-name": FIRMWARE, "file": file, "read-only": true}))
}

/// Description of a chain in one piece, without node names: for tools that open it by themselves.
///
/// `layers` go from the user's image up. Nothing is opened that is not among them.
pub(crate) fn chain(layers: &[LayerFile]) -> Result<Value, String> {
    let mut below = Value::Null;
    for layer in layers {
        let file = json!({"driver": "file", "filename": text(&layer.path)?});
        let mut node = json!({"driver": layer.format.driver(), "file": file});
        if layer.format == DiskFormat::Qcow2 {
            node["backing"] = below;
        } else if !below.is_null() {
            return Err(format!("{} has a format without backing file, and layers below it", layer.path.display()));
        }
        below = node;
    }
    if below.is_null() { Err("a chain without layers".to_owned()) } else { Ok(below) }
}

/// What a layer's header says of its backing file in the same folder: its name, in a form that is taken for nothing
/// but a file name.
pub(crate) fn backing_name(backing: &Path) -> Result<String, String> {
    let name = backing.file_name().ok_or_else(|| format!("{} has no file name", backing.display()))?;
    let name = text(Path::new(name))?;
    Ok(if name.contains(':') { format!("./{name}") } else { name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_layers_and_disks() {
        let layer = LayerId::generate();
        assert_eq!(layer_of(&format_node(layer)), Some(layer));
        for other in [file_node(layer), "#block123".into(), String::new(), "L12".into(), "é".into()] {
            assert_eq!(layer_of(&other), None, "{other}");
        }
        let disk: DiskName = "my-data".parse().unwrap();
        assert_eq!(disk_of(&backend(&disk)), Some(disk));
        assert_eq!(disk_of(&backend(&DiskName::uefi_variables())), Some(DiskName::uefi_variables()));
        assert_eq!(disk_of("/machine/system.flash0"), None);
        assert_eq!(disk_of("/machine/peripheral/pass-x/virtio-backend"), None);
    }

    #[test]
    fn a_backing_name_is_never_taken_for_a_protocol() {
        assert_eq!(backing_name(Path::new("/vm/base.qcow2")).unwrap(), "base.qcow2");
        assert_eq!(backing_name(Path::new("/vm/nbd:x")).unwrap(), "./nbd:x");
        assert!(backing_name(Path::new("/")).is_err());
    }

    #[test]
    fn a_chain_opens_nothing_but_its_own_layers() {
        let layer = |path: &str, format| LayerFile { id: LayerId::generate(), path: path.into(), format };
        let chain = chain(&[layer("/a", DiskFormat::Qcow2), layer("/b", DiskFormat::Qcow2)]).unwrap();
        assert_eq!(chain["file"]["filename"], "/b");
        assert_eq!(chain["backing"]["file"]["filename"], "/a");
        assert!(chain["backing"].as_object().unwrap().contains_key("backing"), "an absent key would be probed");
        assert!(super::chain(&[layer("/a", DiskFormat::Raw), layer("/b", DiskFormat::Raw)]).is_err());
        assert!(super::chain(&[]).is_err());
    }
}
