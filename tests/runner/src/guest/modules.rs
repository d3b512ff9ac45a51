//! Kernel modules for the guest: which files a driver needs, in loading order, read from the modules themselves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::problem::{Outcome, Problem};
use crate::shell;

/// The unpacked modules of one kernel, by name (with `_` for `-`, as the kernel writes it).
pub(super) struct Modules {
    packed: BTreeMap<String, PathBuf>,
    unpacked: PathBuf,
    busybox: PathBuf,
}

impl Modules {
    /// Looks for modules below `tree`; what is unpacked is kept in `unpacked` for the next time.
    pub(super) fn in_tree(tree: &Path, unpacked: &Path, busybox: &Path) -> Outcome<Self> {
        std::fs::create_dir_all(unpacked).map_err(Problem::file(unpacked))?;
        let mut modules = Self { packed: BTreeMap::new(), unpacked: unpacked.into(), busybox: busybox.into() };
        modules.walk(tree)?;
        Ok(modules)
    }

    fn walk(&mut self, folder: &Path) -> Outcome {
        for entry in std::fs::read_dir(folder).map_err(Problem::file(folder))?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                self.walk(&path)?;
            } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
                self.packed.insert(name.replace('-', "_"), path);
            }
        }
        Ok(())
    }

    /// The files that make `name` work, those it depends on first. Empty if the kernel has no such module,
    /// which means that it is built in (or that this kernel cannot do it: the guest then finds no device).
    pub(super) fn with_dependencies(&self, name: &str) -> Outcome<Vec<(String, PathBuf)>> {
        let mut order = Vec::new();
        self.collect(name, &mut order)?;
        Ok(order)
    }

    fn collect(&self, name: &str, order: &mut Vec<(String, PathBuf)>) -> Outcome {
        let Some(packed) = self.packed.get(name) else { return Ok(()) };
        if order.iter().any(|(known, _)| known == name) {
            return Ok(());
        }
        let file = self.unpack(name, packed)?;
        let content = std::fs::read(&file).map_err(Problem::file(&file))?;
        for needed in depends(&content) {
            self.collect(&needed, order)?;
        }
        order.push((name.to_owned(), file));
        Ok(())
    }

    fn unpack(&self, name: &str, packed: &Path) -> Outcome<PathBuf> {
        if packed.extension().is_some_and(|end| end == "ko") {
            return Ok(packed.into());
        }
        let file = self.unpacked.join(format!("{name}.ko"));
        if !file.exists() {
            let mut unpack = Command::new(&self.busybox);
            let output = unpack.args(["xz", "-dc"]).arg(packed).output().map_err(Problem::file(&self.busybox))?;
            if !output.status.success() {
                return Err(Problem::new(format!("cannot unpack {}", packed.display())));
            }
            std::fs::write(&file, output.stdout).map_err(Problem::file(&file))?;
        }
        Ok(file)
    }
}

/// The modules that a module says it depends on, from its `.modinfo` section.
fn depends(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else { return Vec::new() };
    let value = module[at + key.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

/// Busybox as one static file, unpacked from its package; it is in the guest, and unpacks modules here.
pub(super) fn busybox(folder: &Path) -> Outcome<PathBuf> {
    let file = super::fetch::unpacked(folder, "busybox-static", "busybox")?;
    ["bin/busybox", "usr/bin/busybox"]
        .iter()
        .map(|name| file.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| Problem::new(format!("the package busybox-static has no busybox below {}", file.display())))
}

/// The names busybox answers to.
pub(super) fn applets(busybox: &Path) -> Outcome<Vec<String>> {
    Ok(shell::read(Command::new(busybox).arg("--list"))?.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::depends;

    #[test]
    fn dependencies_are_read_from_the_module_itself() {
        assert_eq!(depends(b"x\0license=GPL\0depends=net_failover,a-b\0y"), ["net_failover", "a_b"]);
        assert!(depends(b"x\0depends=\0y").is_empty());
        assert!(depends(b"nothing").is_empty());
    }
}
