//! Serving clients until the service is told to end.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use anyhow::{Context as _, bail};
use stillpoint_proto::{
    DESCRIPTORS,
    longrunning::operations_server::OperationsServer,
    v1::{
        backups_server::BackupsServer, checkpoints_server::CheckpointsServer, events_server::EventsServer,
        guests_server::GuestsServer, host_service_server::HostServiceServer, images_server::ImagesServer,
        operations_extra_server::OperationsExtraServer, transfers_server::TransfersServer,
        virtual_machines_server::VirtualMachinesServer,
    },
};
use tokio::{
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{service::Routes, transport::Server};

use crate::{
    options::Options,
    reserve,
    services::{Backups, Checkpoints, Events, Guests, HostInfo, Images, Operations, Transfers, VirtualMachines},
    wiring::{Wired, wire},
};

/// How long operations at work may hold up the end of the service. What is not done then is undone or finished by the
/// next start.
const DRAIN: Duration = Duration::from_secs(30);
/// How long clients that still watch something may hold up the end of the service.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves clients on the socket until SIGTERM or SIGINT. Running VMs go on without the service.
///
/// # Errors
/// If it cannot start: the message says what stands against it.
pub async fn serve(options: Options) -> anyhow::Result<()> {
    let socket = options.socket();
    let listener = listen(&socket).await?;
    let wired = wire(&options).await?;
    let engine = wired.engine.clone();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let routes = routes(&wired, HostInfo::new(&wired, options.state_folder.clone())).await?;
    let server = Server::builder().add_routes(routes);
    let server = server.serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
        let _ = ended.await;
    });
    tracing::info!(socket = %socket.display(), "serving");
    let server = tokio::spawn(server);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending: operations at work are finished first");
    if tokio::time::timeout(DRAIN, engine.stop()).await.is_err() {
        tracing::warn!("an operation is still at work; the next start of the service goes on with it");
    }
    let _ = end.send(());
    let _ = tokio::time::timeout(FAREWELL, server).await;
    let _ = fs::remove_file(&socket);
    Ok(())
}

async fn routes(wired: &Wired, info: HostInfo) -> anyhow::Result<Routes> {
    let engine = &wired.engine;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<VirtualMachinesServer<VirtualMachines>>().await;
    health.set_serving::<CheckpointsServer<Checkpoints>>().await;
    tokio::spawn(reserve::watch(wired.store.clone(), wired.engine.clone(), health));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    Ok(Routes::new(VirtualMachinesServer::new(VirtualMachines::new(engine.clone())))
        .add_service(CheckpointsServer::new(Checkpoints::new(engine.clone())))
        .add_service(GuestsServer::new(Guests::new(engine.clone())))
        .add_service(ImagesServer::new(Images::new(engine.clone())))
        .add_service(TransfersServer::new(Transfers::new(engine.clone())))
        .add_service(BackupsServer::new(Backups::new(engine.clone())))
        .add_service(EventsServer::new(Events::new(engine.clone())))
        .add_service(HostServiceServer::new(info))
        .add_service(OperationsServer::new(Operations::new(engine.clone())))
        .add_service(OperationsExtraServer::new(Operations::new(engine.clone())))
        .add_service(reflection)
        .add_service(health_service))
}

/// Listens on the socket, which only its owner may connect to. A socket that nobody serves any more is replaced.
async fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    if UnixStream::connect(socket).await.is_ok() {
        bail!("another service is serving on {}", socket.display());
    }
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
