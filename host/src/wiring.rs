//! The engine on QEMU, files and guests.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use stillpoint_common::{WriterPolicy, WriterRequest};
use stillpoint_engine::{Engine, EngineConfig, Ports, layout::RuntimeLayout, ports::SystemClock};
use stillpoint_guestlink::{GuestLinks, Limits};
use stillpoint_memory::FileMemoryStates;
use stillpoint_qemu::{PageServer, QemuConfig, QemuEndpoints, QemuHypervisor, QemuImages, QemuTpmStates};
use stillpoint_store::{FileDescriptions, RedbStore};
use stillpoint_transfer::FolderExports;

use crate::{options::Options, pages::SERVE_PAGES};

/// The engine, and what the host service asks of QEMU itself.
pub(crate) struct Wired {
    pub(crate) engine: Engine,
    pub(crate) hypervisor: Arc<QemuHypervisor>,
    pub(crate) store: Arc<RedbStore>,
}

/// Makes the folders, opens the store and starts the engine.
pub(crate) async fn wire(options: &Options) -> anyhow::Result<Wired> {
    let instances = options.run_folder.join("vm");
    for folder in [&options.state_folder, &instances] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let layout = RuntimeLayout::new(instances);
    let (path, reserve) = (options.state_folder.join("catalogue.redb"), u64::from(options.journal_reserve) << 20);
    let store = RedbStore::open_with_reserve(path, reserve).await.with_context(|| {
        format!("cannot open the catalogue in {}; does another stillpointd use it?", options.state_folder.display())
    })?;
    let store = Arc::new(store);
    let mut qemu = QemuConfig::from_environment();
    qemu.page_server = page_server();
    let nbd = qemu.clone();
    let hypervisor = Arc::new(QemuHypervisor::new(qemu.clone(), layout.clone()));
    let ports = Ports {
        hypervisor: hypervisor.clone(),
        tpm: Arc::new(QemuTpmStates::new(&qemu)),
        images: Arc::new(QemuImages::new(qemu)),
        memory: Arc::new(FileMemoryStates::default()),
        descriptions: Arc::new(FileDescriptions),
        guest: GuestLinks::new(Limits::default(), move |instance| Some(layout.agent_socket(instance))),
        endpoints: Arc::new(QemuEndpoints::new(&nbd, options.run_folder.join("nbd"))),
        exports: Arc::new(FolderExports),
        sources: Arc::new(FolderExports),
        store: store.clone(),
        clock: Arc::new(SystemClock),
    };
    let mut config = EngineConfig::new(options.state_folder.join("checkpoints"));
    config.lease = Duration::from_secs(options.lease_seconds);
    config.space.keep_free = u64::from(options.keep_free) << 20;
    config.space.layer_room = u64::from(options.layer_room) << 20;
    config.writers = writers(options);
    config.load_by_page = !options.load_whole;
    // Without it no VM is ever taken for one that ended with the host; a system without /proc has no QEMU either.
    config.host_boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let engine = Engine::open(ports, config).await.context("cannot read the catalogue")?;
    Ok(Wired { engine, hypervisor, store })
}

/// The program that runs, in another mode: this very file, also when another one has taken its name or it has none any
/// more. Where it cannot be told which that is, memories are loaded as a whole.
fn page_server() -> Option<PageServer> {
    let program = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    fs::metadata(&program).ok()?;
    Some(PageServer { program, arguments: vec![SERVE_PAGES.to_owned()] })
}

/// Writers have at least ten seconds to become quiet before file systems are held, whatever the lease is.
fn writers(options: &Options) -> WriterRequest {
    let window = options.writer_window_seconds.max(options.lease_seconds + 10);
    let policy = if options.leave_out_writers { WriterPolicy::LeaveOut } else { WriterPolicy::Required };
    WriterRequest { window: Duration::from_secs(window), policy, ..WriterRequest::default() }
}
