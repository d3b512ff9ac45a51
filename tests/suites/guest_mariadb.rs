//! A real MariaDB in a real guest, under load and set to acknowledge what no disk has yet: nothing is acknowledged while it is
//! held, and everything that was acknowledged before is there after an apply, in tables that do not recover, too.

use stillpoint_tests::server_guest::{NOTES, ServerGuest, kept};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// One row after the other, in a table of each engine, and what was acknowledged.
const LOAD: &str = r#"
seq 1 1000000 | sed "s/.*/INSERT INTO t.safe VALUES (&); INSERT INTO t.plain VALUES (&); SELECT &;/" |
    server as mysql mariadb --no-defaults -N --unbuffered -S /run/mysqld/mysqld.sock \
    > /run/acknowledged 2> /run/acknowledged.err &
"#;

async fn sql(guest: &ServerGuest, question: &str) -> Tested<String> {
    guest
        .long(&format!("echo \"{question}\" | server as mysql mariadb --no-defaults -N -S /run/mysqld/mysqld.sock"))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_mariadb_acknowledged_before_the_cut_is_there_after_an_apply() -> Tested {
    let mut guest = ServerGuest::boot(640).await?;
    guest.script(&["notes"], NOTES).await?;
    guest.long("server mariadb start").await?;
    sql(
        &guest,
        "CREATE DATABASE t; CREATE TABLE t.safe (n INT PRIMARY KEY) ENGINE=InnoDB; \
                 CREATE TABLE t.plain (n INT PRIMARY KEY) ENGINE=MyISAM;",
    )
    .await?;
    guest.writers(&["MariaDB mysqld", "notes"]).await?;
    guest.lab.sh(LOAD).await?;
    guest.long("until [ $(cat /run/acknowledged | wc -l) -gt 200 ]; do usleep 100000; done").await?;

    let made = guest.checkpoint("mid-load").await?;
    let [before, after] = ["before", "after"].map(|key| kept(&made, "notes", key).map(str::to_owned));
    let (before, after): (u64, u64) = (before?.parse()?, after?.parse()?);
    assert!(before > 200 && before == after, "nothing is acknowledged while it is held: {before}, {after}");
    let [lsn, file] = ["lsn", "binlog_file"].map(|key| kept(&made, "MariaDB mysqld", key).map(str::to_owned));
    let (lsn, file): (u64, String) = (lsn?.parse()?, file?);
    assert!(lsn > 0 && file.starts_with("binlog."), "{lsn}, {file}");
    guest.long(&format!("until [ $(tail -n1 /run/acknowledged) -gt {} ]; do usleep 100000; done", after + 100)).await?;

    guest.boot_from(&made).await?;
    guest.long("server mariadb start").await?;
    let found = sql(&guest, "SELECT max(n), count(*) FROM t.safe; SELECT max(n), count(*) FROM t.plain;").await?;
    println!("acknowledged {after} before the cut; found {found:?}");
    for line in found.lines() {
        let (last, count) = line.split_once('\t').ok_or("two numbers")?;
        assert_eq!(last, count, "none is missing in between");
        // One that was not answered yet may be there.
        let last: u64 = last.parse()?;
        assert!((after..=after + 1).contains(&last), "acknowledged {after}, and {last} is there");
    }
    let check = "server as mysql mariadb-check --no-defaults -S /run/mysqld/mysqld.sock --extended";
    let checked = guest.long(&format!("{check} --databases t mysql")).await?;
    let sound = |line: &str| line.ends_with("OK") || line.contains("doesn't support check");
    assert!(
        checked.contains("t.plain") && checked.lines().all(|line| line.contains(" : ") || sound(line)),
        "{checked}"
    );
    let log = guest.lab.sh("cat /run/mysqld/log").await?;
    assert!(!log.contains("marked as crashed"), "{log}");
    Ok(())
}
