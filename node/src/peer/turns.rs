//! Mutual exclusion in which the newest caller wins: a snapshot is received from the newest stream only, since an
//! earlier one may be a dead connection that has not been detected yet.

use tokio::sync::{Mutex, MutexGuard, watch};

#[derive(Default)]
pub struct Turns {
    newest: watch::Sender<u64>,
    taken: Mutex<()>,
}

pub struct Turn<'a> {
    number: u64,
    newest: watch::Receiver<u64>,
    _taken: MutexGuard<'a, ()>,
}

impl Turns {
    /// Requests the end of the previous turn, and resolves once it has ended.
    pub async fn take(&self) -> Turn<'_> {
        let mut number = 0;
        self.newest.send_modify(|newest| {
            *newest += 1;
            number = *newest;
        });
        Turn { number, newest: self.newest.subscribe(), _taken: self.taken.lock().await }
    }
}

impl Turn<'_> {
    /// Resolves when a newer caller requests the turn.
    pub async fn over(&mut self) {
        let number = self.number;
        // The sender is in `Turns`, which outlives every turn.
        drop(self.newest.wait_for(|newest| *newest != number).await);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_ready<F: Future>(future: F) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test]
    async fn the_newest_caller_gets_its_turn_once_the_previous_one_has_ended() {
        let turns = Turns::default();
        let mut first = turns.take().await;
        assert!(!is_ready(first.over()));
        let mut second = pin!(turns.take());
        let mut context = Context::from_waker(Waker::noop());
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert!(is_ready(first.over()));
        drop(first);
        let mut second = second.await;
        assert!(!is_ready(second.over()));
    }
}
