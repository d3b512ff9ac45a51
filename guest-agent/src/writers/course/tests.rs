use super::*;

/// Plays a session: writers answer as they are told, and every question is noted.
struct Play {
    course: Course,
    now: Instant,
    asked: Vec<String>,
}

const NAMES: [(&str, WriterLevel); 3] =
    [("web", WriterLevel::FrontEnd), ("db", WriterLevel::BackEnd), ("disk", WriterLevel::System)];

impl Play {
    fn new(policy: WriterPolicy) -> Self {
        let writer = |(at, (name, level)): (usize, (&str, WriterLevel))| {
            let mut registration = Registration::new(name, "id", level);
            registration.budgets.hold = (name == "db").then_some(Duration::from_secs(20));
            (Key(at as u64), Arc::new(registration), WriterFacts::default())
        };
        let course = Course::new(NAMES.into_iter().enumerate().map(writer).collect(), policy);
        Self { course, now: Instant::now(), asked: Vec::new() }
    }

    /// Takes a step as the conductor does; `answer` says what comes of each question.
    fn step(&mut self, step: Step, answer: impl Fn(&str, WriterEvent) -> Result<Done, Trouble>) -> bool {
        for round in step.rounds() {
            for (key, _) in self.course.asks(*round) {
                let name = NAMES[usize::try_from(key.0).unwrap()].0;
                self.asked.push(format!("{name} {:?}", round.event));
                self.course.answered(key, round.event, self.now, self.now, answer(name, round.event));
            }
            if step <= Step::Settle && !self.course.may_go_on() {
                return false;
            }
        }
        true
    }

    fn well(&mut self, step: Step) -> bool {
        self.step(step, |_, _| Ok(Done::default()))
    }

    fn results(&self) -> Vec<WriterResult> {
        self.course.outcomes().into_iter().map(|outcome| outcome.result).collect()
    }
}

fn refusal() -> Trouble {
    Trouble::Refused(Failure::retryable("busy"))
}

#[test]
fn front_ends_are_frozen_first_and_thawed_last() {
    let mut play = Play::new(WriterPolicy::Required);
    assert!(play.well(Step::Prepare));
    play.asked.clear();
    assert!(play.well(Step::Freeze) && play.well(Step::Thaw));
    let wanted = ["web Freeze", "db Freeze", "disk Freeze", "disk Thaw", "db Thaw", "web Thaw"];
    assert_eq!(play.asked, wanted);
    assert!(play.course.held_throughout());
    assert_eq!(play.results(), [WriterResult::Held; 3]);
}

#[test]
fn the_data_is_called_safe_only_to_those_who_have_cleaned_up() {
    let mut play = Play::new(WriterPolicy::Required);
    assert!(play.well(Step::Prepare) && play.well(Step::Freeze) && play.well(Step::Thaw));
    play.asked.clear();
    play.well(Step::Complete);
    assert_eq!(play.asked, [""; 0]);
    assert!(play.well(Step::Settle) && play.well(Step::Complete));
    play.asked.clear();
    play.well(Step::Abort);
    assert_eq!(play.asked, [""; 0], "what is complete is not undone");
    play.well(Step::Shutdown);
    assert_eq!(play.asked, ["web BackupShutdown", "db BackupShutdown", "disk BackupShutdown"]);
}

#[test]
fn a_refusal_stops_the_freeze_before_the_next_level_and_everyone_is_told_to_undo_once() {
    let mut play = Play::new(WriterPolicy::Required);
    play.well(Step::Prepare);
    play.asked.clear();
    let refuses = |name: &str, event| match (name, event) {
        ("db", WriterEvent::Freeze) => Err(refusal()),
        _ => Ok(Done::default()),
    };
    assert!(!play.step(Step::Freeze, refuses));
    play.well(Step::Abort);
    play.well(Step::Abort);
    assert_eq!(play.asked, ["web Freeze", "db Freeze", "disk Abort", "db Abort", "web Abort"]);
    let db = &play.course.outcomes()[1];
    assert_eq!((db.result, db.detail.as_str()), (WriterResult::Refused, "at Freeze: busy"));
    assert_eq!(db.facts.state.number(), 9);
    assert_eq!(db.facts.last_error, Some(WriterError::Retryable));
    assert_eq!(play.results(), [WriterResult::Stable, WriterResult::Refused, WriterResult::Stable]);
}

#[test]
fn under_the_other_policy_the_rest_goes_on_and_the_writer_is_named() {
    let mut play = Play::new(WriterPolicy::LeaveOut);
    play.well(Step::Prepare);
    let silent = |name: &str, event| match (name, event) {
        ("web", WriterEvent::Freeze) => Err(Trouble::TimedOut(Duration::from_secs(1))),
        _ => Ok(Done::default()),
    };
    assert!(play.step(Step::Freeze, silent));
    assert_eq!(play.course.strays().iter().map(|(key, _)| key.0).collect::<Vec<_>>(), [0]);
    play.course.answered(Key(0), WriterEvent::Abort, play.now, play.now, Ok(Done::default()));
    assert_eq!(play.course.strays(), []);
    assert!(play.well(Step::Thaw) && play.course.held_throughout());
    assert_eq!(play.results(), [WriterResult::LeftOut, WriterResult::Held, WriterResult::Held]);
    assert_eq!(play.course.in_the_way(), ["web"]);
}

#[test]
fn a_writer_that_vanishes_while_it_is_held_was_not_held_throughout() {
    for (policy, throughout) in [(WriterPolicy::Required, false), (WriterPolicy::LeaveOut, true)] {
        let mut play = Play::new(policy);
        assert!(play.well(Step::Prepare) && play.well(Step::Freeze));
        play.course.vanished(Key(1));
        play.asked.clear();
        for round in Step::Thaw.rounds() {
            for (key, _) in play.course.asks(*round) {
                play.course.answered(key, round.event, play.now, play.now, Ok(Done::default()));
                play.asked.push(key.0.to_string());
            }
        }
        assert_eq!(play.asked, ["2", "0"], "the others are thawed all the same");
        assert_eq!(play.course.held_throughout(), throughout);
    }
}

#[test]
fn a_writer_held_longer_than_it_can_be_was_not_held() {
    let mut play = Play::new(WriterPolicy::Required);
    assert!(play.well(Step::Prepare) && play.well(Step::Freeze));
    play.now += Duration::from_secs(21);
    assert!(!play.well(Step::Thaw) || !play.course.may_go_on());
    assert!(!play.course.held_throughout());
    assert_eq!(play.results()[1], WriterResult::TimedOut);
}

#[test]
fn metadata_grows_and_later_words_replace_earlier_ones() {
    let mut play = Play::new(WriterPolicy::Required);
    play.step(Step::Prepare, |_, event| Ok(Done::keeping([("said at", format!("{event:?}"))])));
    play.step(Step::Freeze, |_, _| Ok(Done::keeping([("lsn", "0/1".to_owned())])));
    let kept = &play.course.outcomes()[0].facts.metadata;
    assert_eq!(
        kept.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>(),
        ["lsn=0/1", "said at=PrepareSnapshot"]
    );
}
