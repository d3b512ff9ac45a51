//! `stillpoint vm …`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use stillpoint_common::{AcceleratorChoice, Label, VmId};

use super::{Consent, CriticalFlags, ImportVm, PolicyArg, SetVms, VmChoice, Waiting, parse};
use crate::view::{Disk, Medium, Nic, PassThroughDisk};

/// What can be done with VMs.
#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// Define a VM, from flags or from a JSON file. It is off afterwards.
    Create(Box<CreateVm>),
    /// Make a VM of an export: off, or saved if the export has a memory. On failure nothing of it is left.
    Import(Box<ImportVm>),
    /// List the VMs.
    List {
        /// Which of them.
        #[command(flatten)]
        which: VmChoice,
    },
    /// Show one VM.
    Show {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
        /// Show what it is made of, all of it: CPUs, memory, boot, disks, network cards.
        #[arg(long)]
        config: bool,
    },
    /// Start a VM.
    Start {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Stop a VM: ask its guest, and wait for it.
    Stop {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
        /// Do not ask the guest: as pulling the plug.
        #[arg(long)]
        turn_off: bool,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Make a running VM stand still, in memory.
    Pause {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Let a paused VM go on.
    Resume {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Keep a VM's memory and end its process. `vm start` goes on at that instant.
    Save {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Give up the saved state of a VM: it is off afterwards, its disks are as after a power cut.
    DiscardSaved {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
        /// Whether to ask.
        #[command(flatten)]
        consent: Consent,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Change a VM: its policy and what is done for want of space at any time, the rest while it is off.
    Update(Box<UpdateVm>),
    /// Show what is set for a VM's checkpoints: policy, fallback, location, automatic ones, labels.
    Settings {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
    },
    /// List the image files of a VM: what lies on what, how large it is, who reads through it.
    Layers {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
    },
    /// Suspend the merging of layers that deleted checkpoints have left, or resume it.
    Merges {
        /// What to do.
        #[arg(value_enum)]
        what: MergesArg,
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
    },
    /// Say where image files are now that were moved. The VM must be off.
    Reconnect(Reconnect),
    /// Set the same for many VMs. Each is set by itself: what fails for one does not hold up the others.
    Set(Box<SetVms>),
    /// Forget a VM that is off and has no checkpoints. Its image files stay.
    Delete {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
        /// Whether to ask.
        #[command(flatten)]
        consent: Consent,
    },
}

/// `stillpoint vm reconnect`
#[derive(Debug, Args)]
pub struct Reconnect {
    /// Which VM.
    #[arg(value_parser = parse::vm)]
    pub vm: VmId,
    /// A disk, to move all its layers to another folder; or the id of one layer, as `vm layers` has it.
    #[arg(value_name = "DISK|LAYER")]
    pub what: String,
    /// The folder in which the layers of the disk are; or the file of the layer.
    pub path: PathBuf,
    /// Take the files although nothing proves that they are the right ones. Wrong ones damage what reads through them.
    #[arg(long)]
    pub accept_changed: bool,
}

/// What to do about the merges of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MergesArg {
    /// Let no layer be merged until they are resumed; one at work stops.
    Suspend,
    /// Let layers be merged again, at once if some are due.
    Resume,
}

/// What starts a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FirmwareArg {
    /// The BIOS.
    Bios,
    /// UEFI. Its variables belong to the VM's checkpoints.
    Uefi,
}

/// `stillpoint vm create`
#[derive(Debug, Args)]
pub struct CreateVm {
    /// Its name: lower-case letters, digits and '-'. May be left out if the file has it.
    #[arg(value_parser = parse::vm, required_unless_present = "from")]
    pub vm: Option<VmId>,
    /// JSON file as `vm show --json` prints it, `-` for standard input. Flags for hardware cannot be added.
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["cpus", "memory", "accelerator", "disk", "kernel", "nic", "pass_through", "medium", "firmware", "tpm", "serial_log", "extra_argument"])]
    pub from: Option<PathBuf>,
    /// Virtual CPUs [default: 1].
    #[arg(long, value_name = "N")]
    pub cpus: Option<u32>,
    /// Memory: 512M, 2G, or a number of MiB.
    #[arg(long, value_name = "SIZE", value_parser = parse::memory, required_unless_present = "from")]
    pub memory: Option<u64>,
    /// Hardware.
    #[command(flatten)]
    pub hardware: HardwareFlags,
    /// What a checkpoint of it shall be [default: production].
    #[arg(long)]
    pub policy: Option<PolicyArg>,
    /// Folder for configuration and memory of its checkpoints. Layers always lie beside their images.
    #[arg(long, value_name = "FOLDER")]
    pub checkpoint_location: Option<PathBuf>,
    /// For want of space.
    #[command(flatten)]
    pub critical: CriticalFlags,
    /// Make a checkpoint at each start if it has none, and delete it at the clean stop.
    #[arg(long)]
    pub automatic_checkpoints: bool,
    /// A word to choose VMs by; may be given several times.
    #[arg(long, value_name = "LABEL")]
    pub label: Vec<Label>,
}

/// Hardware of a new VM.
#[derive(Debug, Args)]
pub struct HardwareFlags {
    /// What the CPUs run on: auto (hardware if a trial shows that it works), kvm, tcg [default: auto].
    #[arg(long, value_parser = parse::accelerator, value_name = "WHAT")]
    pub accelerator: Option<AcceleratorChoice>,
    /// A disk: name=system,path=/vm/web.qcow2,format=qcow2. Formats: raw, qcow2, vhdx, vpc. A comma in a path: ",,".
    #[arg(long, value_parser = parse::disk, value_name = "name=,path=,format=")]
    pub disk: Vec<Disk>,
    /// What starts it: bios, uefi [default: bios].
    #[arg(long, value_name = "WHAT")]
    pub firmware: Option<FirmwareArg>,
    /// Image for the variables of its UEFI, qcow2, made if there is none [default: beside the first disk].
    #[arg(long, value_name = "FILE", requires = "firmware")]
    pub uefi_vars: Option<PathBuf>,
    /// Give it a TPM 2.0. What the TPM keeps belongs to the VM's checkpoints.
    #[arg(long)]
    pub tpm: bool,
    /// Boot this Linux kernel instead of the disks.
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk of the kernel.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Command line of the kernel.
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    pub append: Option<String>,
    /// A network card: user, or tap=tap0; with ,mac=52:54:00:12:34:56 if wanted.
    #[arg(long, value_parser = parse::nic, value_name = "user|tap=NAME[,mac=]")]
    pub nic: Vec<Nic>,
    /// A block device of the host, never part of a checkpoint: name=tape,device=/dev/sdb[,read-only].
    #[arg(long, value_parser = parse::pass_through, value_name = "name=,device=[,read-only]")]
    pub pass_through: Vec<PassThroughDisk>,
    /// What the guest cannot write to: name=cd,path=/iso/debian.iso for a CD-ROM drive (without path: an empty one);
    /// name=tools,path=/vm/tools.qcow2,format=qcow2,drive=disk for a read-only disk. Never part of a checkpoint.
    #[arg(long, value_parser = parse::medium, value_name = "name=[,path=,format=,drive=]")]
    pub medium: Vec<Medium>,
    /// File that the first serial port is written to.
    #[arg(long, value_name = "FILE")]
    pub serial_log: Option<PathBuf>,
    /// Appended to QEMU's command line as it is; may be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub extra_argument: Vec<String>,
}

/// `stillpoint vm update`
#[derive(Debug, Args)]
pub struct UpdateVm {
    /// Which VM.
    #[arg(value_parser = parse::vm)]
    pub vm: VmId,
    /// What a checkpoint of it shall be.
    #[arg(long)]
    pub policy: Option<PolicyArg>,
    /// Whether an apply that discards Now makes a checkpoint of it first all the same: true or false.
    #[arg(long, value_name = "BOOL")]
    pub undo_checkpoint: Option<bool>,
    /// Folder for its checkpoints, while it has none.
    #[arg(long, value_name = "FOLDER")]
    pub checkpoint_location: Option<PathBuf>,
    /// For want of space.
    #[command(flatten)]
    pub critical: CriticalFlags,
    /// Take what it is made of from the `spec` of this JSON file, `-` for standard input.
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["cpus", "memory", "accelerator", "firmware", "tpm", "attach_disk", "detach_disk", "medium", "eject", "remove_medium"])]
    pub from: Option<PathBuf>,
    /// Virtual CPUs.
    #[arg(long, value_name = "N")]
    pub cpus: Option<u32>,
    /// Memory: 512M, 2G, or a number of MiB.
    #[arg(long, value_name = "SIZE", value_parser = parse::memory)]
    pub memory: Option<u64>,
    /// What the CPUs run on: auto, kvm, tcg.
    #[arg(long, value_parser = parse::accelerator, value_name = "WHAT")]
    pub accelerator: Option<AcceleratorChoice>,
    /// What starts it: bios, uefi. Variables that checkpoints need are kept.
    #[arg(long, value_name = "WHAT")]
    pub firmware: Option<FirmwareArg>,
    /// Whether it has a TPM 2.0: true or false. One that is taken out is kept.
    #[arg(long, value_name = "BOOL")]
    pub tpm: Option<bool>,
    /// Add a disk: name=logs,path=/vm/logs.qcow2,format=qcow2. One that was taken out reads as it did.
    #[arg(long, value_parser = parse::disk, value_name = "name=,path=,format=")]
    pub attach_disk: Vec<Disk>,
    /// Take a disk out, by its name. Its layers stay with the checkpoints.
    #[arg(long, value_name = "NAME")]
    pub detach_disk: Vec<String>,
    /// Put a medium into the drive of this name, or add a drive: name=cd,path=/iso/debian.iso. See `vm create --help`.
    #[arg(long, value_parser = parse::medium, value_name = "name=[,path=,format=,drive=]")]
    pub medium: Vec<Medium>,
    /// Take the medium out of a CD-ROM drive; the drive stays.
    #[arg(long, value_name = "NAME")]
    pub eject: Vec<String>,
    /// Take a CD-ROM drive or a read-only disk out of the VM.
    #[arg(long, value_name = "NAME")]
    pub remove_medium: Vec<String>,
}
