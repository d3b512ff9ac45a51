use stillpoint_common::{AcceleratorChoice, DiskDefinition, DiskFormat, LayerFile, PassThroughDisk, VmDefinition};
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
fn hardware_brings_the_hosts_cpu() {
    let words = line(&spec(), Hardware::Kvm).join(" ");
    assert!(words.contains("-accel kvm -cpu host"), "{words}");
}

#[test]
fn a_fresh_start_awaits_no_memory_and_a_disk_without_layer_is_refused() {
    let mut spec = spec();
    spec.mode = StartMode::Fresh;
    assert!(!line(&spec, Hardware::Tcg).contains(&"-incoming".to_owned()));
    spec.chains[0].layers.clear();
    let refused = arguments(&QemuConfig::default(), &RuntimeLayout::new("/run/vm"), &spec, Hardware::Tcg);
    assert!(refused.unwrap_err().contains("system"));
}
