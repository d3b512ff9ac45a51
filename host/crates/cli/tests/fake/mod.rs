//! A service with canned answers, on a unix socket of its own. Requests go through the real conversion, so that what
//! the program sends is checked as the real service would.

mod backups;
mod canned;
mod services;
mod transfers;

pub(crate) use canned::{CLEAN, HANGING, TWIN_A, TWIN_B, UPGRADE};

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use stillpoint_proto::{
    longrunning::operations_server::OperationsServer,
    v1::{
        backups_server::BackupsServer, checkpoints_server::CheckpointsServer, guests_server::GuestsServer,
        host_service_server::HostServiceServer, images_server::ImagesServer,
        operations_extra_server::OperationsExtraServer, transfers_server::TransfersServer,
        virtual_machines_server::VirtualMachinesServer,
    },
};
use tempfile::TempDir;
use tokio::{net::UnixListener, runtime::Runtime};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

/// The reference point of VM `web`.
pub(crate) const POINT: &str = "01a20587-7064-759c-80ee-b06a56594700";

/// The backup session of VM `web`.
pub(crate) const SESSION: &str = "01a20587-7064-759c-80ee-b06a56594701";

/// Serves until it is dropped.
pub(crate) struct Fake {
    /// A folder for the test's own files; the socket is in it too.
    pub(crate) folder: TempDir,
    asked: Asked,
    runtime: Runtime,
}

/// What was asked of the service, one line a call that changes something.
#[derive(Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    pub(crate) fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

impl Fake {
    pub(crate) fn start() -> Self {
        let (folder, asked) = (tempfile::tempdir().unwrap(), Asked::default());
        let runtime =
            serve(&folder.path().join("api.sock"), services::Service { asked: asked.clone(), restarted: false });
        Self { folder, asked, runtime }
    }

    /// Breaks every connection, and serves again; the operation that never ended has ended meanwhile.
    pub(crate) fn restart(self) -> Self {
        let Self { folder, asked, runtime } = self;
        drop(runtime);
        let socket = folder.path().join("api.sock");
        std::fs::remove_file(&socket).unwrap();
        let runtime = serve(&socket, services::Service { asked: asked.clone(), restarted: true });
        Self { folder, asked, runtime }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.0.lock().unwrap().clone()
    }
}

fn serve(socket: &Path, service: services::Service) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(async { UnixListener::bind(socket) }).unwrap();
    let router = Server::builder()
        .add_service(VirtualMachinesServer::new(service.clone()))
        .add_service(CheckpointsServer::new(service.clone()))
        .add_service(GuestsServer::new(service.clone()))
        .add_service(HostServiceServer::new(service.clone()))
        .add_service(ImagesServer::new(service.clone()))
        .add_service(TransfersServer::new(service.clone()))
        .add_service(BackupsServer::new(service.clone()))
        .add_service(OperationsServer::new(service.clone()))
        .add_service(OperationsExtraServer::new(service));
    runtime.spawn(router.serve_with_incoming(UnixListenerStream::new(listener)));
    runtime
}
