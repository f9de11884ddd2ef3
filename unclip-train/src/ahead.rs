//! Batches that are prepared while the device works on the one before.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;

/// How many batches may wait.
const WAITING: usize = 2;

/// The batches of consecutive steps.
pub(crate) struct Ahead<'a, B> {
    make: &'a (dyn Fn(u64) -> B + Sync),
    prepared: Option<Receiver<(u64, B)>>,
}

impl<'a, B: Send + 'a> Ahead<'a, B> {
    /// Batches that are made when they are asked for.
    pub(crate) fn in_turn(make: &'a (dyn Fn(u64) -> B + Sync)) -> Self {
        Self { make, prepared: None }
    }

    /// Batches from `first` on that threads of their own prepare. The threads end when this is
    /// dropped.
    pub(crate) fn on_threads<'s>(
        make: &'a (dyn Fn(u64) -> B + Sync),
        first: u64,
        scope: &'s Scope<'s, '_>,
    ) -> Self
    where
        'a: 's,
    {
        // not the threads that the trainer runs on: it would wait for batches on one of them
        let Ok(pool) = rayon::ThreadPoolBuilder::new().build() else { return Self::in_turn(make) };
        let (sender, receiver) = sync_channel(WAITING);
        let prepare = move || {
            pool.install(|| {
                for step in first.. {
                    if sender.send((step, make(step))).is_err() {
                        break;
                    }
                }
            });
        };
        match std::thread::Builder::new().spawn_scoped(scope, prepare) {
            Ok(_) => Self { make, prepared: Some(receiver) },
            Err(_) => Self::in_turn(make),
        }
    }

    /// The batch of `step`, which is the one after the last that was asked for.
    pub(crate) fn next(&self, step: u64) -> B {
        match self.prepared.as_ref().map(Receiver::recv) {
            Some(Ok((prepared, batch))) => {
                assert_eq!(prepared, step, "batches are prepared step by step");
                batch
            }
            // where the threads have stopped, the reason shows here
            _ => (self.make)(step),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_come_in_order_however_they_are_made() {
        let make = |step: u64| step * step;
        let expected: Vec<u64> = (7..200).map(make).collect();
        let in_turn = Ahead::in_turn(&make);
        assert!((7..200).map(|step| in_turn.next(step)).eq(expected.iter().copied()));
        std::thread::scope(|scope| {
            let ahead = Ahead::on_threads(&make, 7, scope);
            assert!((7..200).map(|step| ahead.next(step)).eq(expected.iter().copied()));
        });
    }

    #[test]
    #[should_panic(expected = "no such picture")]
    fn what_goes_wrong_in_a_batch_is_seen() {
        let make = |step: u64| assert!(step < 3, "no such picture");
        std::thread::scope(|scope| {
            let ahead = Ahead::on_threads(&make, 0, scope);
            (0..9).for_each(|step| ahead.next(step));
        });
    }
}
