//! A disk with real database servers, as Debian packages them, for the guests in which writers are tested. The guest
//! mounts it read-only at `/servers`; `server` in the guest starts what is on it.
//!
//! Fetched and made once. Nothing of it is installed on this machine.

use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::process::Command;

use super::{disks, fetch};
use crate::problem::{Outcome, Problem};
use crate::shell;

/// The servers, and every library that they are linked with. Not all that the packages want: no compiler for queries, no
/// scripts for systemd.
const PACKAGES: &str = "\
    postgresql-15 postgresql-client-15 redis-tools mariadb-server-core mariadb-client-core sqlite3 \
    libaio1 libatomic1 libaudit1 libbsd0 libc6 libcap-ng0 libcap2 libcom-err2 libcrypt1 libedit2 libffi8 libgcc-s1 \
    libgcrypt20 libgmp10 libgnutls30 libgpg-error0 libgssapi-krb5-2 libhogweed6 libicu72 libidn2-0 libjemalloc2 \
    libk5crypto3 libkeyutils1 libkrb5-3 libkrb5support0 libldap-2.5-0 liblz4-1 liblzf1 liblzma5 libmd0 libncurses6 \
    libnettle8 libnuma1 libp11-kit0 libpam0g libpcre2-8-0 libpq5 libreadline8 libsasl2-2 libsqlite3-0 libssl3 \
    libstdc++6 libsystemd0 libtasn1-6 libtinfo6 libunistring2 liburing2 libxml2 libzstd1 zlib1g";
/// What no server reads.
const UNREAD: &str = "usr/share/doc usr/share/man usr/share/locale usr/share/lintian usr/share/bug usr/include \
                      usr/share/postgresql/15/man usr/lib/postgresql/15/lib/bitcode";
/// Where the guest's `server` mounts what it needs.
const MOUNT_POINTS: &str = "bin dev proc run tmp data etc";
const USERS: &str = "root:x:0:0::/:/bin/sh\npostgres:x:200:200::/:/bin/sh\nredis:x:201:201::/:/bin/sh\n\
                     mysql:x:202:202::/:/bin/sh\n";
const GROUPS: &str = "root:x:0:\npostgres:x:200:\nredis:x:201:\nmysql:x:202:\n";
const POSTGRES: u32 = 200;
const MIB: u64 = 320;

/// Makes `servers.qcow2` if it is not there.
pub(super) fn ensure(folder: &Path, busybox: &Path) -> Outcome {
    let disk = folder.join("servers.qcow2");
    if disk.exists() {
        return Ok(());
    }
    let tree = fetch::all_unpacked(folder, &PACKAGES.split_whitespace().collect::<Vec<_>>(), "servers")?;
    eprintln!("  making the disk with servers");
    for name in UNREAD.split_whitespace().map(|name| tree.join(name)).filter(|path| path.exists()) {
        std::fs::remove_dir_all(&name).map_err(Problem::file(&name))?;
    }
    for name in MOUNT_POINTS.split_whitespace().map(|name| tree.join(name)) {
        std::fs::create_dir_all(&name).map_err(Problem::file(&name))?;
    }
    put(&tree.join("etc/passwd"), USERS)?;
    put(&tree.join("etc/group"), GROUPS)?;
    let shell = tree.join("bin/busybox");
    std::fs::copy(busybox, &shell).map_err(Problem::file(&shell))?;
    link("busybox", &tree.join("bin/sh"))?;
    link("redis-check-rdb", &tree.join("usr/bin/redis-server"))?; // one program under several names
    new_cluster(&tree)?;
    let raw = folder.join("servers.raw");
    disks::ext4(&raw, "servers", MIB, Some(&tree))?;
    disks::to_qcow2(&raw, &disk)?;
    std::fs::remove_file(&raw).map_err(Problem::file(&raw))?;
    std::fs::remove_dir_all(&tree).map_err(Problem::file(&tree))
}

fn put(path: &Path, text: &str) -> Outcome {
    std::fs::write(path, text).map_err(Problem::file(path))
}

fn link(to: &str, path: &Path) -> Outcome {
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    symlink(to, path).map_err(Problem::file(path))
}

/// An empty cluster of PostgreSQL, for guests to copy: an emulated CPU would take a minute to make one.
fn new_cluster(tree: &Path) -> Outcome {
    let (cluster, null) = (tree.join("cluster"), tree.join("dev/null"));
    for old in [&cluster, &null] {
        shell::read(Command::new("rm").arg("-rf").arg(old))?;
    }
    std::fs::create_dir(&cluster).map_err(Problem::file(&cluster))?;
    let as_root = |problem: Problem| Problem::new(format!("making the disk with servers needs root: {problem}"));
    chown(&cluster, Some(POSTGRES), Some(POSTGRES)).map_err(Problem::file(&cluster)).map_err(as_root)?;
    shell::read(Command::new("mknod").args(["-m", "666"]).arg(&null).args(["c", "1", "3"])).map_err(as_root)?;
    let mut initdb = Command::new(shell::find("chroot").unwrap_or_else(|| "chroot".into()));
    initdb.arg(format!("--userspec={POSTGRES}:{POSTGRES}")).arg(tree).arg("/usr/lib/postgresql/15/bin/initdb");
    initdb.args(["--username=postgres", "--auth=peer", "--data-checksums", "--no-locale", "--encoding=UTF8"]);
    initdb.args(["--wal-segsize=1", "--no-sync", "-D", "/cluster"]).env_clear().env("PATH", "/bin:/usr/bin");
    shell::read(&mut initdb)?;
    std::fs::remove_file(&null).map_err(Problem::file(&null))
}
