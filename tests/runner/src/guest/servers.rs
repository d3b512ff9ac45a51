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
const MYSQL: u32 = 202;
/// Changes with what is on the disk: one that was made by another recipe is made anew.
const RECIPE: &str = "3\n";
const MIB: u64 = 320;
/// How MariaDB makes a database. It reads the statements, and says nothing of it if there are none.
const BOOTSTRAP: &str = "\
    /usr/sbin/mariadbd --no-defaults --bootstrap --datadir=/mysql --tmpdir=/mysql --innodb-log-file-size=4M \
    --innodb-data-file-path=ibdata1:12M:autoextend --innodb-undo-tablespaces=0 --innodb-buffer-pool-size=16M \
    --aria-log-file-size=8M < /tmp/new.sql && test -d /mysql/mysql";

/// Makes `servers.qcow2` if it is not there.
pub(super) fn ensure(folder: &Path, busybox: &Path) -> Outcome {
    let disk = folder.join("servers.qcow2");
    let recipe = folder.join("servers.recipe");
    if disk.exists() && std::fs::read_to_string(&recipe).is_ok_and(|made| made == RECIPE) {
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
    new_database(&tree)?;
    let raw = folder.join("servers.raw");
    disks::ext4(&raw, "servers", MIB, Some(&tree))?;
    disks::to_qcow2(&raw, &disk)?;
    std::fs::remove_file(&raw).map_err(Problem::file(&raw))?;
    std::fs::remove_dir_all(&tree).map_err(Problem::file(&tree))?;
    put(&recipe, RECIPE)
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
    let null = tree.join("dev/null");
    shell::read(Command::new("rm").arg("-f").arg(&null))?;
    shell::read(Command::new("mknod").args(["-m", "666"]).arg(&null).args(["c", "1", "3"])).map_err(as_root)?;
    let mut initdb = in_tree(tree, "cluster", POSTGRES, "/usr/lib/postgresql/15/bin/initdb")?;
    initdb.args(["--username=postgres", "--auth=peer", "--data-checksums", "--no-locale", "--encoding=UTF8"]);
    initdb.args(["--wal-segsize=1", "--no-sync", "-D", "/cluster"]).env_clear().env("PATH", "/bin:/usr/bin");
    shell::read(&mut initdb)?;
    std::fs::remove_file(&null).map_err(Problem::file(&null))
}

/// An empty database of MariaDB, from the statements that it brings along.
fn new_database(tree: &Path) -> Outcome {
    let mut statements = "CREATE DATABASE mysql;\nUSE mysql;\n\
                          SET @auth_root_socket = 'mysql', @current_hostname = 'localhost';\n"
        .to_owned();
    for name in ["mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql"] {
        let path = tree.join("usr/share/mysql").join(name);
        statements += &std::fs::read_to_string(&path).map_err(Problem::file(&path))?;
    }
    let input = tree.join("tmp/new.sql");
    put(&input, &statements)?;
    let mut bootstrap = in_tree(tree, "mysql", MYSQL, "/bin/sh")?;
    shell::read(bootstrap.arg("-c").arg(BOOTSTRAP).env_clear())?;
    std::fs::remove_file(&input).map_err(Problem::file(&input))
}

/// A program of the tree, as this user, and a new folder that is the user's.
fn in_tree(tree: &Path, folder: &str, user: u32, program: &str) -> Outcome<Command> {
    let folder = tree.join(folder);
    shell::read(Command::new("rm").arg("-rf").arg(&folder))?;
    std::fs::create_dir(&folder).map_err(Problem::file(&folder))?;
    chown(&folder, Some(user), Some(user)).map_err(Problem::file(&folder)).map_err(as_root)?;
    let mut command = Command::new(shell::find("chroot").unwrap_or_else(|| "chroot".into()));
    command.arg(format!("--userspec={user}:{user}")).arg(tree).arg(program);
    Ok(command)
}

fn as_root(problem: Problem) -> Problem {
    Problem::new(format!("making the disk with servers needs root: {problem}"))
}
