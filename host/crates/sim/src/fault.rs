//! Calls of ports as numbered points, and what can go wrong at them.

use std::fmt;

macro_rules! calls {
    ($($variant:ident $name:literal $changes:literal;)*) => {
        /// A method of a port.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Call {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        impl Call {
            /// Every method of every port that can fail.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Port and method: `hypervisor.pause`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether it changes the world (and does not only look).
            #[must_use]
            pub const fn changes(self) -> bool {
                match self { $(Self::$variant => $changes,)* }
            }
        }
    };
}

calls! {
    Observe "hypervisor.observe" false;
    Launch "hypervisor.launch" true;
    LoadMemory "hypervisor.load_memory" true;
    MemoryIsIn "hypervisor.memory_is_in" true;
    Retire "hypervisor.retire" true;
    PressPowerButton "hypervisor.press_power_button" true;
    Pause "hypervisor.pause" true;
    Resume "hypervisor.resume" true;
    SetOnPanic "hypervisor.set_on_panic" true;
    AttachOverlays "hypervisor.attach_overlays" true;
    DetachOverlays "hypervisor.detach_overlays" true;
    SwitchHeads "hypervisor.switch_heads" true;
    PrepareCapture "hypervisor.prepare_capture" true;
    StartCapture "hypervisor.start_capture" true;
    FinishCapture "hypervisor.finish_capture" true;
    SaveMemory "hypervisor.save_memory" true;
    CancelCapture "hypervisor.cancel_capture" true;
    Merge "hypervisor.merge" true;
    FinishMerge "hypervisor.finish_merge" true;
    CancelMerge "hypervisor.cancel_merge" true;
    Stream "hypervisor.stream" true;
    CancelStream "hypervisor.cancel_stream" true;
    Version "hypervisor.version" false;
    Stat "images.stat" false;
    CreateOverlay "images.create_overlay" true;
    CreateVariables "images.create_variables" true;
    MergeOffline "images.merge_offline" true;
    MergeGrowth "images.merge_growth" false;
    Extents "images.extents" false;
    StreamOffline "images.stream_offline" true;
    Repoint "images.repoint" true;
    Flatten "images.flatten" true;
    RemoveFile "images.remove" true;
    Space "images.space" false;
    Look "images.look" false;
    Beside "images.beside" false;
    Missing "images.missing" false;
    Users "images.users" false;
    OverlaysOf "images.overlays_of" false;
    BeginMemory "memory.begin" true;
    SealMemory "memory.seal" true;
    OpenMemory "memory.open" false;
    UnneededMemory "memory.unneeded" false;
    ReachMemory "memory.reach" false;
    KeepMemory "memory.keep" true;
    RemoveMemory "memory.remove" true;
    PutTpm "tpm.put" true;
    TakeTpm "tpm.take" false;
    RemoveTpm "tpm.remove" true;
    WriteDescription "descriptions.write" true;
    RemoveDescription "descriptions.remove" true;
    FindDescriptions "descriptions.find" false;
    NamesInFolder "descriptions.names" false;
    StageExport "exports.stage" true;
    CopyMemory "exports.copy_memory" true;
    WriteExport "exports.write" true;
    SealExport "exports.seal" true;
    IsSealed "exports.is_sealed" false;
    DiscardExport "exports.discard" true;
    ExportFiles "exports.files" false;
    OpenEndpoint "endpoints.open" true;
    CloseEndpoints "endpoints.close" true;
    ReadManifest "sources.manifest" false;
    CompareExport "sources.compare" false;
    ReadExport "sources.read" false;
    SendMemory "sources.send" true;
    ClaimFolder "sources.claim" true;
    GiveBackFolder "sources.give_back" true;
    KeepFolder "sources.keep" true;
    RetireExport "sources.retire" true;
    Describe "guest.describe" false;
    Prepare "guest.prepare" true;
    Freeze "guest.freeze" true;
    Thaw "guest.thaw" true;
    Settle "guest.settle" true;
    Complete "guest.complete" true;
    Finish "guest.finish" true;
    SetClock "guest.set_clock" true;
    Restored "guest.restored" true;
    Power "guest.power" true;
    Beat "guest.beat" false;
    SetValues "guest.set_values" true;
    Values "guest.values" false;
    Forget "guest.forget" true;
    Get "store.get" false;
    Scan "store.scan" false;
    Commit "store.commit" true;
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What goes wrong at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It fails and has done nothing.
    FailBefore,
    /// It does its work and then fails: the answer was lost.
    FailAfter,
    /// It fails for want of space and has done nothing.
    NoSpace,
    /// It does nothing and never returns.
    Hang,
    /// It does its work and never returns.
    HangAfter,
    /// It panics and has done nothing: a defect of an adapter.
    Panic,
    /// The service dies before the call has an effect.
    CrashBefore,
    /// The service dies when the call has done its work.
    CrashAfter,
}

impl Fault {
    /// Every fault.
    pub const ALL: &'static [Self] = &[
        Self::FailBefore,
        Self::FailAfter,
        Self::NoSpace,
        Self::Hang,
        Self::HangAfter,
        Self::Panic,
        Self::CrashBefore,
        Self::CrashAfter,
    ];
}

#[derive(Debug, Clone, Copy)]
enum Trigger {
    Point(u64),
    Nth(Call, u64),
    Every(Call),
}

/// Which faults strike where. Calls are counted from 1, since the plan was given to the world.
#[derive(Debug, Clone, Default)]
pub struct FaultPlan {
    faults: Vec<(Trigger, Fault)>,
}

impl FaultPlan {
    /// Nothing goes wrong.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The call numbered `point`, whichever it is.
    #[must_use]
    pub fn at_point(self, point: u64, fault: Fault) -> Self {
        self.with(Trigger::Point(point), fault)
    }

    /// The `nth` call of a method.
    #[must_use]
    pub fn at(self, call: Call, nth: u64, fault: Fault) -> Self {
        self.with(Trigger::Nth(call, nth), fault)
    }

    /// The `nth` commit to the store.
    #[must_use]
    pub fn at_write(self, nth: u64, fault: Fault) -> Self {
        self.at(Call::Commit, nth, fault)
    }

    /// Each call of a method.
    #[must_use]
    pub fn every(self, call: Call, fault: Fault) -> Self {
        self.with(Trigger::Every(call), fault)
    }

    fn with(mut self, trigger: Trigger, fault: Fault) -> Self {
        self.faults.push((trigger, fault));
        self
    }

    /// The first fault that strikes the `nth` call of `call`, which is the `point`th of all.
    pub(crate) fn strikes(&self, call: Call, nth: u64, point: u64) -> Option<Fault> {
        let hit = |trigger: &Trigger| match trigger {
            Trigger::Point(at) => *at == point,
            Trigger::Nth(of, at) => *of == call && *at == nth,
            Trigger::Every(of) => *of == call,
        };
        self.faults.iter().find(|(trigger, _)| hit(trigger)).map(|(_, fault)| *fault)
    }
}
