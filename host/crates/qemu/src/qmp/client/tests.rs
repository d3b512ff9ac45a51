//! The client against a scripted peer.

use std::io::{Read, Seek, Write};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::*;
use crate::qmp::commands::{GetFd, QueryStatus, Stop};

const SOON: Duration = Duration::from_secs(5);

/// A QEMU that says what the test tells it to.
struct Peer {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Peer {
    async fn say(&mut self, text: &str) {
        self.writer.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next command's name and id.
    async fn hear(&mut self) -> (String, String) {
        let mut line = String::new();
        self.reader.read_line(&mut line).await.unwrap();
        let value: Value = serde_json::from_str(&line).unwrap();
        (value["execute"].as_str().unwrap().to_owned(), value["id"].as_str().unwrap().to_owned())
    }

    async fn reply(&mut self, id: &str, answer: &str) {
        self.say(&format!("{{\"return\": {answer}, \"id\": \"{id}\"}}\r\n")).await;
    }
}

async fn connected() -> (Arc<Client>, broadcast::Receiver<Event>, Peer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (reader, writer) = theirs.into_split();
    let mut peer = Peer { reader: BufReader::new(reader), writer };
    let handshake = async {
        peer.say("{\"QMP\": {\"version\": {\"qemu\": {}}}}\r\n").await;
        let (name, id) = peer.hear().await;
        assert_eq!(name, "qmp_capabilities");
        peer.reply(&id, "{}").await;
    };
    let (client, ()) = tokio::join!(Client::over(ours, SOON), handshake);
    let (client, events) = client.unwrap();
    (Arc::new(client), events, peer)
}

fn ask_status(client: &Arc<Client>, within: Duration) -> tokio::task::JoinHandle<Result<String, QmpError>> {
    let client = Arc::clone(client);
    tokio::spawn(async move { client.execute(&QueryStatus {}, within).await.map(|status| status.status) })
}

#[tokio::test]
async fn an_answer_reaches_its_caller_though_events_and_garbage_come_between() {
    let (client, mut events, mut peer) = connected().await;
    let status = ask_status(&client, SOON);
    let (_, id) = peer.hear().await;
    peer.say("{\"event\": \"STOP\"}\nnot json\n{\"return\": {}, \"id\": \"unknown\"}\n{\"return\": {}}\n").await;
    peer.reply(&id, r#"{"status": "running", "new": true}"#).await;
    assert_eq!(status.await.unwrap().unwrap(), "running");
    assert_eq!(events.recv().await.unwrap().name, "STOP");
}

#[tokio::test]
async fn an_answer_may_come_in_pieces_and_out_of_order() {
    let (client, _events, mut peer) = connected().await;
    let first = ask_status(&client, SOON);
    let (_, first_id) = peer.hear().await;
    let second = ask_status(&client, SOON);
    let (_, second_id) = peer.hear().await;
    peer.say(&format!("{{\"return\": {{\"status\": \"paused\"}}, \"id\": \"{second_id}\"}}\n{{\"return\": ")).await;
    assert_eq!(second.await.unwrap().unwrap(), "paused");
    peer.say(&format!("{{\"status\": \"running\"}}, \"id\": \"{first_id}\"}}\n")).await;
    assert_eq!(first.await.unwrap().unwrap(), "running");
}

#[tokio::test(start_paused = true)]
async fn a_late_reply_is_dropped_and_never_answers_the_next_command() {
    let (client, _events, mut peer) = connected().await;
    let late = client.execute(&Stop {}, Duration::from_millis(10)).await;
    assert!(matches!(late, Err(QmpError::Unanswered { command: "stop", .. })));
    let (_, late_id) = peer.hear().await;
    let status = ask_status(&client, SOON);
    let (_, id) = peer.hear().await;
    peer.say(&format!("{{\"error\": {{\"desc\": \"late\"}}, \"id\": \"{late_id}\"}}\n")).await;
    peer.reply(&id, r#"{"status": "paused"}"#).await;
    assert_eq!(status.await.unwrap().unwrap(), "paused");
}

#[tokio::test]
async fn a_refusal_keeps_its_words() {
    let (client, _events, mut peer) = connected().await;
    let status = ask_status(&client, SOON);
    let (_, id) = peer.hear().await;
    peer.say(&format!("{{\"id\": \"{id}\", \"error\": {{\"class\": \"GenericError\", \"desc\": \"not now\"}}}}\n"))
        .await;
    assert!(matches!(status.await.unwrap(), Err(QmpError::Refused { message, .. }) if message == "not now"));
}

#[tokio::test]
async fn an_answer_of_another_shape_is_an_error_and_the_connection_goes_on() {
    let (client, _events, mut peer) = connected().await;
    let status = ask_status(&client, SOON);
    let (_, id) = peer.hear().await;
    peer.reply(&id, "[]").await;
    assert!(matches!(status.await.unwrap(), Err(QmpError::Malformed { command: "query-status", .. })));
    assert!(!client.is_closed());
}

#[tokio::test]
async fn a_peer_that_hangs_up_in_mid_command_or_mid_line_ends_every_wait() {
    let (client, mut events, mut peer) = connected().await;
    let first = ask_status(&client, SOON);
    let second = ask_status(&client, SOON);
    let (_, id) = peer.hear().await;
    peer.say(&format!("{{\"return\": {{}}, \"id\": \"{id}")).await;
    drop(peer);
    assert!(matches!(first.await.unwrap(), Err(QmpError::Closed)));
    assert!(matches!(second.await.unwrap(), Err(QmpError::Closed)));
    assert!(matches!(client.execute(&Stop {}, SOON).await, Err(QmpError::Closed)));
    assert!(client.is_closed());
    assert!(matches!(events.recv().await, Err(broadcast::error::RecvError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_greets_or_never_answers_the_handshake_is_given_up() {
    let (ours, _silent) = UnixStream::pair().unwrap();
    assert!(matches!(Client::over(ours, SOON).await, Err(QmpError::NoGreeting { .. })));
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"garbage\n{\"QMP\": {}}\n").await.unwrap();
    assert!(matches!(Client::over(ours, SOON).await, Err(QmpError::Unanswered { command: "qmp_capabilities", .. })));
}

#[tokio::test]
async fn dropping_the_client_hangs_up() {
    let (client, _events, mut peer) = connected().await;
    drop(client);
    let mut line = String::new();
    assert_eq!(peer.reader.read_line(&mut line).await.unwrap(), 0);
}

#[tokio::test]
async fn a_descriptor_travels_with_its_command() {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    let (client, _events, peer) = connected().await;
    let mut file = tempfile::tempfile().unwrap();
    let sent = file.try_clone().unwrap().into();
    let socket = peer.reader.into_inner().reunite(peer.writer).unwrap();
    let received = async {
        let mut bytes = vec![0; 4096];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let read = socket.async_io(tokio::io::Interest::READABLE, || {
            Ok(recvmsg(&socket, &mut [std::io::IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty())?)
        });
        let count = read.await.unwrap().bytes;
        let fd = control
            .drain()
            .find_map(|message| if let RecvAncillaryMessage::ScmRights(mut fds) = message { fds.next() } else { None });
        let line: Value = serde_json::from_slice(&bytes[..count]).unwrap();
        assert_eq!(line["arguments"]["fdname"], "memory");
        let id = line["id"].as_str().unwrap();
        socket.writable().await.unwrap();
        socket.try_write(format!("{{\"return\": {{}}, \"id\": \"{id}\"}}\n").as_bytes()).unwrap();
        std::fs::File::from(fd.unwrap())
    };
    let command = GetFd { fdname: "memory" };
    let (answer, mut theirs) = tokio::join!(client.execute_with(&command, Some(sent), SOON), received);
    answer.unwrap();
    theirs.write_all(b"pages").unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "pages");
}
