//! Speaks to an agent by hand: `guestctl SOCKET hello|watch|clock|poweroff|reboot|quiesce [LEASE_MS [HOLD_MS [ROUNDS]]]`.

use std::{error::Error, path::PathBuf, time::Duration};

use stillpoint_common::{QuiesceRequest, SessionId, WriterRequest};
use stillpoint_engine::ports::PowerAction;
use stillpoint_guestlink::{GuestLink, Limits};
use tokio::time::{Instant, sleep};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let socket = PathBuf::from(words.next().ok_or("no socket")?);
    let command = words.next().ok_or("no command")?;
    let numbers: Vec<u64> = words.map(|word| word.parse()).collect::<Result<_, _>>()?;
    let number = |at: usize, default: u64| numbers.get(at).copied().unwrap_or(default);
    let link = GuestLink::new(socket, Limits::default());
    let began = Instant::now();
    match command.as_str() {
        "hello" => println!("{:#?}", link.hello().await?),
        "clock" => println!("{:?}", link.set_clock().await?),
        "poweroff" => link.power(PowerAction::PowerOff).await?,
        "reboot" => link.power(PowerAction::Reboot).await?,
        "watch" => {
            let mut watch = link.watch(Duration::from_secs(1)).await?;
            for _ in 0..number(0, 5) {
                println!("{:?}", watch.next().await?);
            }
        }
        "quiesce" => {
            let (lease, hold) = (Duration::from_millis(number(0, 10_000)), Duration::from_millis(number(1, 10)));
            for _ in 0..number(2, 1) {
                quiesce(&link, lease, hold).await?;
            }
        }
        other => return Err(format!("unknown command {other}").into()),
    }
    println!("took {:?}", began.elapsed());
    Ok(())
}

async fn quiesce(link: &GuestLink, lease: Duration, hold: Duration) -> Result<(), Box<dyn Error>> {
    let request = QuiesceRequest { session: SessionId::generate(), lease, writers: WriterRequest::default() };
    let began = Instant::now();
    let (mut session, _) = link.prepare(&request).await?;
    let prepared = began.elapsed();
    let frozen = session.freeze().await?;
    let freeze = began.elapsed() - prepared;
    sleep(hold).await;
    let asked = Instant::now();
    let thawed = session.thaw().await?;
    let each: Vec<_> = frozen.file_systems.iter().map(|fs| (&fs.mount_point, fs.result, fs.took)).collect();
    println!("prepare {prepared:?} freeze {freeze:?} thaw {:?} {thawed:?} {each:?}", asked.elapsed());
    Ok(())
}
