//! Disks of backups over NBD, on real images: what is read is what is there, and nothing of it stays.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use stillpoint_common::{BackupId, DiskFormat, LayerFile, LayerId};
use stillpoint_engine::ports::Endpoints as _;
use stillpoint_qemu::{QemuConfig, QemuEndpoints};
use stillpoint_tests::sim_host::disk;
use stillpoint_transfer::NbdDisk;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(10);

/// Runs a program of QEMU; answers what it printed.
fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("it is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// A disk of 64 MiB of two layers: data in the lower one, some of which the upper one has overwritten, or made zeros.
fn layered(folder: &Path) -> LayerFile {
    let path = |name: &str| folder.join(name).display().to_string();
    let (lower, upper) = (path("lower.qcow2"), path("upper.qcow2"));
    tool("qemu-img", &["create", "-q", "-f", "qcow2", &lower, "64M"]);
    tool("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 3M", "-c", "write -P 2 40M 1M", &lower]);
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &lower, "-F", "qcow2", &upper]);
    tool("qemu-io", &["-f", "qcow2", "-c", "write -P 3 1M 1M", "-c", "write -z 2M 1M", &upper]);
    LayerFile { id: LayerId::generate(), path: upper.into(), format: DiskFormat::Qcow2 }
}

/// Processes that serve below this folder.
fn serving(folder: &Path) -> usize {
    let of = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
    let folder = folder.display().to_string();
    let all = std::fs::read_dir("/proc").expect("it is there").flatten().map(of);
    all.filter(|line| line.starts_with(b"qemu-nbd") && String::from_utf8_lossy(line).contains(&folder)).count()
}

/// What the disk reads as, and how many bytes of it were told to be zeros without being sent.
async fn read(socket: &Path) -> (Vec<u8>, u64) {
    let mut disk = NbdDisk::connect(socket, LIMIT).await.expect("it serves");
    let (mut all, mut zeros) = (Vec::new(), 0);
    while (all.len() as u64) < disk.size() {
        let at = all.len() as u64;
        let (length, is_zero) = disk.alike(at..disk.size()).await.expect("it tells");
        if is_zero {
            zeros += length;
            all.resize(all.len() + usize::try_from(length).expect("it is small"), 0);
        } else {
            all.extend(disk.read(at, u32::try_from(length).expect("it is small")).await.expect("it reads"));
        }
    }
    disk.close().await;
    (all, zeros)
}

#[tokio::test]
async fn a_disk_is_served_as_it_is_to_our_own_client_and_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let (head, run) = (layered(folder.path()), folder.path().join("nbd"));
    let endpoints = QemuEndpoints::new(&QemuConfig::from_environment(), &run);
    let backup = BackupId::generate();
    let socket = endpoints.open(backup, &disk("data"), &head).await.unwrap();
    assert_eq!(endpoints.open(backup, &disk("data"), &head).await.unwrap(), socket, "it serves already");
    assert_eq!(serving(&run), 1);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    let raw = folder.path().join("raw");
    tool("qemu-img", &["convert", "-O", "raw", &head.path.display().to_string(), &raw.display().to_string()]);
    let (content, zeros) = read(&socket).await;
    assert!(content == std::fs::read(&raw).unwrap(), "it reads as the layers do");
    assert_eq!(zeros, 61 * MIB, "three MiB are data: 1, 3 and 2");
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, &raw.display().to_string()]);
    let map: serde_json::Value = serde_json::from_str(&tool("qemu-img", &["map", "--output=json", &uri])).unwrap();
    let data = map.as_array().unwrap().iter().filter(|extent| extent["zero"] == false);
    let bytes: u64 = data.map(|extent| extent["length"].as_u64().unwrap()).sum();
    assert_eq!(bytes, 3 * MIB, "{map}");
    let write = Command::new("qemu-io").args(["-f", "raw", "-c", "write 0 4k", &uri]).output().unwrap();
    assert!(!write.status.success(), "nobody writes to it");
    // A read that goes beyond the end, and then nothing more over this connection.
    let mut reader = NbdDisk::connect(&socket, LIMIT).await.unwrap();
    assert!(reader.read(64 * MIB, 4096).await.is_err());
    endpoints.close(backup).await.unwrap();
    assert_eq!((serving(&run), std::fs::read_dir(&run).unwrap().count()), (0, 0));
    assert!(NbdDisk::connect(&socket, LIMIT).await.is_err());
}

#[tokio::test]
async fn what_an_earlier_service_has_left_is_ended_and_one_that_died_is_served_again() {
    let folder = tempfile::tempdir().unwrap();
    let (head, run) = (layered(folder.path()), folder.path().join("nbd"));
    let config = QemuConfig::from_environment();
    let (first, second) = (BackupId::generate(), BackupId::generate());
    let earlier = QemuEndpoints::new(&config, &run);
    let served: PathBuf = earlier.open(first, &disk("data"), &head).await.unwrap();
    earlier.open(second, &disk("data"), &head).await.unwrap();
    drop(earlier);
    assert_eq!(serving(&run), 2, "they outlive the service");
    let later = QemuEndpoints::new(&config, &run);
    later.close(second).await.unwrap();
    assert_eq!(serving(&run), 1, "each session is its own");
    // It dies by itself: the pid is in its own file.
    let text = std::fs::read_to_string(served.parent().unwrap().join("process")).unwrap();
    let pid = text.split(' ').next().unwrap();
    tool("kill", &["-KILL", pid]);
    let again = later.open(first, &disk("data"), &head).await.unwrap();
    assert_eq!((read(&again).await.0.len() as u64, serving(&run)), (64 * MIB, 1));
    later.close_all().await.unwrap();
    assert_eq!((serving(&run), std::fs::read_dir(&run).unwrap().count()), (0, 0));
    later.close_all().await.unwrap();
    // What cannot be served says why, and leaves nothing.
    let missing = LayerFile { path: folder.path().join("none"), ..head };
    let error = later.open(first, &disk("data"), &missing).await.unwrap_err().to_string();
    assert!(error.contains("none"), "{error}");
    assert_eq!((serving(&run), std::fs::read_dir(&run).unwrap().count()), (0, 0));
}
