//! `stillpoint backup …`

use super::{Context, backup_run, disk, restore, session};
use crate::{
    CliError,
    args::{BackupCommand, Changed, CheckpointRef},
    output::{Answer, table, text},
    view::{ByteRange, ChangedRanges, ReferencePoint, ReferencePointDisk},
};

pub(super) async fn run(context: &Context, command: &BackupCommand) -> Result<Answer, CliError> {
    match command {
        BackupCommand::Run(asked) => backup_run::run(context, asked).await,
        BackupCommand::Verify { folder } => restore::verify(folder),
        BackupCommand::Restore { folder, at, to } => restore::restore(folder, *at, to),
        BackupCommand::Start(asked) => session::start(context, asked).await,
        BackupCommand::Show(asked) => session::show(context, asked).await,
        BackupCommand::Sessions { vm } => session::sessions(context, vm).await,
        BackupCommand::Renew(asked) => session::renew(context, asked).await,
        BackupCommand::Complete { backup, replace } => session::complete(context, backup, *replace).await,
        BackupCommand::Abort(asked) => session::abort(context, asked).await,
        BackupCommand::ReadDisk { backup, disk, to } => disk::read(context, backup, disk, to).await,
        BackupCommand::OpenDisk { backup, disk } => disk::open(context, backup, disk).await,
        BackupCommand::Changed(asked) => changed(context, asked).await,
        BackupCommand::Points { vm } => {
            let points = context.client.reference_points(vm).await?;
            Answer::new(points_text(&points), &points)
        }
        BackupCommand::KeepPoint(CheckpointRef { vm, checkpoint }) => {
            let checkpoint = context.client.find_checkpoint(vm, checkpoint).await?;
            let point = context.client.create_reference_point(vm, checkpoint.id).await?;
            Answer::new(point.id.to_string(), &point)
        }
        BackupCommand::ForgetPoint { vm, point } => {
            let point = context.client.find_reference_point(vm, point).await?;
            context.client.delete_reference_point(vm, point.id).await?;
            Answer::new(format!("reference point {} is given up", point.id), &point)
        }
    }
}

fn points_text(points: &[ReferencePoint]) -> String {
    let row = |point: &ReferencePoint| {
        let disks: Vec<String> = point.disks.iter().map(disk_text).collect();
        [
            point.id.to_string(),
            point.display_name.clone(),
            point.create_time.map(|time| format!("{time:.0}")).unwrap_or_default(),
            text::word(point.consistency),
            text::word(point.backup_type),
            disks.join(", "),
        ]
    };
    match points {
        [] => "There are no reference points.".to_owned(),
        points => table::table(["id", "made of", "when", "consistency", "type", "disks"], points.iter().map(row)),
    }
}

fn disk_text(disk: &ReferencePointDisk) -> String {
    match disk.lost.as_str() {
        "" => disk.disk.clone(),
        why => format!("{} (what has changed is not known: {why})", disk.disk),
    }
}

async fn changed(context: &Context, asked: &Changed) -> Result<Answer, CliError> {
    let Changed { vm, disk, from, from_point, to } = asked;
    let client = &context.client;
    // That of a backup session is not listed: its id names it.
    let to = match to.parse() {
        Ok(id) => id,
        Err(_) => client.find_checkpoint(vm, to).await?.id,
    };
    let from = match (from, from_point) {
        (Some(from), _) => client.find_checkpoint(vm, from).await?.name,
        (None, Some(point)) => client.find_reference_point(vm, point).await?.name,
        (None, None) => String::new(),
    };
    let changed = client.changed_ranges(vm, disk, from, to).await?;
    Answer::new(changed_text(&changed), &changed)
}

fn changed_text(changed: &ChangedRanges) -> String {
    let row = |range: &ByteRange| [range.offset.to_string(), range.length.to_string()];
    let (bytes, size) = (text::bytes(changed.changed_bytes), text::bytes(changed.to_bytes));
    let total = format!("{bytes} of {size}");
    match changed.ranges.is_empty() {
        true => total,
        false => format!("{}\n{total}", table::table(["offset", "length"], changed.ranges.iter().map(row))),
    }
}
