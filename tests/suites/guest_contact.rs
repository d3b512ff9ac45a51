//! Contact with the agent of a real guest, and the values that host and guest tell each other.

use std::time::Duration;

use stillpoint_tests::{guest_image::GuestSet, lab::LabChannel, service::Service};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// The answer of a command that has to end well, as JSON.
async fn json(service: &Service, arguments: &[&str]) -> Tested<serde_json::Value> {
    let (out, error, code) = service.stillpoint(&[arguments, &["--json"]].concat()).await?;
    if code != 0 {
        return Err(format!("{arguments:?}: {out}{error}").into());
    }
    Ok(serde_json::from_str(&out)?)
}

/// The state of one service of the agent.
async fn state(service: &Service, name: &str) -> Tested<String> {
    let listed = json(service, &["guest", "services", "web"]).await?;
    let services = listed["services"].as_array().cloned().unwrap_or_default();
    let found = services.iter().find(|it| it["service"] == name).ok_or_else(|| format!("no {name} in {listed}"))?;
    Ok(found["state"].as_str().unwrap_or_default().to_owned())
}

/// Waits until the guest has this for a value of its host.
async fn has(lab: &LabChannel, key: &str, value: &str) -> Tested {
    let mut said = String::new();
    for _ in 0..300 {
        let answer = lab.run_within(&format!("stillpoint-agent values get {key}"), Duration::from_secs(10)).await?;
        if answer.output == value {
            return Ok(());
        }
        said = answer.output;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("{key} is {said:?}, not {value:?}").into())
}

#[tokio::test(flavor = "multi_thread")]
async fn host_and_guest_tell_each_other_values_and_a_silent_agent_is_told_of() -> Tested {
    let set = GuestSet::new()?;
    let service = Service::start(set.path()).await?;
    let (vm, lab) = service.boot("web", &set).await?;
    let client = service.client().await?;

    // From the host to the guest, at once.
    let told = json(&service, &["guest", "set", "web", "role=front end", "site=north"]).await?;
    assert_eq!((&told["given"], &told["host"][0]["value"]), (&true.into(), &"front end".into()));
    has(&lab, "role", "front end").await?;
    let file: serde_json::Value = serde_json::from_str(&lab.sh("cat /run/stillpoint/host-values.json").await?)?;
    assert_eq!(file, serde_json::json!({"role": "front end", "site": "north"}));
    json(&service, &["guest", "unset", "web", "site"]).await?;
    has(&lab, "site", "").await?;

    // From the guest to the host, with what the agent says by itself.
    lab.sh("stillpoint-agent values set state 'up and running'").await?;
    let value = async |key: &str| json(&service, &["guest", "get", "web", key]).await.map(|it| it["value"].clone());
    assert_eq!(value("state").await?, "up and running");
    assert_eq!(value("OSKernel").await?, lab.sh("uname -r").await?.trim());
    assert_eq!(value("FullyQualifiedDomainName").await?, lab.sh("uname -n").await?.trim());
    assert_eq!(value("IntegrationServicesVersion").await?, env!("CARGO_PKG_VERSION"));
    lab.sh("stillpoint-agent values unset state").await?;
    let listed = json(&service, &["guest", "list", "web"]).await?;
    assert_eq!((&listed["guest"], &listed["unreachable"]), (&serde_json::json!([]), &"".into()));

    // A guest of the past has the values of now, and so has one whose agent was killed.
    client
        .wait(&client.create_checkpoint(&vm, "one", Some(stillpoint_common::CheckpointPolicy::Standard)).await?.id)
        .await?;
    json(&service, &["guest", "set", "web", "role=back end"]).await?;
    let id = client.list_checkpoints(&vm).await?[0].id;
    client.wait(&client.apply_checkpoint(&vm, id).await?.id).await?;
    let lab = service.lab().await?;
    has(&lab, "role", "back end").await?;

    // How it stands with the agent.
    for name in ["QUIESCE", "SHUTDOWN", "TIME_SYNC", "HEARTBEAT", "KEY_VALUES"] {
        assert_eq!(state(&service, name).await?, "OK", "{name}");
    }
    let before = json(&service, &["guest", "services", "web"]).await?["last_heard_time"].clone();
    lab.sh("agent kill").await?;
    assert_eq!(state(&service, "HEARTBEAT").await?, "LOST_COMMUNICATION");
    let silent = json(&service, &["guest", "services", "web"]).await?["last_heard_time"].clone();
    assert!(before.is_string() && silent.as_str() >= before.as_str(), "{before} and then {silent}");
    let said = json(&service, &["guest", "set", "web", "role=reserve"]).await?;
    assert_eq!(said["given"], false);
    lab.sh("agent start").await?;
    has(&lab, "role", "reserve").await?;
    assert_eq!(state(&service, "HEARTBEAT").await?, "OK");
    json(&service, &["vm", "set", "web", "--service-off", "heartbeat"]).await?;
    assert_eq!(
        (state(&service, "HEARTBEAT").await?, state(&service, "QUIESCE").await?),
        ("SWITCHED_OFF".into(), "OK".into())
    );
    client.wait(&client.stop_vm(&vm, true).await?.id).await?;
    assert_eq!(state(&service, "KEY_VALUES").await?, "NOT_RUNNING");
    Ok(())
}
