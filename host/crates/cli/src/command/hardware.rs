//! What a VM or a checkpoint is made of, whole; and what differs between two of them.

use stillpoint_common::{DefinitionChange, VmId};

use super::Context;
use crate::{
    CliError,
    client::ClientError,
    output::{
        Answer,
        table::{details, section, table},
        text,
    },
    view::{Medium, Nic, Spec, SpecChange},
};

/// All of the hardware, as `vm show` and `checkpoint show` print it with `--config`. As JSON it is a document that
/// `vm create --from` takes.
pub(super) fn answer(spec: &Spec) -> Result<Answer, CliError> {
    Answer::new(tables(spec), &serde_json::json!({"spec": spec}))
}

pub(super) fn tables(spec: &Spec) -> String {
    let kernel = |part: fn(&crate::view::KernelBoot) -> &String| spec.kernel.as_ref().map(part).cloned();
    let machine = details([
        ("cpus", spec.cpus.to_string()),
        ("memory", text::bytes(spec.memory_mib.saturating_mul(1024 * 1024))),
        ("accelerator", text::word(Some(spec.accelerator))),
        ("firmware", firmware(spec)),
        ("tpm", tpm(spec.tpm).to_owned()),
        ("boots", kernel(|boot| &boot.kernel).unwrap_or_else(|| "from its disks".to_owned())),
        ("initial RAM disk", kernel(|boot| &boot.initrd).unwrap_or_default()),
        ("kernel command line", kernel(|boot| &boot.command_line).unwrap_or_default()),
        ("serial log", or_none(&spec.serial_log)),
    ]);
    let disks = spec.disks.iter().map(|disk| [disk.name.clone(), disk.path.clone(), text::word(Some(disk.format))]);
    let passed = spec.pass_through.iter();
    let passed = passed.map(|disk| [disk.name.clone(), disk.device.clone(), access(disk.read_only).to_owned()]);
    let media = spec.media.iter();
    let media = media.map(|medium| [medium.name.clone(), medium.drive_text().to_owned(), what_is_in(medium)]);
    let nics = spec.nics.iter().enumerate().map(|(at, nic)| [format!("nic{at}"), network(nic), mac(nic)]);
    let arguments = spec.extra_arguments.iter().map(|argument| [argument.clone()]);
    [
        machine,
        section("Disks", ["disk", "image", "format"], disks),
        section("Pass-through disks", ["disk", "device", "guest may"], passed),
        section("Read-only media", ["medium", "in", "file"], media),
        section("Network cards", ["card", "connected to", "mac"], nics),
        section("Extra arguments of QEMU", ["argument"], arguments),
    ]
    .concat()
}

pub(super) const fn tpm(tpm: bool) -> &'static str {
    if tpm { "2.0" } else { "none" }
}

fn firmware(spec: &Spec) -> String {
    match &spec.uefi {
        None => "BIOS".to_owned(),
        Some(uefi) if uefi.variables.is_empty() => "UEFI, its variables where the service keeps them".to_owned(),
        Some(uefi) => format!("UEFI, its variables in {}", uefi.variables),
    }
}

/// `/iso/install.iso (RAW)`
fn what_is_in(medium: &Medium) -> String {
    match medium.format {
        Some(format) => format!("{} ({})", medium.path, text::word(Some(format))),
        None => "empty".to_owned(),
    }
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "none".to_owned() } else { text.to_owned() }
}

const fn access(read_only: bool) -> &'static str {
    if read_only { "read" } else { "read and write" }
}

fn network(nic: &Nic) -> String {
    nic.tap.as_ref().map_or_else(|| "user-mode network".to_owned(), |tap| format!("tap interface {}", tap.interface))
}

fn mac(nic: &Nic) -> String {
    if nic.mac.is_empty() { "chosen by QEMU".to_owned() } else { nic.mac.clone() }
}

/// What differs between a checkpoint and another one, or Now if none is named.
pub(super) async fn diff(context: &Context, vm: &VmId, from: &str, to: Option<&str>) -> Result<Answer, CliError> {
    let client = &context.client;
    let from = client.find_checkpoint(vm, from).await?;
    let (to_name, to_id, to_spec) = match to {
        None => ("Now".to_owned(), None, client.vm(vm).await?.spec),
        Some(to) => {
            let to = client.find_checkpoint(vm, to).await?;
            (format!("{:?}", to.display_name), Some(to.id), to.spec)
        }
    };
    let changes = changes(&from.spec, &to_spec)?;
    let from_name = format!("{:?}", from.display_name);
    let said = match changes.is_empty() {
        true => format!("{from_name} and {to_name} are made of the same."),
        false => {
            let rows = changes.iter().map(|it| [it.field.clone(), or_none(&it.from), or_none(&it.to)]);
            format!("From {from_name} to {to_name}:\n\n{}", table(["what", "from", "to"], rows))
        }
    };
    let document = serde_json::json!({"vm": vm, "from": from.id, "to": to_id, "spec_changes": changes});
    Answer::new(said, &document)
}

fn changes(from: &Spec, to: &Spec) -> Result<Vec<SpecChange>, CliError> {
    let change = |DefinitionChange { field, from, to }| SpecChange { field, from, to };
    let read = |spec: &Spec| spec.definition().map_err(ClientError::from);
    let (from, to) = (read(from)?, read(to)?);
    Ok(from.changes(&to).into_iter().map(change).collect())
}

#[cfg(test)]
mod tests {
    use stillpoint_common::{AcceleratorChoice, DiskFormat, Drive};

    use super::*;
    use crate::view::{Disk, KernelBoot, PassThroughDisk, TapNetwork, Uefi};

    fn spec() -> Spec {
        Spec {
            cpus: 2,
            memory_mib: 1536,
            accelerator: AcceleratorChoice::Tcg,
            uefi: Some(Uefi { variables: "/vm/vars.qcow2".into() }),
            tpm: true,
            media: vec![
                Medium {
                    name: "install".into(),
                    drive: Drive::Cdrom,
                    path: "/iso/install.iso".into(),
                    format: Some(DiskFormat::Raw),
                },
                Medium { name: "spare".into(), drive: Drive::Cdrom, path: String::new(), format: None },
                Medium {
                    name: "tools".into(),
                    drive: Drive::Disk,
                    path: "/iso/tools.qcow2".into(),
                    format: Some(DiskFormat::Qcow2),
                },
            ],
            kernel: Some(KernelBoot { kernel: "/k".into(), initrd: "/i".into(), command_line: "quiet".into() }),
            disks: vec![Disk { name: "system".into(), path: "/vm/web.qcow2".into(), format: DiskFormat::Qcow2 }],
            pass_through: vec![PassThroughDisk { name: "tape".into(), device: "/dev/sdb".into(), read_only: true }],
            nics: vec![
                Nic::default(),
                Nic { tap: Some(TapNetwork { interface: "tap0".into() }), mac: "52:54:00:12:34:56".into(), user: None },
            ],
            serial_log: "/log/web".into(),
            extra_arguments: vec!["-boot".into(), "menu=on".into()],
        }
    }

    /// Each field has a place in the tables: one that is forgotten is a configuration that cannot be looked at.
    #[test]
    fn every_field_of_a_configuration_is_in_its_tables() {
        let told = tables(&spec());
        let expected = [
            "cpus: ",
            "2",
            "1.5 GiB",
            "TCG",
            "UEFI, its variables in /vm/vars.qcow2",
            "2.0",
            "install",
            "CD-ROM drive",
            "/iso/install.iso (RAW)",
            "spare",
            "empty",
            "tools",
            "read-only disk",
            "/iso/tools.qcow2 (QCOW2)",
            "/k",
            "/i",
            "quiet",
            "/log/web",
            "system",
            "/vm/web.qcow2",
            "QCOW2",
            "tape",
            "/dev/sdb",
            "nic0",
            "user-mode network",
            "chosen by QEMU",
            "nic1",
            "tap interface tap0",
            "52:54:00:12:34:56",
            "-boot",
            "menu=on",
        ];
        for part in expected {
            assert!(told.contains(part), "{part} is missing in\n{told}");
        }
        let bare = Spec { uefi: None, kernel: None, serial_log: String::new(), extra_arguments: vec![], ..spec() };
        let told = tables(&bare);
        assert!(told.contains("BIOS") && told.contains("from its disks") && told.contains("none"), "{told}");
        assert!(!told.contains("Extra arguments"), "{told}");
    }

    #[test]
    fn what_differs_is_told_field_by_field() {
        let other = Spec { cpus: 4, serial_log: String::new(), ..spec() };
        let found = changes(&spec(), &other).unwrap();
        let told: Vec<_> = found.iter().map(|it| (it.field.as_str(), it.from.as_str(), it.to.as_str())).collect();
        assert_eq!(told, [("cpus", "2", "4"), ("serial_log", "/log/web", "")]);
        assert_eq!(changes(&spec(), &spec()).unwrap(), []);
    }
}
