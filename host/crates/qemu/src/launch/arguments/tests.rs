use stillpoint_common::{
    AcceleratorChoice, DiskDefinition, DiskFormat, LayerFile, MediumFile, PassThroughDisk, Tpm, VmDefinition,
};
use uuid::Uuid;

use super::*;

fn layer(digit: char, path: &str, format: DiskFormat) -> LayerFile {
    LayerFile { id: digit.to_string().repeat(24).parse().unwrap(), path: path.into(), format }
}

fn spec() -> LaunchSpec {
    LaunchSpec {
        vm: "web1".parse().unwrap(),
        instance: "0011223344556677".parse().unwrap(),
        uid: Uuid::from_u128(1),
        generation_id: Uuid::from_u128(2),
        definition: VmDefinition {
            cpus: 2,
            memory_mib: 512,
            accelerator: AcceleratorChoice::Auto,
            firmware: Firmware::Bios,
            tpm: Tpm::V2,
            boot: Boot::Kernel { kernel: "/k".into(), initrd: Some("/i".into()), command_line: "quiet a=b".into() },
            disks: vec![DiskDefinition {
                name: "system".parse().unwrap(),
                path: "/vm/base.raw".into(),
                format: DiskFormat::Raw,
            }],
            pass_through: vec![PassThroughDisk {
                name: "tape".parse().unwrap(),
                device: "/dev/sdx".into(),
                read_only: true,
            }],
            media: vec![
                Medium::cdrom("install", "/iso/a,b.iso"),
                Medium { file: None, ..Medium::cdrom("empty", "") },
                Medium {
                    name: "tools".parse().unwrap(),
                    drive: Drive::Disk,
                    file: Some(MediumFile { path: "/vm/tools.qcow2".into(), format: DiskFormat::Qcow2 }),
                },
            ],
            nics: vec![
                NicDefinition { backend: NicBackend::User, mac: None },
                NicDefinition {
                    backend: NicBackend::Tap { interface: "tap0".into() },
                    mac: Some("52:54:00:12:34:56".into()),
                },
            ],
            serial_log: Some("/log/web,1".into()),
            extra_arguments: vec!["-boot".into(), "menu=on".into()],
        },
        chains: vec![DiskChain {
            disk: "system".parse().unwrap(),
            layers: vec![
                layer('a', "/vm/base.raw", DiskFormat::Raw),
                layer('b', "/vm/one.qcow2", DiskFormat::Qcow2),
                layer('c', "/vm/two.qcow2", DiskFormat::Qcow2),
            ],
        }],
        tpm: Some("/vm/checkpoints/web1.tpm".into()),
        mode: StartMode::Restore,
        on_panic: OnPanic::StandStill,
    }
}

fn line(spec: &LaunchSpec, hardware: Hardware) -> Vec<String> {
    let config = QemuConfig { prefix_arguments: vec!["-L".into(), "/fw".into()], ..QemuConfig::default() };
    let line = arguments(&config, &RuntimeLayout::new("/run/vm"), spec, hardware).unwrap();
    line.into_iter().map(|word| sorted(word.into_string().unwrap())).collect()
}

/// The order of members is no part of what is said.
fn sorted(word: String) -> String {
    type Members = std::collections::BTreeMap<String, Value>;
    serde_json::from_str::<Members>(&word).map_or(word, |members| serde_json::to_string(&members).unwrap())
}

#[test]
fn the_whole_command_line_is_as_written_here() {
    let words = line(&spec(), Hardware::Tcg);
    let mut lines = String::new();
    for word in &words {
        let separator = if word.starts_with('-') { "\n" } else { " " };
        lines.push_str(separator);
        lines.push_str(word);
    }
    let expected = include_str!("tests.snapshot");
    assert_eq!(lines.trim(), expected.trim(), "\nnew command line:\n{lines}\n");
}

#[test]
fn uefi_is_in_the_flashes_of_the_machine_and_its_variables_are_no_device() {
    let mut spec = spec();
    spec.definition.firmware = Firmware::Uefi { variables: Some("/vm/vars.qcow2".into()) };
    let refused = arguments(&QemuConfig::default(), &RuntimeLayout::new("/run/vm"), &spec, Hardware::Tcg);
    assert!(refused.unwrap_err().contains("variables"));
    let layers = [("d", "/vm/vars.qcow2"), ("e", "/vm/vars-e.qcow2")];
    let layers = layers.map(|(digit, path)| LayerFile {
        id: digit.repeat(24).parse().unwrap(),
        path: path.into(),
        format: DiskFormat::Qcow2,
    });
    spec.chains.push(DiskChain { disk: DiskName::uefi_variables(), layers: layers.to_vec() });
    let words = line(&spec, Hardware::Tcg).join("\n");
    let head = "e".repeat(24);
    assert!(words.contains(&format!("pc-q35-7.2,pflash0=firmware,pflash1=L{head}")), "{words}");
    assert!(words.contains(&format!("\"node-name\":\"L{head}\",\"read-only\":false")), "{words}");
    assert!(words.contains("OVMF_CODE_4M.fd\",\"read-only\":true"), "{words}");
    assert!(!words.contains("disk-uefi-vars"), "{words}");
    assert!(words.contains("\"bootindex\":2,\"bus\":\"ide.0\""), "it has no place in the order of boots: {words}");
}

#[test]
fn hardware_brings_the_hosts_cpu() {
    let words = line(&spec(), Hardware::Kvm).join(" ");
    assert!(words.contains("-accel kvm -cpu host"), "{words}");
}

#[test]
fn a_fresh_start_awaits_no_memory_and_a_disk_without_layer_is_refused() {
    let mut spec = spec();
    spec.mode = StartMode::Fresh;
    spec.tpm = None;
    assert!(!line(&spec, Hardware::Tcg).join(" ").contains("tpm"));
    assert!(!line(&spec, Hardware::Tcg).contains(&"-incoming".to_owned()));
    spec.chains[0].layers.clear();
    let refused = arguments(&QemuConfig::default(), &RuntimeLayout::new("/run/vm"), &spec, Hardware::Tcg);
    assert!(refused.unwrap_err().contains("system"));
}
