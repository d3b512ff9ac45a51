//! A real PostgreSQL in a real guest, under load: what was acknowledged before the cut is there after it.

use stillpoint_tests::server_guest::{ServerGuest, kept};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Notes at its freeze what the load has been told was committed: the one at the front end before PostgreSQL is asked,
/// the one of the system after.
const NOTES: &str = r#"#!/bin/sh
case "$1 ${0##*/}" in
"identify first") echo level=front-end ;;
"identify last") echo level=system ;;
"freeze first") echo "acknowledged=$(tail -n1 /run/relaxed)" ;;
"freeze last") echo "acknowledged=$(tail -n1 /run/durable)" ;;
esac
"#;

/// Inserts one row after the other, in two tables that have to agree, and notes what was acknowledged.
const LOAD: &str = r#"
for name in durable relaxed; do
    case $name in durable) commit=local ;; relaxed) commit=off ;; esac
    { echo "SET synchronous_commit = $commit;"
      seq 1 1000000 | sed "s/.*/BEGIN; INSERT INTO ${name} VALUES (&); INSERT INTO ${name}_too VALUES (&); COMMIT;\n\\\\echo &/"
    } | server as postgres psql -q -v ON_ERROR_STOP=1 > /run/$name 2> /run/$name.err &
done
server as postgres "pgbench -n -c 2 -T 1000 -f /tmp/transfer.sql" > /run/pgbench 2>&1 < /dev/null &
"#;

async fn sql(guest: &ServerGuest, question: &str) -> Tested<String> {
    guest.long(&format!("echo \"{question}\" | server as postgres psql -qAt -v ON_ERROR_STOP=1")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgresql_acknowledged_before_the_cut_is_there_after_an_apply() -> Tested {
    let mut guest = ServerGuest::boot(640).await?;
    guest.script(&["first", "last"], NOTES).await?;
    guest.long("server postgres start").await?;
    let tables = "CREATE TABLE durable (n int PRIMARY KEY); CREATE TABLE durable_too (n int PRIMARY KEY);
                  CREATE TABLE relaxed (n int PRIMARY KEY); CREATE TABLE relaxed_too (n int PRIMARY KEY);
                  CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
                  INSERT INTO accounts SELECT id, 0 FROM generate_series(1, 50) id;";
    sql(&guest, tables).await?;
    let transfer = r"\set a random(1, 25)
\set b random(26, 50)
BEGIN; UPDATE accounts SET balance = balance - 1 WHERE id = :a; UPDATE accounts SET balance = balance + 1 WHERE id = :b; COMMIT;";
    guest.lab.sh(&format!("cat > /tmp/transfer.sql <<'END'\n{transfer}\nEND")).await?;
    guest.writers(&["PostgreSQL 5432", "first", "last"]).await?;
    guest.lab.sh(LOAD).await?;
    guest.long("until [ $(cat /run/durable | wc -l) -gt 30 ] && [ $(cat /run/relaxed | wc -l) -gt 30 ]; do usleep 100000; done").await?;

    let made = guest.checkpoint("mid-load").await?;
    let position = kept(&made, "PostgreSQL 5432", "wal_lsn")?;
    let relaxed: u64 = kept(&made, "first", "acknowledged")?.parse()?;
    let durable: u64 = kept(&made, "last", "acknowledged")?.parse()?;
    assert!(relaxed > 0 && durable > 0, "there was a load: {relaxed}, {durable}");
    let later = format!("until [ $(tail -n1 /run/durable) -gt {} ]; do usleep 100000; done", durable + 20);
    guest.long(&later).await?;

    guest.boot_from(&made).await?;
    guest.long("server postgres start").await?;
    println!("log: {}", guest.lab.sh("cat /run/postgres.log").await?);
    let found = sql(&guest, "SELECT (SELECT max(n) FROM durable), (SELECT max(n) FROM relaxed)").await?;
    println!("acknowledged {durable} and {relaxed} before the cut; found {found}; position {position}");
    let (found_durable, found_relaxed) = found.trim().split_once('|').ok_or("two numbers")?;
    assert!(found_durable.parse::<u64>()? >= durable, "acknowledged {durable}, and {found_durable} is there");
    assert!(found_relaxed.parse::<u64>()? >= relaxed, "acknowledged {relaxed}, and {found_relaxed} is there");
    let torn = "SELECT (SELECT count(*) FROM durable FULL JOIN durable_too USING (n)
                        WHERE durable IS NULL OR durable_too IS NULL)
                     + (SELECT count(*) FROM relaxed FULL JOIN relaxed_too USING (n)
                        WHERE relaxed IS NULL OR relaxed_too IS NULL),
                       (SELECT sum(balance) FROM accounts),
                       (SELECT max(n) - count(*) FROM durable),
                       pg_current_wal_lsn() >= '";
    let torn = sql(&guest, &format!("{torn}{position}'")).await?;
    assert_eq!(torn.trim(), "0|0|0|t", "no transaction is torn, and recovery came as far as it was said");
    guest.long("server as postgres pg_amcheck --install-missing --heapallindexed -d postgres").await?;
    guest.long("server postgres stop").await?;
    let checked = guest.long("server as postgres pg_checksums --check -D /data/postgres").await?;
    assert!(checked.contains("Bad checksums:  0"), "{checked}");
    Ok(())
}
