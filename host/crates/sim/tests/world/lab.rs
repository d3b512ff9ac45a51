//! A VM with two disks in a simulated world, driven by its ports.

use std::sync::Arc;

use stillpoint_common::{DiskFormat, DiskName, InstanceId, LayerFile, LayerId, VmId};
use stillpoint_engine::Ports;
use stillpoint_engine::ports::{
    DiskChain, HypervisorError, LaunchSpec, Launched, LiveMerge, OnPanic, Overlay, ProgressSink, StartMode,
};
use stillpoint_sim::{World, definition};
use uuid::Uuid;

pub(crate) const SIZE: u64 = 1 << 30;

pub(crate) struct Lab {
    pub(crate) world: World,
    pub(crate) ports: Ports,
    pub(crate) vm: VmId,
    pub(crate) disk: DiskName,
    pub(crate) data: DiskName,
    pub(crate) bases: Vec<LayerFile>,
}

pub(crate) fn layer(path: &str) -> LayerFile {
    LayerFile { id: LayerId::generate(), path: path.into(), format: DiskFormat::Qcow2 }
}

pub(crate) fn quiet() -> ProgressSink {
    Arc::new(|_| {})
}

impl Lab {
    pub(crate) fn new() -> Self {
        let world = World::new();
        for path in ["/vm/system.qcow2", "/vm/data.qcow2"] {
            world.add_image(path, SIZE);
        }
        Self {
            ports: world.ports(),
            world,
            vm: "web".parse().expect("a name"),
            disk: "system".parse().expect("a name"),
            data: "data".parse().expect("a name"),
            bases: vec![layer("/vm/system.qcow2"), layer("/vm/data.qcow2")],
        }
    }

    /// How to launch with these layers, from the image up, for each of the two disks.
    pub(crate) fn spec(&self, system: &[&LayerFile], data: &[&LayerFile], mode: StartMode) -> LaunchSpec {
        let chain = |disk: &DiskName, layers: &[&LayerFile]| DiskChain {
            disk: disk.clone(),
            layers: layers.iter().map(|layer| (*layer).clone()).collect(),
        };
        LaunchSpec {
            vm: self.vm.clone(),
            instance: InstanceId::generate(),
            uid: Uuid::nil(),
            generation_id: Uuid::nil(),
            definition: definition(&[("system", "/vm/system.qcow2"), ("data", "/vm/data.qcow2")]),
            chains: vec![chain(&self.disk, system), chain(&self.data, data)],
            tpm: None,
            mode,
            on_panic: OnPanic::GoOn,
        }
    }

    pub(crate) async fn launch(&self, spec: &LaunchSpec) -> Result<Launched, HypervisorError> {
        self.ports.hypervisor.launch(spec).await
    }

    /// A VM that runs on its own images.
    pub(crate) async fn running(&self) -> InstanceId {
        let spec = self.spec(&[&self.bases[0]], &[&self.bases[1]], StartMode::Fresh);
        self.launch(&spec).await.expect("a launch");
        self.ports.hypervisor.resume(spec.instance).await.expect("a resume");
        spec.instance
    }

    /// An overlay for the system disk, made and attached.
    pub(crate) async fn attached(&self, instance: InstanceId, path: &str, backing: &LayerFile) -> Overlay {
        let file = layer(path);
        self.ports.images.create_overlay(&file.path, backing, SIZE).await.expect("an overlay");
        let overlay = Overlay { disk: self.disk.clone(), backing: backing.id, file };
        self.ports.hypervisor.attach_overlays(instance, std::slice::from_ref(&overlay)).await.expect("an attachment");
        overlay
    }

    /// A cut of the system disk: the new head.
    pub(crate) async fn cut(&self, instance: InstanceId, path: &str, backing: &LayerFile) -> LayerFile {
        let overlay = self.attached(instance, path, backing).await;
        self.ports.hypervisor.switch_heads(instance, std::slice::from_ref(&overlay)).await.expect("a switch");
        overlay.file
    }

    pub(crate) fn merge_of(&self, child: &LayerFile, parent: &LayerFile) -> LiveMerge {
        LiveMerge { disk: self.disk.clone(), child: child.id, parent: parent.clone() }
    }

    pub(crate) fn write(&self, block: u64, value: u64) {
        self.world.guest_write(&self.vm, &self.disk, block, value).expect("a write");
    }

    pub(crate) fn reads(&self, path: &str, block: u64) -> u64 {
        self.world.read(path, block).expect("a whole chain")
    }
}
