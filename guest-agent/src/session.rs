//! One quiesce session, as a machine without side effects: what happened goes in, what to do comes out.
//!
//! ```text
//!            Start          Prepared         Freeze           Frozen          Thaw           Thawed
//!   Opened ─────────▶ Preparing ─────▶ Prepared ─────▶ Freezing ─────▶ Held ─────▶ Thawing ─────▶ Released
//!                                        │               │ │ Refused    │ Lapsed      ▲  ▲            │ Thaw
//!                                        │               │ └────────────┴─────────────│──│──▶Released │
//!                                        └──── Thaw ─────│────────────────────────────┘  └────────────┘
//!                                                        │ Thaw                       ▲
//!                                                        └──────▶ Cancelling ─────────┘
//! ```
//! A `Prepared` that was refused leads to `Released` too. There, `Settle` and `Complete` may be asked, and are answered.
//!
//! From every state, `Gone` (the stream, the connection or the host) and every message out of turn lead to `Ended`,
//! and the way there is always a thaw; a freeze that is still under way is cancelled and waited for in `Abandoned`.

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing was asked yet.
    Opened,
    /// Looking at the guest, writing out.
    Preparing,
    /// Ready to freeze; nothing is held.
    Prepared,
    /// Freezing.
    Freezing,
    /// Freezing, and to be thawed as soon as that has ended.
    Cancelling,
    /// Freezing, and nobody is left to tell.
    Abandoned,
    /// The guest is held.
    Held,
    /// Thawing.
    Thawing,
    /// The guest goes on; the session can still be asked how the hold ended, and writers can be settled.
    Released,
    /// Writers clean up, or are told that the data is safe.
    Settling,
    /// Over.
    Ended,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The host sent Start.
    Start,
    /// The host sent Freeze.
    Freeze,
    /// The host sent Thaw.
    Thaw,
    /// The host sent Settle.
    Settle,
    /// The host sent Complete.
    Complete,
    /// Preparing is done.
    Prepared,
    /// Everything is frozen.
    Frozen,
    /// It cannot be prepared, or nothing is frozen.
    Refused,
    /// Thawing is done.
    Thawed,
    /// Writers have been settled, or know that the data is safe.
    Settled,
    /// The lease ended.
    Lapsed,
    /// The host has closed the stream, or is gone, or has begun a new connection.
    Gone,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Begin to prepare.
    Prepare,
    /// Begin to freeze.
    Freeze,
    /// Tell the freeze under way that it is not wanted any more.
    Cancel,
    /// Begin to thaw.
    Thaw,
    /// Let writers undo what they had begun: there is no hold, or it has lapsed.
    Release,
    /// Let writers clean up.
    Settle,
    /// Tell writers that the data is safe.
    Complete,
    /// Send the host what the event brought.
    Answer,
    /// Tell the host that its message was out of turn.
    OutOfTurn,
    /// Thaw whatever may be held, and end.
    End,
}

/// The next state, and what to do on the way.
#[must_use]
pub const fn on(state: State, event: Event) -> (State, &'static [Act]) {
    use State::{
        Abandoned, Cancelling, Ended, Freezing, Held, Opened, Prepared, Preparing, Released, Settling, Thawing,
    };
    match (state, event) {
        (Ended, _) => (Ended, &[]),
        (Opened, Event::Start) => (Preparing, &[Act::Prepare]),
        (Preparing, Event::Prepared) => (Prepared, &[Act::Answer]),
        (Preparing, Event::Refused) => (Released, &[Act::Answer]),
        (Prepared, Event::Freeze) => (Freezing, &[Act::Freeze]),
        (Prepared | Held | Released, Event::Thaw) => (Thawing, &[Act::Thaw]),

        (Freezing, Event::Frozen) => (Held, &[Act::Answer]),
        (Freezing, Event::Refused) => (Released, &[Act::Answer, Act::Release]),
        (Freezing, Event::Thaw) => (Cancelling, &[Act::Cancel]),
        (Cancelling, Event::Frozen | Event::Refused) => (Thawing, &[Act::Answer, Act::Thaw]),
        (Freezing | Cancelling, Event::Gone) => (Abandoned, &[Act::Cancel]),
        (Abandoned, Event::Frozen | Event::Refused) => (Ended, &[Act::End]),
        (Abandoned, _) => (Abandoned, &[]),

        (Held, Event::Lapsed) => (Released, &[Act::Answer, Act::Release]),
        (Thawing, Event::Thawed) => (Released, &[Act::Answer]),
        // The thaw that is under way answers that the hold had lapsed.
        (Thawing, Event::Lapsed) => (Thawing, &[]),

        (Released, Event::Settle) => (Settling, &[Act::Settle]),
        (Released, Event::Complete) => (Settling, &[Act::Complete]),
        (Settling, Event::Settled) => (Released, &[Act::Answer]),

        (Opened | Preparing | Prepared | Held | Thawing | Released | Settling, Event::Gone) => (Ended, &[Act::End]),

        (Freezing | Cancelling, Event::Start | Event::Freeze | Event::Settle | Event::Complete)
        | (Cancelling, Event::Thaw) => (Abandoned, &[Act::OutOfTurn, Act::Cancel]),
        (
            Opened | Preparing | Prepared | Held | Thawing | Released | Settling,
            Event::Start | Event::Freeze | Event::Thaw | Event::Settle | Event::Complete,
        ) => (Ended, &[Act::OutOfTurn, Act::End]),
        // Answers that nobody asked for: a defect of ours, and a thaw is never wrong.
        (_, Event::Prepared | Event::Frozen | Event::Refused | Event::Thawed | Event::Settled | Event::Lapsed) => {
            (Ended, &[Act::End])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 11] = [
        State::Opened,
        State::Preparing,
        State::Prepared,
        State::Freezing,
        State::Cancelling,
        State::Abandoned,
        State::Held,
        State::Thawing,
        State::Released,
        State::Settling,
        State::Ended,
    ];

    /// Walks the machine; answers the states passed and everything done.
    fn walk(events: &[Event]) -> (Vec<State>, Vec<Act>) {
        let (mut state, mut states, mut acts) = (State::Opened, Vec::new(), Vec::new());
        for event in events {
            let (next, todo) = on(state, *event);
            state = next;
            states.push(next);
            acts.extend_from_slice(todo);
        }
        (states, acts)
    }

    #[test]
    fn a_session_is_prepared_frozen_thawed_and_over() {
        use Event::{Freeze, Frozen, Gone, Prepared, Start, Thaw, Thawed};
        let (states, acts) = walk(&[Start, Prepared, Freeze, Frozen, Thaw, Thawed, Gone]);
        let wanted = [
            State::Preparing,
            State::Prepared,
            State::Freezing,
            State::Held,
            State::Thawing,
            State::Released,
            State::Ended,
        ];
        assert_eq!(states, wanted);
        let wanted = [Act::Prepare, Act::Answer, Act::Freeze, Act::Answer, Act::Thaw, Act::Answer, Act::End];
        assert_eq!(acts, wanted);
    }

    #[test]
    fn what_happens_in_each_state() {
        use Event as E;
        use State as S;
        let table: &[(S, E, S, &[Act])] = &[
            (S::Opened, E::Freeze, S::Ended, &[Act::OutOfTurn, Act::End]),
            (S::Opened, E::Thaw, S::Ended, &[Act::OutOfTurn, Act::End]),
            (S::Preparing, E::Gone, S::Ended, &[Act::End]),
            (S::Prepared, E::Thaw, S::Thawing, &[Act::Thaw]),
            (S::Prepared, E::Start, S::Ended, &[Act::OutOfTurn, Act::End]),
            (S::Freezing, E::Refused, S::Released, &[Act::Answer, Act::Release]),
            (S::Freezing, E::Thaw, S::Cancelling, &[Act::Cancel]),
            (S::Freezing, E::Gone, S::Abandoned, &[Act::Cancel]),
            (S::Freezing, E::Freeze, S::Abandoned, &[Act::OutOfTurn, Act::Cancel]),
            (S::Cancelling, E::Frozen, S::Thawing, &[Act::Answer, Act::Thaw]),
            (S::Cancelling, E::Refused, S::Thawing, &[Act::Answer, Act::Thaw]),
            (S::Cancelling, E::Gone, S::Abandoned, &[Act::Cancel]),
            (S::Abandoned, E::Frozen, S::Ended, &[Act::End]),
            (S::Abandoned, E::Refused, S::Ended, &[Act::End]),
            (S::Preparing, E::Refused, S::Released, &[Act::Answer]),
            (S::Prepared, E::Settle, S::Ended, &[Act::OutOfTurn, Act::End]),
            (S::Freezing, E::Complete, S::Abandoned, &[Act::OutOfTurn, Act::Cancel]),
            (S::Held, E::Lapsed, S::Released, &[Act::Answer, Act::Release]),
            (S::Released, E::Settle, S::Settling, &[Act::Settle]),
            (S::Released, E::Complete, S::Settling, &[Act::Complete]),
            (S::Settling, E::Settled, S::Released, &[Act::Answer]),
            (S::Settling, E::Gone, S::Ended, &[Act::End]),
            (S::Settling, E::Thaw, S::Ended, &[Act::OutOfTurn, Act::End]),
            (S::Held, E::Gone, S::Ended, &[Act::End]),
            (S::Held, E::Freeze, S::Ended, &[Act::OutOfTurn, Act::End]),
            (S::Thawing, E::Lapsed, S::Thawing, &[]),
            (S::Thawing, E::Gone, S::Ended, &[Act::End]),
            (S::Released, E::Thaw, S::Thawing, &[Act::Thaw]),
            (S::Released, E::Freeze, S::Ended, &[Act::OutOfTurn, Act::End]),
        ];
        for (state, event, next, acts) in table {
            assert_eq!(on(*state, *event), (*next, *acts), "{state:?} on {event:?}");
        }
    }

    #[test]
    fn a_session_whose_host_is_gone_ends_thawed_from_every_state() {
        for state in STATES {
            let (next, acts) = on(state, Event::Gone);
            if next == State::Ended {
                assert!(state == State::Ended || acts.ends_with(&[Act::End]), "{state:?}");
                continue;
            }
            assert_eq!(next, State::Abandoned, "{state:?}");
            for event in [Event::Frozen, Event::Refused] {
                assert_eq!(on(next, event), (State::Ended, &[Act::End][..]));
            }
        }
    }
}
