//! The test guest: Debian's cloud kernel, a small root in memory with our agent and the tests' own program in it,
//! and data disks.
//!
//! Everything lies in `target/guest-image`. What comes from Debian is fetched once; our own programs and the root are
//! brought up to date each time, which takes a moment. [`ensure`] may be called as often as one likes.
//!
//! ```text
//! target/guest-image/vmlinuz       the kernel            target/guest/data.qcow2      template of a data disk
//! target/guest-image/initrd        the root              target/guest/stacked.qcow2   the same, with a loop-mounted one on it
//! target/guest-image/initrd-faults the root with an agent that makes trouble on request
//! target/guest-image/servers.qcow2 real database servers, read-only
//! ```

mod cpio;
mod disks;
mod fetch;
mod initrd;
mod kernel;
mod modules;
mod programs;
mod servers;

use crate::problem::{Outcome, Problem};
use crate::workspace::Workspace;

/// The feature with which the agent makes trouble on request.
pub(crate) const FAULTS: &str = "stillpoint-agent/fault-injection";

/// Makes the guest's files, or brings them up to date.
pub(crate) fn ensure(workspace: &Workspace) -> Outcome {
    let folder = workspace.guest();
    std::fs::create_dir_all(&folder).map_err(Problem::file(&folder))?;
    let kernel = kernel::ensure(&folder)?;
    let busybox = modules::busybox(&folder)?;
    let modules = modules::Modules::in_tree(&kernel.modules, &folder.join("modules"), &busybox)?;
    let sources = workspace.root.join("tests/guest");
    let (init, scripts) = (sources.join("init"), sources.join("scripts"));
    let roots: [(&str, &[&str]); 2] = [("initrd-faults", &[FAULTS]), ("initrd", &[])];
    for (name, features) in roots {
        let programs = programs::build(workspace, &["stillpoint-lab", "stillpoint-agent"], features)?;
        let content = initrd::Content { init: &init, scripts: &scripts, programs: &programs, busybox: &busybox };
        initrd::write(&folder.join(name), &content, &modules)?;
    }
    let image = folder.join("vmlinuz");
    if !image.exists() {
        std::fs::copy(&kernel.image, &image).map_err(Problem::file(&image))?;
    }
    disks::ensure(&folder)?;
    servers::ensure(&folder, &busybox)?;
    eprintln!("  guest: kernel {}, files in {}", kernel.version, folder.display());
    Ok(())
}
