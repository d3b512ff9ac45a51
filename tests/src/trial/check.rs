//! What must hold after a trial, whatever was done and whatever went wrong.

use std::collections::BTreeMap;

use stillpoint_common::{
    CheckpointId, CheckpointState, Consistency, OperationKind, OperationState, Outcome, PowerState, Reason,
};
use stillpoint_engine::{CheckpointView, Request, VmView};

use super::{Act, LEASE, Trial, client::RENAMED};

impl Trial {
    pub(super) fn production(&self) -> CheckpointId {
        self.production.expect("the act needs checkpoints")
    }

    pub(super) fn standard(&self) -> CheckpointId {
        self.standard.expect("the act needs checkpoints")
    }

    /// Asserts all that must hold while nothing is at work.
    ///
    /// # Panics
    /// If something does not.
    pub async fn check(&mut self, what: &str) {
        self.host.world.assert_sound();
        match self.host.engine.vm(&self.host.vm()).await {
            Ok(view) => self.check_vm(view, what).await,
            Err(failure) => self.check_gone(failure.reason, what),
        }
        tokio::time::sleep(LEASE).await;
        assert!(self.host.world.never_held_longer_than(LEASE), "{what}: the guest was held too long");
        self.host.world.assert_sound();
    }

    async fn check_vm(&mut self, view: VmView, what: &str) {
        assert!(!(self.act == Act::DeleteVm && self.told.is_done()), "{what}: the VM was said to be gone");
        self.check_operations(what).await;
        self.check_checkpoints(what).await;
        self.check_power(view.power, what);
        // What a failure has left is collected by the next start at the latest.
        self.recovered().await;
        self.check_operations(what).await;
        self.check_checkpoints(what).await;
        self.check_files(what).await;
        self.check_now(what).await;
    }

    fn check_gone(&self, reason: Reason, what: &str) {
        assert_eq!((self.act, reason), (Act::DeleteVm, Reason::VmNotFound), "{what}");
        for image in ["/vm/system.qcow2", "/vm/data.qcow2"] {
            assert_eq!(self.host.world.read(image, 1), Some(3), "{what}: {image} keeps the data");
        }
        assert_eq!(self.host.world.files().len(), 2, "{what}: {:?}", self.host.world.files());
        assert_eq!(self.host.world.descriptions(), [].into(), "{what}: described");
    }

    /// Every operation has ended, and what was told of it stays true.
    async fn check_operations(&self, what: &str) {
        for operation in self.host.engine.operations().await.expect("the catalogue can be read") {
            assert!(operation.state != OperationState::Running, "{what}: an operation that never ends: {operation:?}");
        }
        let (Some(id), Some(told)) = (self.told.operation, &self.told.end) else { return };
        let stored = self.host.engine.operation(id).await.expect("it is remembered");
        match (told, &stored.state) {
            (Ok(told), OperationState::Done(stored)) => assert_eq!(told, stored, "{what}"),
            (Err(_), OperationState::Failed(_)) => {}
            (told, stored) => panic!("{what}: told {told:?}, stored {stored:?}"),
        }
    }

    /// How the operation ended; `None` if there is none.
    async fn outcome(&self) -> Option<Result<Outcome, Reason>> {
        let state = self.host.engine.operation(self.told.operation?).await.expect("it is remembered").state;
        match state {
            OperationState::Done(outcome) => Some(Ok(outcome)),
            OperationState::Failed(failure) => Some(Err(failure.reason)),
            OperationState::Running => None,
        }
    }

    async fn check_checkpoints(&self, what: &str) {
        let host = &self.host;
        let mut present: BTreeMap<CheckpointId, CheckpointView> =
            host.checkpoints().await.into_iter().map(|view| (view.checkpoint.id, view)).collect();
        let outcome = self.outcome().await;
        let (going, done) = (self.act.deletes(self), matches!(outcome, Some(Ok(_))));
        let left = present.values().filter(|view| view.checkpoint.state == CheckpointState::Ready);
        let left = left.filter(|view| going.contains(&view.checkpoint.id)).count();
        assert!(left == 0 || left == going.len(), "{what}: of {} checkpoints that go {left} are left", going.len());
        for (id, content) in &self.contents {
            let goes = going.contains(id);
            match present.remove(id) {
                Some(view) if view.checkpoint.state == CheckpointState::Ready => {
                    assert_eq!(host.content(&view), *content, "{what}: a checkpoint has changed");
                    assert!(!(goes && done), "{what}: it was said to be deleted");
                }
                Some(_) => assert!(goes, "{what}: a checkpoint is on its way out"),
                None => assert!(goes, "{what}: a checkpoint is lost"),
            }
        }
        match (present.into_values().collect::<Vec<_>>().as_slice(), outcome) {
            ([], Some(Ok(_))) if self.act.keeps_now() => panic!("{what}: what was Now is not kept"),
            ([], Some(Ok(Outcome::Checkpoint(id)))) => panic!("{what}: the checkpoint {id} was promised"),
            ([], _) => {}
            ([new], Some(Ok(Outcome::Checkpoint(id)))) => {
                assert_eq!(new.checkpoint.id, id, "{what}");
                self.is_what_now_was(new, what);
            }
            ([kept], _) if self.act.keeps_now() => self.is_what_now_was(kept, what),
            (new, outcome) => panic!("{what}: {} checkpoints more, and the end was {outcome:?}", new.len()),
        }
        if self.act == Act::DeleteMemory {
            let standard = host.checkpoint(self.standard()).await;
            let kept = standard.checkpoint.memory.is_some();
            assert!(!(kept && done), "{what}: its memory was said to be gone");
            assert_eq!(standard.checkpoint.consistency == Consistency::Memory, kept, "{what}");
            assert_eq!(standard.missing, [""; 0].map(std::path::PathBuf::from), "{what}: it promises a memory");
        }
        if self.act == Act::Rename && self.told.is_done() {
            assert_eq!(host.checkpoint(self.production()).await.checkpoint.name.as_str(), RENAMED, "{what}");
        }
        assert!(self.act.creates() || !matches!(self.told.end, Some(Ok(Outcome::Checkpoint(_)))), "{what}");
    }

    fn is_what_now_was(&self, new: &CheckpointView, what: &str) {
        for content in self.host.content(new).values() {
            let blocks = [1, 2].map(|block| content.get(&block).copied());
            assert_eq!(blocks, [Some(3), Some(3)], "{what}: the new checkpoint is not what Now was");
        }
    }

    fn check_power(&self, power: PowerState, what: &str) {
        let fine = power == PowerState::Running || self.act.may_leave_it(power, self.told.is_done());
        assert!(fine, "{what}: the VM is {power:?}; the client was told {:?}", self.told.end);
    }

    async fn check_files(&self, what: &str) {
        let referenced = self.host.referenced().await;
        assert_eq!(self.host.world.orphans(&referenced), [].into(), "{what}: left over");
        assert_eq!(self.host.world.missing(&referenced), [].into(), "{what}: missing");
        self.host.assert_described().await;
        let tpm = self.host.engine.vm(&self.host.vm()).await.expect("it is there").vm.tpm;
        assert_eq!(self.host.world.tpm_folders(), Vec::from_iter(tpm), "{what}: folders of TPMs");
        let processes = self.host.world.instances(&self.host.vm());
        assert!(processes.len() <= 1, "{what}: {} processes of the VM", processes.len());
        if self.act == Act::Export {
            let is_there = self.host.world.manifest("/exports/one").is_some();
            assert!(is_there || !self.told.is_done(), "{what}: the client was told that the export is done");
            let operations = self.host.engine.operations().await.expect("they can be read");
            let known = operations.iter().find(|operation| operation.kind == OperationKind::ExportCheckpoint);
            let is_done = known.is_some_and(|known| matches!(known.state, OperationState::Done(_)));
            assert_eq!(is_there, is_done, "{what}: {known:?}");
        }
    }

    /// The VM goes on, reads what it should, and can write.
    async fn check_now(&self, what: &str) {
        let host = &self.host;
        let power = host.engine.vm(&host.vm()).await.expect("it is there").power;
        match power {
            PowerState::Off | PowerState::Saved => {
                drop(host.run(Request::Start).await.unwrap_or_else(|e| panic!("{what}: start: {e}")))
            }
            PowerState::Paused => {
                drop(host.run(Request::Resume).await.unwrap_or_else(|e| panic!("{what}: resume: {e}")))
            }
            PowerState::Running => {}
            other => panic!("{what}: the VM is {other:?}"),
        }
        let now = (host.read(1), host.read(2));
        let applied = self.act.applied();
        let fine = Some(now) == applied || (now == (3, 3) && (applied.is_none() || !self.told.is_done()));
        assert!(fine, "{what}: Now reads {now:?}, the client was told {:?}", self.told.end);
        assert_eq!(host.world.read_tpm(&host.vm()), Some(now.0), "{what}: the TPM is that of Now");
        host.write(9, 9);
        assert_eq!(host.read(9), 9, "{what}: the VM can write");
    }
}
