//! Background work of a member's threads that must not delay its requests: priority and rate.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

/// Bytes after which the rate is checked.
const PACE_BYTES: u64 = 1 << 20;

/// Limit of the rate at which a thread reads.
pub struct Throttle<'a> {
    bytes_per_second: u64,
    /// Disconnected when the member stops, which ends a pause.
    end: &'a Receiver<()>,
    bytes: u64,
    since: Instant,
}

impl<'a> Throttle<'a> {
    pub fn new(bytes_per_second: u64, end: &'a Receiver<()>) -> Self {
        Self { bytes_per_second, end, bytes: 0, since: Instant::now() }
    }

    /// Charges `read` bytes, and waits if they came too early. Breaks when the member stops.
    pub fn charge(&mut self, read: u64) -> ControlFlow<()> {
        self.bytes += read;
        if self.bytes < PACE_BYTES {
            return ControlFlow::Continue(());
        }
        let pause = pause(self.bytes, self.bytes_per_second, self.since.elapsed());
        let is_over = matches!(self.end.recv_timeout(pause), Err(RecvTimeoutError::Disconnected));
        (self.bytes, self.since) = (0, Instant::now());
        if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Returns the pause after `bytes` that were read in `took`. Time that was not used is not saved for a burst.
fn pause(bytes: u64, bytes_per_second: u64, took: Duration) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).saturating_sub(took)
}

/// Sets the nice value of this thread.
pub fn lower_priority(nice: i32) {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), nice) {
        tracing::debug!(%error, nice, "cannot lower the priority of a background thread");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_is_the_time_of_the_bytes_less_the_time_that_they_took() {
        let ms = Duration::from_millis;
        assert_eq!(pause(1 << 20, 8 << 20, ms(0)), ms(125));
        assert_eq!(pause(1 << 20, 8 << 20, ms(25)), ms(100));
        assert_eq!(pause(1 << 20, 8 << 20, ms(500)), ms(0));
        assert_eq!(pause(1 << 20, 64 << 10, ms(0)), ms(16_000));
    }

    #[test]
    fn throttle_breaks_without_a_pause_when_the_member_stops() {
        let (sender, end) = crossbeam_channel::bounded(0);
        let mut throttle = Throttle::new(1, &end);
        assert!(throttle.charge(PACE_BYTES - 1).is_continue());
        drop(sender);
        assert!(throttle.charge(1).is_break());
    }
}
