//! What agent and guardian say to each other: one packet a message, descriptors beside it.

use std::time::Duration;

/// Descriptors that go with one packet, at most; the kernel's limit is 253.
pub(super) const FDS_PER_PACKET: usize = 64;
/// Length of every packet.
pub(super) const PACKET: usize = 16;

/// From the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The descriptors beside this are to be guarded.
    Guard,
    /// The lease begins now. With the state to give back to the kernel's hurry, if it is known.
    Arm { seq: u32, lease: Duration, hurry: Option<bool> },
    /// The hold is over. What is guarded is forgotten.
    Disarm { seq: u32 },
}

/// From the guardian. It answers Arm and Disarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// Which order it answers.
    pub(super) seq: u32,
    /// The guardian let go before it was disarmed.
    pub(super) released: bool,
}

impl Order {
    pub(super) fn encode(self) -> [u8; PACKET] {
        match self {
            Self::Guard => packet(1, 0, 0, 0),
            Self::Arm { seq, lease, hurry } => {
                packet(2, hurry.map_or(2, u8::from), seq, u32::try_from(lease.as_millis()).unwrap_or(u32::MAX))
            }
            Self::Disarm { seq } => packet(3, 0, seq, 0),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, flag, seq, value) = unpack(bytes)?;
        match kind {
            1 => Some(Self::Guard),
            2 => {
                let hurry = if flag < 2 { Some(flag == 1) } else { None };
                Some(Self::Arm { seq, lease: Duration::from_millis(u64::from(value)), hurry })
            }
            3 => Some(Self::Disarm { seq }),
            _ => None,
        }
    }
}

impl Answer {
    pub(super) fn encode(self) -> [u8; PACKET] {
        packet(4, u8::from(self.released), self.seq, 0)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, flag, seq, _) = unpack(bytes)?;
        (kind == 4).then_some(Self { seq, released: flag == 1 })
    }
}

fn packet(kind: u8, flag: u8, seq: u32, value: u32) -> [u8; PACKET] {
    let mut bytes = [0; PACKET];
    (bytes[0], bytes[1]) = (kind, flag);
    bytes[4..8].copy_from_slice(&seq.to_ne_bytes());
    bytes[8..12].copy_from_slice(&value.to_ne_bytes());
    bytes
}

fn unpack(bytes: &[u8]) -> Option<(u8, u8, u32, u32)> {
    let bytes: &[u8; PACKET] = bytes.try_into().ok()?;
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Some((bytes[0], bytes[1], word(4), word(8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back() {
        let lease = Duration::from_millis(12_345);
        let orders = [
            Order::Guard,
            Order::Arm { seq: 7, lease, hurry: None },
            Order::Arm { seq: 8, lease, hurry: Some(true) },
            Order::Arm { seq: 9, lease, hurry: Some(false) },
            Order::Disarm { seq: u32::MAX },
        ];
        for order in orders {
            assert_eq!(Order::decode(&order.encode()), Some(order));
            assert_eq!(Answer::decode(&order.encode()), None);
        }
        let answer = Answer { seq: 3, released: true };
        assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        assert_eq!(Order::decode(&answer.encode()), None);
        assert_eq!(Order::decode(b""), None);
    }
}
