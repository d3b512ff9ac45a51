//! The service itself, before any VM: what it serves, to whom, and how it begins and ends.

use std::{error::Error, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Stdio};

use hyper_util::rt::TokioIo;
use stillpoint_tests::{programs::program, service::Service};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

type Tested = Result<(), Box<dyn Error>>;

fn folder() -> std::io::Result<TempDir> {
    tempfile::Builder::new().prefix("sp-").tempdir_in("/tmp")
}

async fn channel(socket: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let dial = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://service").connect_with_connector(dial).await
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_are_served_to_the_owner_of_the_socket() -> Tested {
    let folder = folder()?;
    let service = Service::start(folder.path()).await?;
    assert_eq!(std::fs::metadata(service.socket())?.permissions().mode() & 0o777, 0o600);
    let channel = channel(service.socket()).await?;

    let asked = HealthCheckRequest { service: "stillpoint.v1.Checkpoints".to_owned() };
    let health = HealthClient::new(channel.clone()).check(asked).await?.into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);

    let list = MessageRequest::ListServices(String::new());
    let asked = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut answers =
        ServerReflectionClient::new(channel).server_reflection_info(tokio_stream::once(asked)).await?.into_inner();
    let answer = answers.message().await?.ok_or("no answer")?;
    let Some(MessageResponse::ListServicesResponse(listed)) = answer.message_response else {
        return Err("no list".into());
    };
    let names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    for name in ["stillpoint.v1.VirtualMachines", "stillpoint.v1.Checkpoints", "google.longrunning.Operations"] {
        assert!(names.iter().any(|known| known == name), "{name} is in {names:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_on_the_same_folders_says_why_it_does_not_start() -> Tested {
    let folder = folder()?;
    let _service = Service::start(folder.path()).await?;
    for socket in ["r/api.sock", "r/other.sock"] {
        let mut second = tokio::process::Command::new(program("stillpointd")?);
        second.arg("--state-folder").arg(folder.path().join("s")).arg("--run-folder").arg(folder.path().join("r"));
        second.arg("--socket").arg(folder.path().join(socket)).stdin(Stdio::null()).kill_on_drop(true);
        let ended = tokio::time::timeout(std::time::Duration::from_secs(20), second.output()).await??;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains("another"), "{said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_when_it_is_told_to_and_starts_again_over_its_folders() -> Tested {
    let folder = folder()?;
    let mut service = Service::start(folder.path()).await?;
    service.terminate().await?;
    assert!(!service.socket().exists(), "the socket is taken away");
    let (_, said, code) = service.stillpoint(&["vm", "list"]).await?;
    assert_eq!(code, 3);
    assert!(said.contains("api.sock") && said.contains("stillpointd"), "{said}");
    service.start_again().await?;
    let (said, _, code) = service.stillpoint(&["host", "show", "--json"]).await?;
    let said: serde_json::Value = serde_json::from_str(&said)?;
    assert_eq!((code, &said["vms"]), (0, &serde_json::json!(0)));
    Ok(())
}
