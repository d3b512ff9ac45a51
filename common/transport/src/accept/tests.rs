use std::path::PathBuf;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::*;
use crate::{SocketPort, dial};

struct Loopback {
    _folder: tempfile::TempDir,
    path: PathBuf,
    link: AgentLink,
}

impl Loopback {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent");
        let link = AgentLink::listen(SocketPort::bind(&path).unwrap());
        Self { _folder: folder, path, link }
    }

    async fn connect(&mut self) -> (SessionStream, SessionStream) {
        let deadline = Instant::now() + Duration::from_secs(5);
        let (host, agent) = tokio::join!(dial(&self.path, deadline), self.link.accept());
        (host.unwrap(), agent.unwrap().stream)
    }
}

async fn both_ways(host: &mut SessionStream, agent: &mut SessionStream) {
    let sent: Vec<u8> = (0..400_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let (mut to_agent, mut to_host) = (vec![0; sent.len()], vec![0; sent.len()]);
    {
        let ((mut host_in, mut host_out), (mut agent_in, mut agent_out)) =
            (tokio::io::split(host), tokio::io::split(agent));
        let (a, b, c, d) = tokio::join!(
            host_out.write_all(&sent),
            agent_in.read_exact(&mut to_agent),
            agent_out.write_all(&sent),
            host_in.read_exact(&mut to_host)
        );
        a.unwrap();
        b.unwrap();
        c.unwrap();
        d.unwrap();
    }
    assert!(to_agent == sent && to_host == sent);
}

#[tokio::test]
async fn bytes_go_both_ways_in_session_after_session() {
    let mut loopback = Loopback::new();
    for _ in 0..5 {
        let (mut host, mut agent) = loopback.connect().await;
        both_ways(&mut host, &mut agent).await;
    }
}

#[tokio::test]
async fn a_host_that_dies_in_the_middle_of_a_record_leaves_nothing_behind() {
    let mut loopback = Loopback::new();
    for cut in [1, 2, 3, 500, 5002] {
        let mut dying = UnixStream::connect(&loopback.path).await.unwrap();
        dying.write_all(&record::sled(Control::Hello, Nonce::random().unwrap())).await.unwrap();
        let mut old = loopback.link.accept().await.unwrap().stream;
        let mut half = Vec::new();
        record::encode_data(&[7; 5000], &mut half);
        dying.write_all(&half[..cut]).await.unwrap();
        drop(dying);
        let (mut host, mut agent) = loopback.connect().await;
        both_ways(&mut host, &mut agent).await;
        let mut left_over = Vec::new();
        old.read_to_end(&mut left_over).await.unwrap();
        assert!(left_over.len() <= 5000, "the sled fills up the half record, for the old session only");
    }
}

#[tokio::test]
async fn a_host_behind_a_stream_of_old_output_begins_at_its_own_answer() {
    let mut loopback = Loopback::new();
    let (host, mut agent) = loopback.connect().await;
    // The agent goes on writing to a host that reads nothing and then dies: half a record stays in the writer.
    let flood = tokio::spawn(async move { while agent.write_all(&[0xA2; 10_000]).await.is_ok() {} });
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(host);
    let (mut host, mut agent) = loopback.connect().await;
    both_ways(&mut host, &mut agent).await;
    timeout(Duration::from_secs(5), flood).await.expect("the old session sees its end").unwrap();
}

#[tokio::test]
async fn the_old_session_ends_when_a_new_one_begins() {
    let mut loopback = Loopback::new();
    let (host, mut old) = loopback.connect().await;
    drop(host);
    let (_host, _agent) = loopback.connect().await;
    let end = timeout(Duration::from_secs(1), old.read_to_end(&mut Vec::new())).await;
    assert_eq!(end.expect("the old session ends").unwrap(), 0);
}

#[tokio::test]
async fn a_host_that_goes_away_ends_the_session_after_the_grace() {
    let mut loopback = Loopback::new();
    let (host, mut agent) = loopback.connect().await;
    drop(host);
    let end = timeout(GRACE * 5, agent.read_to_end(&mut Vec::new())).await;
    assert_eq!(end.expect("the session ends").unwrap(), 0);
}

#[tokio::test]
async fn an_agent_that_drops_its_session_tells_the_host() {
    let mut loopback = Loopback::new();
    let (mut host, agent) = loopback.connect().await;
    drop(agent);
    let end = timeout(Duration::from_secs(1), host.read_to_end(&mut Vec::new())).await;
    assert_eq!(end.expect("the host sees the end").unwrap(), 0);
}

#[tokio::test]
async fn garbage_ends_the_session_and_the_next_one_works() {
    let mut loopback = Loopback::new();
    let mut host = UnixStream::connect(&loopback.path).await.unwrap();
    host.write_all(&record::sled(Control::Hello, Nonce::random().unwrap())).await.unwrap();
    let mut agent = loopback.link.accept().await.unwrap().stream;
    host.write_all(b"\x03\xff\xffand so on").await.unwrap();
    let end = timeout(Duration::from_secs(1), agent.read_to_end(&mut Vec::new())).await;
    assert_eq!(end.expect("the session ends").unwrap(), 0);
    drop(host);
    let (mut host, mut agent) = loopback.connect().await;
    both_ways(&mut host, &mut agent).await;
}

#[tokio::test]
async fn a_new_agent_resets_the_session_of_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent");
    // The test plays QEMU: one socket that outlives the agent.
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let host = tokio::spawn({
        let path = path.clone();
        async move { dial(&path, Instant::now() + Duration::from_secs(5)).await }
    });
    let (mut guest, _) = listener.accept().await.unwrap();
    let mut hello = vec![0; record::SLED_LEN + record::CONTROL_LEN];
    guest.read_exact(&mut hello).await.unwrap();
    let nonce: [u8; 16] = hello[record::SLED_LEN + 16..].try_into().unwrap();
    guest.write_all(&record::control(Control::Ack, Nonce::from_bytes(nonce))).await.unwrap();
    let mut half = Vec::new();
    record::encode_data(&[1; 900], &mut half);
    guest.write_all(&half[..450]).await.unwrap();
    guest.write_all(&record::sled(Control::Reset, Nonce::NONE)).await.unwrap();
    let mut host = host.await.unwrap().unwrap();
    let mut got = Vec::new();
    timeout(Duration::from_secs(1), host.read_to_end(&mut got)).await.expect("the host sees the end").unwrap();
    assert_eq!(got.len(), 900, "the sled fills up the half record");
}

#[tokio::test]
async fn a_guest_that_never_answers_is_given_up_at_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent");
    let refused = dial(&path, Instant::now() + Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(refused, crate::DialError::Socket(_)), "{refused}");
    let _listener = tokio::net::UnixListener::bind(&path).unwrap();
    let began = Instant::now();
    let silent = dial(&path, began + Duration::from_millis(900)).await.unwrap_err();
    assert!(matches!(silent, crate::DialError::NoAnswer { attempts: 2.. }), "{silent}");
    assert!(began.elapsed() < Duration::from_millis(1500));
}
