//! Part three: without its agent a guest still gets a checkpoint, which says what it is; or none, if that was the wish.

use stillpoint_common::{FallbackReason, Kind, PowerState};

use super::{
    Told, files,
    stage::{Stage, word},
};

const NAME: &str = "agent away";

pub(super) async fn play(stage: &mut Stage<'_>) -> Told {
    stage.teller.part("The agent is stopped: no production checkpoint, and nobody is told otherwise");
    let lab = stage.guest().await?;
    lab.sh("agent stop").await?;
    let said = stage.does(&["checkpoint", "create", "web", "--name", NAME]).await?;
    let warned = said.notes.contains("warning: ") && said.notes.contains("AGENT_UNREACHABLE");
    stage.teller.holds("the warning says what was made instead, and why", warned, "AGENT_UNREACHABLE", said.notes)?;
    let made = stage.checkpoint(NAME).await?;
    let is = (made.kind, made.fallback_reason);
    let fell_back = is == (Some(Kind::Standard), Some(FallbackReason::AgentUnreachable));
    stage.teller.holds("the checkpoint itself keeps the reason", fell_back, "STANDARD, AGENT_UNREACHABLE", word(is))?;
    only_production(stage).await?;

    lab.sh("agent start").await?;
    stage.agent_answers().await?;
    stage.teller.say("The agent runs again.");
    stage.does(&["checkpoint", "tree", "web"]).await.map(drop)
}

async fn only_production(stage: &mut Stage<'_>) -> Told {
    stage.teller.say("Who wants a production checkpoint or none:");
    let everything = files::below(stage.set.path())?;
    let (checkpoints, head) = (stage.client.list_checkpoints(&stage.vm).await?, stage.vm().await?.disks);
    let only = ["checkpoint", "create", "web", "--name", "or none", "--policy", "production-only"];
    let said = stage.is_refused(&only).await?;
    let reason = said.notes.contains("QUIESCE_FAILED");
    stage.teller.holds("the error says why", reason, "QUIESCE_FAILED", said.notes)?;

    let now = stage.client.list_checkpoints(&stage.vm).await?;
    stage.teller.same("there is no new checkpoint; the VM has as many as before", now.len(), checkpoints.len())?;
    let new: Vec<_> = files::below(stage.set.path())?.into_iter().filter(|path| !everything.contains(path)).collect();
    stage.teller.same("new files", files::listed(&new), "nothing")?;
    let vm = stage.vm().await?;
    let as_before = vm.state == Some(PowerState::Running) && vm.disks == head;
    stage.teller.holds("the VM runs on the same disk as before", as_before, word(head), word(vm.disks))
}
