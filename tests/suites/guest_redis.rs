//! A real Redis in a real guest, under load: no write is acknowledged while it is held, and every one that was
//! acknowledged before is there after an apply.

use stillpoint_tests::server_guest::{NOTES, ServerGuest, kept};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// One write after the other, each with its number, and what was answered.
const LOAD: &str = "while echo INCR n; do :; done | server as redis redis-cli -s /run/redis/ledger.sock \
                    > /run/acknowledged 2> /run/acknowledged.err &";

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_acknowledged_before_the_cut_is_there_after_an_apply() -> Tested {
    let mut guest = ServerGuest::boot(512).await?;
    guest.script(&["notes"], NOTES).await?;
    guest.long("server redis start").await?;
    guest.writers(&["Redis ledger", "notes"]).await?;
    guest.lab.sh(LOAD).await?;
    guest.long("until [ $(cat /run/acknowledged | wc -l) -gt 200 ]; do usleep 100000; done").await?;

    let made = guest.checkpoint("mid-load").await?;
    let [before, after] = ["before", "after"].map(|key| kept(&made, "notes", key).map(str::to_owned));
    let (before, after): (u64, u64) = (before?.parse()?, after?.parse()?);
    assert!(before > 200 && before == after, "no write is acknowledged while it is held: {before}, {after}");
    assert_eq!(kept(&made, "Redis ledger", "persistence")?, "aof");
    guest.long(&format!("until [ $(tail -n1 /run/acknowledged) -gt {} ]; do usleep 100000; done", after + 200)).await?;

    guest.boot_from(&made).await?;
    let checked =
        guest.long("server as redis redis-check-aof /data/redis/appendonlydir/appendonly.aof.manifest").await?;
    assert!(checked.contains("All AOF files and manifest are valid"), "{checked}");
    guest.long("server redis start").await?;
    let found = guest.long("server as redis redis-cli -s /run/redis/ledger.sock get n").await?;
    println!("acknowledged {after} before the cut; found {found}");
    // One that was not answered yet may be there.
    let found: u64 = found.trim().parse()?;
    assert!((after..=after + 1).contains(&found), "acknowledged {after}, and {found} is there");
    Ok(())
}
