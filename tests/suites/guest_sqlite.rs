//! Databases of SQLite in a real guest, under load and with nothing synced: no transaction is acknowledged while they are held, and
//! every one that was acknowledged before is there after an apply, whole.

use stillpoint_tests::server_guest::{ServerGuest, kept};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

const JOURNALS: [&str; 2] = ["wal", "delete"];

/// One transaction after the other, each of two rows, and what was acknowledged.
const LOAD: &str = r"
{
    echo '.timeout 60000'
    echo 'PRAGMA synchronous=OFF;'
    seq 1 1000000 | sed 's/.*/BEGIN IMMEDIATE; INSERT INTO t VALUES (&, 1); INSERT INTO t VALUES (&, 2); COMMIT;\n.system echo & >> \/run\/acknowledged-JOURNAL/'
} | server as redis sqlite3 /data/app/JOURNAL.db > /run/load-JOURNAL.log 2>&1 &";

/// What was acknowledged when the databases were held, and when they were not yet let go.
const NOTES: &str = r#"#!/bin/sh
case $1 in
identify) echo level=system ;;
freeze | thaw) for journal in wal delete; do echo "$1-$journal=$(tail -n1 /run/acknowledged-$journal)"; done ;;
esac
"#;

async fn sql(guest: &ServerGuest, journal: &str, statements: &str) -> Tested<String> {
    let command = format!("echo \"{statements}\" | server as redis sqlite3 /data/app/{journal}.db");
    Ok(guest.long(&command).await?.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sqlite_acknowledged_before_the_cut_is_there_after_an_apply() -> Tested {
    let mut guest = ServerGuest::boot(512).await?;
    guest.script(&["notes"], NOTES).await?;
    guest.lab.sh("echo 'sqlite.databases = /data/app/*.db' > /etc/stillpoint/writers.conf && agent crash").await?;
    guest.lab.sh("mkdir /data/app && chown 201:201 /data/app").await?;
    for journal in JOURNALS {
        sql(&guest, journal, &format!("PRAGMA journal_mode={journal}; CREATE TABLE t (n INTEGER, half INTEGER);"))
            .await?;
        guest.lab.sh(&format!(": > /run/acknowledged-{journal}; chown 201 /run/acknowledged-{journal}")).await?;
        guest.lab.sh(&LOAD.replace("JOURNAL", journal)).await?;
    }
    guest.writers(&["SQLite", "notes"]).await?;
    let beyond = |journal: &str, row: u64| {
        format!("until [ 0$(tail -n1 /run/acknowledged-{journal}) -gt {row} ]; do usleep 100000; done")
    };
    for journal in JOURNALS {
        guest.long(&beyond(journal, 30)).await?;
    }

    let made = guest.checkpoint("mid-load").await?;
    let number = |key: String| -> Tested<u64> { Ok(kept(&made, "notes", &key)?.parse()?) };
    let mut acknowledged = Vec::new();
    for journal in JOURNALS {
        let (before, after) = (number(format!("freeze-{journal}"))?, number(format!("thaw-{journal}"))?);
        // One that was done, and not noted yet, when it was held.
        assert!(before > 30 && after <= before + 1, "{journal}: {before}, {after}");
        acknowledged.push((journal, after));
        guest.long(&beyond(journal, after + 20)).await?;
    }
    let known = kept(&made, "SQLite", "database.2")?;
    assert!(known.starts_with("journal=wal ") && known.ends_with(" file=/data/app/wal.db"), "{known}");

    guest.boot_from(&made).await?;
    for (journal, after) in acknowledged {
        let checked =
            sql(&guest, journal, "PRAGMA integrity_check; SELECT max(n), count(*), count(DISTINCT n) FROM t;").await?;
        println!("{journal}: acknowledged {after} before the cut; found {checked:?}");
        let (sound, numbers) = checked.split_once('\n').ok_or("two lines")?;
        let numbers: Vec<u64> = numbers.split('|').map(str::parse).collect::<Result<_, _>>()?;
        assert_eq!(sound, "ok", "{journal}");
        // One that was not noted yet may be there.
        assert!((after..=after + 1).contains(&numbers[0]), "{journal}: acknowledged {after}, and {numbers:?} is there");
        assert_eq!(numbers[1..], [2 * numbers[0], numbers[0]], "{journal}: all of them, and none in part");
        let owner = guest.lab.sh(&format!("stat -c %u /data/app/{journal}.db")).await?;
        assert_eq!(owner, "201");
    }
    Ok(())
}
