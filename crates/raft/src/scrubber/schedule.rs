//! The order of the scrub's steps. Pure: the time is passed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use helios_state::RunId;

/// Least time between the beginnings of two passes.
const PERIOD: Duration = Duration::from_secs(3_600);
/// Time from the start of the member to the first pass: a start has other reads.
const FIRST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Wait(Duration),
    /// A pass is due; [`Schedule::begin`] needs the files of now.
    Begin,
    Check(RunId),
    /// All files of the pass were handled.
    End,
}

/// The pass that is running, and the time of the next one. A pass handles the files that are live when it begins: a file
/// that replaces one of them was just written from checked blocks, and is part of the next pass.
pub struct Schedule {
    next_begin: Instant,
    pass: Option<VecDeque<RunId>>,
}

impl Schedule {
    pub fn new(now: Instant) -> Self {
        Self { next_begin: now + FIRST_PAUSE, pass: None }
    }

    /// Begins a pass over `files`, in this order.
    pub fn begin(&mut self, files: Vec<RunId>, now: Instant) {
        self.next_begin = now + PERIOD;
        self.pass = Some(files.into());
    }

    pub fn next(&mut self, now: Instant) -> Step {
        match &mut self.pass {
            None if now < self.next_begin => Step::Wait(self.next_begin - now),
            None => Step::Begin,
            Some(files) => match files.pop_front() {
                Some(file) => Step::Check(file),
                None => {
                    self.pass = None;
                    Step::End
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(id: u64) -> RunId {
        RunId { id, len: 10, crc: 0 }
    }

    #[test]
    fn pass_handles_every_file_once_in_order_and_the_next_begins_an_hour_after_it_began() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        assert_eq!(schedule.next(start), Step::Wait(FIRST_PAUSE));
        let begin = start + FIRST_PAUSE;
        assert_eq!(schedule.next(begin), Step::Begin);
        schedule.begin(vec![file(3), file(1)], begin);
        assert_eq!(schedule.next(begin), Step::Check(file(3)));
        assert_eq!(schedule.next(begin), Step::Check(file(1)));
        assert_eq!(schedule.next(begin), Step::End);
        let minute = Duration::from_secs(60);
        assert_eq!(schedule.next(begin + minute), Step::Wait(PERIOD - minute));
        assert_eq!(schedule.next(begin + PERIOD), Step::Begin);
    }

    #[test]
    fn pass_begins_at_once_when_the_one_before_took_longer_than_the_period() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        schedule.begin(Vec::new(), start);
        assert_eq!(schedule.next(start + 3 * PERIOD), Step::End);
        assert_eq!(schedule.next(start + 3 * PERIOD), Step::Begin);
    }
}
