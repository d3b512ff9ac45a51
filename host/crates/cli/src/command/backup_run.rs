//! `stillpoint backup run`: one backup of a VM into a folder, over the same calls that are there for everybody.

use std::{collections::BTreeMap, path::Path, time::Duration};

use stillpoint_common::{BackupId, BackupType, Consistency, DiskName};
use stillpoint_proto::convert::names;

use super::{
    Context,
    backup_base::{Base, base, tidy},
    session,
};
use crate::{
    CliError,
    args::RunBackup,
    client::{ClientError, DiskPart, NewBackup},
    output::{Answer, note, text},
    repository::{BackedUpDisk, Kind, Manifest, Partial, Repository, blocks::BlockWriter, failed, file_of},
    view::{Backup, BackupState, ByteRange},
};

/// How long the service waits for a sign of life of this program. Reading is one.
const LEASE: Duration = Duration::from_secs(300);
const CHANGES_UNKNOWN: &str = "CHANGES_UNKNOWN";
const BUSY: &str = "VM_BUSY";
/// Between two tries to complete a session while something else is at work on the VM.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn run(context: &Context, asked: &RunBackup) -> Result<Answer, CliError> {
    let repository = Repository::open_or_make(&asked.to)?;
    let _alone = repository.lock()?;
    tidy(context, &repository, &asked.vm).await?;
    let last = repository.numbers()?.into_iter().next_back();
    if let Some(Ok((manifest, _))) = last.map(|last| repository.manifest(last))
        && manifest.vm != asked.vm
    {
        let advice = "give each VM a folder of its own";
        return Err(CliError::usage(format!("the folder has backups of VM {}", manifest.vm), advice));
    }
    let (base, why_full) = match last {
        Some(last) if !asked.full => base(context, &repository, &asked.vm, last).await?,
        Some(_) => (None, "it was asked for".to_owned()),
        None => (None, "it is the first one".to_owned()),
    };
    let number = last.map_or(1, |last| last + 1);
    let mut round = Round { context, asked, repository, number, base, why_full };
    let backup = round.begin().await?;
    match round.copy(&backup).await {
        Ok(manifest) => round.end(backup.id, &manifest).await,
        Err(error) => {
            // A session that cannot be ended now is ended by the next run, which finds its name in what is left.
            if context.client.abort_backup(&asked.vm, backup.id).await.is_ok() {
                round.repository.remove_partial(number)?;
            }
            Err(error)
        }
    }
}

struct Round<'a> {
    context: &'a Context,
    asked: &'a RunBackup,
    repository: Repository,
    number: u32,
    base: Option<Base>,
    why_full: String,
}

impl Round<'_> {
    async fn begin(&self) -> Result<Backup, CliError> {
        let usual = if self.base.is_some() { BackupType::Incremental } else { BackupType::Full };
        let new = NewBackup {
            consistency: Consistency::Application,
            least: self.asked.least.map(Into::into),
            backup_type: self.asked.backup_type.map_or(usual, Into::into),
            lease: LEASE,
            from_point: self.base.as_ref().map(|base| base.point.clone()).unwrap_or_default(),
        };
        session::open(self.context, &self.asked.vm, new).await
    }

    /// Copies all disks and makes the backup whole. One whose changes are not known after all is begun anew as a full one.
    async fn copy(&mut self, backup: &Backup) -> Result<Manifest, CliError> {
        let partial = self.repository.begin(self.number, &backup.name)?;
        let copied = self.disks(backup, &partial).await;
        match copied {
            Ok(manifest) => self.repository.seal(&partial, &manifest).map(|()| manifest),
            Err(error) => {
                if self.base.is_none() || error.reason() != Some(CHANGES_UNKNOWN) {
                    return Err(error);
                }
                self.repository.remove_partial(self.number)?;
                self.why_full = error.to_string();
                self.base = None;
                let partial = self.repository.begin(self.number, &backup.name)?;
                let manifest = self.disks(backup, &partial).await?;
                self.repository.seal(&partial, &manifest).map(|()| manifest)
            }
        }
    }

    async fn disks(&self, backup: &Backup, partial: &Partial) -> Result<Manifest, CliError> {
        let (_, checkpoint) = names::parse_checkpoint(&backup.checkpoint, "checkpoint").map_err(ClientError::from)?;
        let known = self.context.client.checkpoint(&self.asked.vm, checkpoint).await?;
        let sizes: BTreeMap<DiskName, u64> = match &self.base {
            Some(base) => self.sizes_of(base)?,
            None => BTreeMap::new(),
        };
        let mut disks = Vec::new();
        for disk in &known.disks {
            let disk: DiskName =
                disk.disk.parse().map_err(|_| CliError::usage("a disk has no name", "update the program"))?;
            let since = self.base.as_ref().filter(|_| sizes.contains_key(&disk)).map(|base| base.point.clone());
            disks.push(self.disk(backup.id, checkpoint, disk, since, partial).await?);
        }
        Ok(Manifest {
            format: Manifest::new_format(),
            vm: self.asked.vm.clone(),
            number: self.number,
            kind: if self.base.is_some() { Kind::Incremental } else { Kind::Full },
            previous: self.base.as_ref().map(|base| base.previous.clone()),
            session: backup.name.clone(),
            created: known.create_time,
            consistency: known.consistency,
            backup_type: known.backup_type,
            disks,
        })
    }

    fn sizes_of(&self, base: &Base) -> Result<BTreeMap<DiskName, u64>, CliError> {
        let (manifest, _) = self.repository.manifest(base.previous.number)?;
        Ok(manifest.disks.into_iter().map(|disk| (disk.disk, disk.size)).collect())
    }

    /// Copies what has changed of a disk; all of it that holds data if there is nothing to build on.
    async fn disk(
        &self,
        id: BackupId,
        checkpoint: stillpoint_common::CheckpointId,
        disk: DiskName,
        since: Option<String>,
        partial: &Partial,
    ) -> Result<BackedUpDisk, CliError> {
        let (client, vm, file) = (&self.context.client, &self.asked.vm, file_of(&disk));
        let path = partial.folder.join(&file);
        let kind = if since.is_some() { Kind::Incremental } else { Kind::Full };
        let changed = client.changed_ranges(vm, &disk, since.unwrap_or_default(), checkpoint).await?;
        let mut writer = BlockWriter::create(&path).map_err(failed(&path))?;
        for ByteRange { offset, length } in changed.ranges {
            let mut parts = client.read_disk(vm, id, &disk, offset, length).await?;
            while let Some(part) = parts.next().await? {
                match part {
                    DiskPart::Data(offset, data) => writer.data(offset, &data),
                    DiskPart::Zeros(offset, length) if kind == Kind::Incremental => writer.zeros(offset, length),
                    DiskPart::Zeros(..) => Ok(()),
                }
                .map_err(failed(&path))?;
            }
        }
        let (bytes, blake3) = self.while_it_lasts(id, || writer.finish()).await?.map_err(failed(&path))?;
        Ok(BackedUpDisk { disk, kind, size: changed.to_bytes, file, bytes, blake3 })
    }

    /// Does what may take long and asks the service for nothing, such as syncing; the session is renewed meanwhile.
    async fn while_it_lasts<T: Send + 'static>(
        &self,
        id: BackupId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CliError> {
        let mut work = tokio::task::spawn_blocking(work);
        loop {
            tokio::select! {
                done = &mut work => {
                    return done.map_err(|error| failed(&self.asked.to)(std::io::Error::other(error)));
                }
                () = tokio::time::sleep(LEASE / 4) => drop(self.context.client.renew_backup(&self.asked.vm, id).await?),
            }
        }
    }

    /// The data is safe: now the service may let go, and writers may cut their logs.
    async fn end(&self, id: BackupId, manifest: &Manifest) -> Result<Answer, CliError> {
        let completed = self.complete(id).await?;
        session::warn_of_writers(&completed);
        self.repository.set_point(self.number, &completed.reference_point)?;
        self.forget_old_points().await?;
        let bytes: u64 = manifest.disks.iter().map(|disk| disk.bytes).sum();
        let kind = match manifest.kind {
            Kind::Full => {
                if !self.context.output.json {
                    note(&format!("this is a full backup: {}", self.why_full));
                }
                "full"
            }
            Kind::Incremental => "incremental",
        };
        let said = format!("backup {} ({kind}, {}) is in {}", self.number, text::bytes(bytes), path_of(&self.asked.to));
        let document = serde_json::json!({
            "number": self.number, "kind": manifest.kind, "bytes": bytes, "why_full": self.why_full,
            "reference_point": completed.reference_point, "checkpoint_consistency": manifest.consistency,
        });
        Answer::new(said, &document)
    }
}

impl Round<'_> {
    /// A VM that is busy is waited for: all data is here already.
    async fn complete(&self, id: BackupId) -> Result<Backup, CliError> {
        let (client, vm) = (&self.context.client, &self.asked.vm);
        loop {
            match client.complete_backup(vm, id, true).await.map_err(CliError::from) {
                Err(busy) if busy.reason() == Some(BUSY) => {
                    tokio::time::sleep(PATIENCE).await;
                    client.renew_backup(vm, id).await?;
                }
                Ok(completed) => return Ok(completed),
                // Writers may take longer than an answer may: what counts is what has become of it.
                Err(error) => match client.backup(vm, id).await {
                    Ok(known) if known.state == Some(BackupState::Completed) => return Ok(known),
                    Ok(_) | Err(_) => return Err(error),
                },
            }
        }
    }

    /// A full backup takes the place of what was there: nothing builds on the reference points of those before any more.
    async fn forget_old_points(&self) -> Result<(), CliError> {
        if self.base.is_some() {
            return Ok(());
        }
        for number in self.repository.numbers()?.into_iter().filter(|number| *number < self.number) {
            let old = self.repository.point(number).map(|name| names::parse_reference_point(&name, "reference_point"));
            if let Some(Ok((_, point))) = old {
                // It may be gone already; one that stays is listed, and costs room only.
                let _ = self.context.client.delete_reference_point(&self.asked.vm, point).await;
            }
        }
        Ok(())
    }
}

fn path_of(path: &Path) -> String {
    path.display().to_string()
}
