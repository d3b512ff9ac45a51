use proptest::{collection::vec, prelude::*};

use super::*;

fn parse(parser: &mut Parser, bytes: &[u8]) -> Vec<Record> {
    parser.feed(bytes);
    std::iter::from_fn(|| parser.next_record()).collect()
}

fn nonce(byte: u8) -> Nonce {
    Nonce::from_bytes([byte; 16])
}

fn data(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert_eq!(encode_data(payload, &mut bytes), payload.len());
    bytes
}

#[test]
fn records_come_out_as_they_went_in() {
    let mut bytes = sled(Control::Hello, nonce(7));
    bytes.extend(data(b"one"));
    bytes.push(NOP);
    bytes.extend(data(b""));
    bytes.extend(data(&[9; MAX_PAYLOAD]));
    let wanted = [
        Record::Control(Control::Hello, nonce(7)),
        Record::Data(Bytes::from_static(b"one")),
        Record::Data(Bytes::from(vec![9; MAX_PAYLOAD])),
    ];
    assert_eq!(parse(&mut Parser::default(), &bytes), wanted);
    let mut parser = Parser::default();
    let one_by_one: Vec<_> = bytes.iter().flat_map(|byte| parse(&mut parser, &[*byte])).collect();
    assert_eq!(one_by_one, wanted);
}

#[test]
fn a_payload_longer_than_a_record_is_taken_in_part() {
    let mut bytes = Vec::new();
    assert_eq!(encode_data(&[1; MAX_PAYLOAD + 5], &mut bytes), MAX_PAYLOAD);
    assert_eq!(bytes.len(), SLED_LEN);
}

#[test]
fn garbage_is_said_once_and_skipped() {
    let mut parser = Parser::default();
    assert_eq!(parse(&mut parser, b"garbage, and more"), [Record::Lost]);
    assert_eq!(parse(&mut parser, b"still garbage"), []);
    assert_eq!(parse(&mut parser, &data(b"not to be trusted")), []);
    assert_eq!(parse(&mut parser, &control(Control::Hello, nonce(1))), [Record::Control(Control::Hello, nonce(1))]);
    assert_eq!(parse(&mut parser, &data(b"fine")), [Record::Data(Bytes::from_static(b"fine"))]);
}

#[test]
fn a_length_that_cannot_be_is_garbage() {
    assert_eq!(parse(&mut Parser::default(), &[DATA, 0xFF, 0xFF]), [Record::Lost]);
}

#[test]
fn skipping_does_not_hoard() {
    let mut parser = Parser::default();
    parser.feed(&[0x55]);
    assert_eq!(parser.next_record(), Some(Record::Lost));
    for _ in 0..100 {
        assert_eq!(parse(&mut parser, &[0xA1; 4096]), []);
        assert!(parser.buffer.len() < 16);
    }
}

proptest! {
    /// Whatever a dead host left behind, cut anywhere, and however the stream is cut into reads: the new HELLO is
    /// found, and what follows it is whole.
    #[test]
    fn a_hello_behind_a_sled_is_always_found(
        junk in vec(any::<u8>(), 0..400),
        payloads in vec(vec(any::<u8>(), 1..3000), 1..4),
        cut in any::<prop::sample::Index>(),
        step in 1_usize..40_000,
    ) {
        let mut stream = junk;
        let stale: Vec<u8> = payloads.iter().flat_map(|payload| data(payload)).collect();
        stream.extend_from_slice(&stale[..cut.index(stale.len())]);
        stream.extend(sled(Control::Hello, nonce(3)));
        let mut wanted: Vec<_> = vec![Record::Control(Control::Hello, nonce(3))];
        for payload in &payloads {
            stream.extend(data(payload));
            wanted.push(Record::Data(Bytes::copy_from_slice(payload)));
        }
        let mut parser = Parser::default();
        let found: Vec<_> = stream.chunks(step).flat_map(|chunk| parse(&mut parser, chunk)).collect();
        prop_assert!(found.ends_with(&wanted), "{} records", found.len());
    }

    /// No bytes make the parser panic, hoard, or give out more than it was fed.
    #[test]
    fn any_bytes_are_survived(chunks in vec(vec(any::<u8>(), 0..600), 0..20)) {
        let mut parser = Parser::default();
        let (mut fed, mut given) = (0, 0);
        for chunk in &chunks {
            fed += chunk.len();
            for record in parse(&mut parser, chunk) {
                if let Record::Data(payload) = record { given += payload.len(); }
            }
            prop_assert!(given <= fed);
            prop_assert!(parser.buffer.len() <= SLED_LEN + 600);
        }
    }

    /// The host finds its ACK behind any junk, and nothing before it reaches the session.
    #[test]
    fn an_ack_is_found_behind_anything(
        junk in vec(any::<u8>(), 0..5000),
        payload in vec(any::<u8>(), 1..2000),
        step in 1_usize..6000,
    ) {
        let mut stream = junk;
        stream.extend_from_slice(&control(Control::Ack, nonce(8)));
        stream.extend_from_slice(&control(Control::Ack, nonce(9)));
        stream.extend(data(&payload));
        let mut search = AckSearch::new(nonce(9));
        let mut parser: Option<Parser> = None;
        let mut found = Vec::new();
        for chunk in stream.chunks(step) {
            match &mut parser {
                None => parser = search.feed(chunk),
                Some(parser) => parser.feed(chunk),
            }
            if let Some(parser) = &mut parser {
                found.extend(std::iter::from_fn(|| parser.next_record()));
            }
        }
        prop_assert_eq!(found, [Record::Data(Bytes::from(payload))]);
    }
}
