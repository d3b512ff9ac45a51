//! QEMU's command line, as a pure function of what is asked for.
//!
//! The order of the devices is part of the machine: a memory state is loaded into one that has them in the same places.

use std::ffi::OsString;

use serde_json::{Value, json};
use stillpoint_common::{Boot, DiskName, Drive, Firmware, InstanceId, Medium, NicBackend, NicDefinition};
use stillpoint_engine::{
    layout::RuntimeLayout,
    ports::{DiskChain, LaunchSpec, OnPanic, StartMode},
};

use crate::{
    config::QemuConfig,
    nodes::{self, Access},
};

/// Id of the agent's character device and port; QEMU names it when the agent opens or closes the port.
pub(crate) const AGENT: &str = "agent";

/// What the VM shall run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hardware {
    Kvm,
    Tcg,
}

/// The command line of an instance.
///
/// # Errors
/// A sentence, if a path cannot be said to QEMU.
pub(crate) fn arguments(
    config: &QemuConfig,
    layout: &RuntimeLayout,
    spec: &LaunchSpec,
    hardware: Hardware,
) -> Result<Vec<OsString>, String> {
    let mut line = Line(config.prefix_arguments.iter().map(OsString::from).collect());
    let definition = &spec.definition;
    line.bare(&["-nodefaults", "-no-user-config", "-S", "-no-shutdown"]);
    line.add("-action", format!("panic={}", panic_action(spec.on_panic)));
    line.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    line.add("-name", format!("guest={}", spec.vm));
    line.add("-uuid", spec.uid.to_string());
    line.machine(config, spec)?;
    line.hardware(hardware);
    line.add("-smp", definition.cpus.to_string());
    line.add("-m", format!("{}M", definition.memory_mib));
    line.add("-display", "none");
    line.monitors(layout, spec.instance)?;
    line.boot(&definition.boot)?;
    line.serial(definition.serial_log.as_deref())?;
    line.device(&json!({"driver": "vmgenid", "id": "generation", "guid": spec.generation_id.to_string()}));
    line.channel(layout, spec.instance)?;
    line.add("-object", json!({"qom-type": "rng-random", "id": "entropy", "filename": "/dev/urandom"}).to_string());
    line.device(&json!({"driver": "virtio-rng-pci", "id": "rng", "rng": "entropy"}));
    for (index, chain) in spec.chains.iter().enumerate() {
        line.disk(chain, index)?;
    }
    line.pass_through(spec)?;
    if spec.tpm.is_some() {
        line.tpm(layout, spec.instance)?;
    }
    for (index, nic) in definition.nics.iter().enumerate() {
        line.nic(nic, index);
    }
    // In a slot of its own, away from those that the devices before it take one after the other: machines of memory
    // states that were saved before there was this device are the same but for it.
    line.device(&json!({"driver": "pvpanic-pci", "id": "panic", "addr": "1e.0"}));
    // After the network cards: a read-only disk that comes or goes must not give them other addresses.
    line.media(&definition.media, definition.disks.len())?;
    if spec.mode == StartMode::Restore {
        line.add("-incoming", "defer");
    }
    let runtime = layout.instance(spec.instance).display().to_string();
    line.0.extend(definition.extra_arguments.iter().map(|word| OsString::from(word.replace("{runtime}", &runtime))));
    Ok(line.0)
}

/// QEMU's word for what becomes of a guest that panics.
pub(crate) const fn panic_action(on_panic: OnPanic) -> &'static str {
    match on_panic {
        OnPanic::GoOn => "none",
        OnPanic::StandStill => "pause",
    }
}

struct Line(Vec<OsString>);

impl Line {
    fn bare(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(OsString::from));
    }

    fn add(&mut self, option: &str, value: impl AsRef<str>) {
        self.bare(&[option, value.as_ref()]);
    }

    fn device(&mut self, device: &Value) {
        self.add("-device", device.to_string());
    }

    fn hardware(&mut self, hardware: Hardware) {
        let (accelerator, cpu) = match hardware {
            Hardware::Kvm => ("kvm", "host"),
            Hardware::Tcg => ("tcg", "max"),
        };
        self.add("-accel", accelerator);
        self.add("-cpu", cpu);
    }

    /// One control socket for the service, one for a person with a debugger.
    fn monitors(&mut self, layout: &RuntimeLayout, instance: InstanceId) -> Result<(), String> {
        for (id, path) in [("control", layout.control_socket(instance)), ("debug", layout.debug_socket(instance))] {
            self.add("-chardev", format!("socket,id={id},path={},server=on,wait=off", escaped(nodes::text(&path)?)));
            self.add("-mon", format!("chardev={id},mode=control"));
        }
        Ok(())
    }

    fn boot(&mut self, boot: &Boot) -> Result<(), String> {
        let Boot::Kernel { kernel, initrd, command_line } = boot else { return Ok(()) };
        self.add("-kernel", nodes::text(kernel)?);
        if let Some(initrd) = initrd {
            self.add("-initrd", nodes::text(initrd)?);
        }
        self.add("-append", command_line);
        Ok(())
    }

    /// The port is there with and without a log, so that a log may be added later without another machine.
    fn serial(&mut self, log: Option<&std::path::Path>) -> Result<(), String> {
        let backend = match log {
            Some(log) => format!("file,id=serial,path={},append=on", escaped(nodes::text(log)?)),
            None => "null,id=serial".to_owned(),
        };
        self.add("-chardev", backend);
        self.add("-serial", "chardev:serial");
        Ok(())
    }

    fn channel(&mut self, layout: &RuntimeLayout, instance: InstanceId) -> Result<(), String> {
        let path = layout.agent_socket(instance);
        self.add("-chardev", format!("socket,id={AGENT},path={},server=on,wait=off", escaped(nodes::text(&path)?)));
        self.device(&json!({"driver": "virtio-serial-pci", "id": "channels"}));
        self.device(&json!({
            "driver": "virtserialport", "bus": "channels.0", "id": AGENT, "chardev": AGENT,
            "name": "org.stillpoint.agent.0",
        }));
        Ok(())
    }

    /// It is at a place of its own in memory, and takes no slot from another device.
    fn tpm(&mut self, layout: &RuntimeLayout, instance: InstanceId) -> Result<(), String> {
        let path = layout.tpm_socket(instance);
        self.add("-chardev", format!("socket,id=tpm,path={}", escaped(nodes::text(&path)?)));
        self.add("-tpmdev", "emulator,id=tpm,chardev=tpm");
        self.device(&json!({"driver": "tpm-crb", "tpmdev": "tpm"}));
        Ok(())
    }

    /// The machine, whose two flashes hold the code of its UEFI and its variables.
    fn machine(&mut self, config: &QemuConfig, spec: &LaunchSpec) -> Result<(), String> {
        let machine = &config.machine;
        if spec.definition.firmware == Firmware::Bios {
            self.add("-machine", machine);
            return Ok(());
        }
        let variables = spec.chains.iter().find(|chain| is_variables(chain)).and_then(|chain| chain.layers.last());
        let variables = variables.ok_or("the firmware has no image for its variables")?;
        self.add("-blockdev", nodes::firmware(&config.uefi_code)?.to_string());
        let (code, variables) = (nodes::FIRMWARE, nodes::format_node(variables.id));
        self.add("-machine", format!("{machine},pflash0={code},pflash1={variables}"));
        Ok(())
    }

    /// Opens the layers from the user's image up, then the device on the head. The firmware's variables have no device.
    fn disk(&mut self, chain: &DiskChain, index: usize) -> Result<(), String> {
        let Some(head) = chain.layers.last() else { return Err(format!("the disk {} has no layer", chain.disk)) };
        let mut below = None;
        for layer in &chain.layers {
            let access = if layer.id == head.id { Access::Write } else { Access::Below };
            self.add("-blockdev", nodes::file(layer, access)?.to_string());
            self.add("-blockdev", nodes::format(layer, below, access).to_string());
            below = Some(layer.id);
        }
        if is_variables(chain) {
            return Ok(());
        }
        self.device(&json!({
            "driver": "virtio-blk-pci", "id": nodes::device(&chain.disk), "drive": nodes::format_node(head.id),
            "werror": "stop", "rerror": "stop", "bootindex": index + 1,
        }));
        Ok(())
    }

    fn pass_through(&mut self, spec: &LaunchSpec) -> Result<(), String> {
        for disk in &spec.definition.pass_through {
            self.add("-blockdev", nodes::pass_through(disk)?.to_string());
            let node = nodes::pass_through_node(&disk.name);
            self.device(&json!({
                "driver": "virtio-blk-pci", "id": format!("{node}-device"), "drive": node,
                "werror": "stop", "rerror": "stop",
            }));
        }
        Ok(())
    }

    /// CD-ROM drives are at the ports of the machine's own controller, which every firmware can boot from: after the disks.
    /// One that cannot be read is an error to the guest, and stops nothing.
    fn media(&mut self, media: &[Medium], disks: usize) -> Result<(), String> {
        let mut port = 0;
        for medium in media {
            let id = nodes::medium_node(&medium.name);
            let mut device = match medium.drive {
                Drive::Cdrom => {
                    let device = json!({
                        "driver": "ide-cd", "id": id, "bus": format!("ide.{port}"), "bootindex": disks + port + 1,
                    });
                    port += 1;
                    device
                }
                Drive::Disk => json!({"driver": "virtio-blk-pci", "id": id, "rerror": "report"}),
            };
            if let Some(file) = &medium.file {
                self.add("-blockdev", nodes::medium(&medium.name, file)?.to_string());
                device["drive"] = id.into();
            }
            self.device(&device);
        }
        Ok(())
    }

    fn nic(&mut self, nic: &NicDefinition, index: usize) {
        let id = format!("net{index}");
        let backend = match &nic.backend {
            NicBackend::User => json!({"type": "user", "id": id}),
            NicBackend::Tap { interface } => {
                json!({"type": "tap", "id": id, "ifname": interface, "script": "no", "downscript": "no"})
            }
        };
        self.add("-netdev", backend.to_string());
        // No boot ROM: it is a file of its own, which not every installation of QEMU has.
        let mut device = json!({"driver": "virtio-net-pci", "id": format!("nic{index}"), "netdev": id, "romfile": ""});
        if let Some(mac) = &nic.mac {
            device["mac"] = mac.as_str().into();
        }
        self.device(&device);
    }
}

fn is_variables(chain: &DiskChain) -> bool {
    chain.disk == DiskName::uefi_variables()
}

/// In QEMU's own option syntax a comma in a value is written twice.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests;
