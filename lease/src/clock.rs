//! Time as a part that is handed in: the only file of the crate that reads a clock or sleeps.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use tokio::time::Instant;

/// Where time comes from.
pub trait Clock: Send + Sync + Debug + 'static {
    /// Returns the monotonic time; what every deadline is counted in.
    fn now(&self) -> Instant;

    /// Returns the wall-clock time, which may jump; only for showing and for dates on the wire.
    fn wall(&self) -> SystemTime;

    /// Returns a future that ends once `duration` has passed, counted from this call.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Draws a duration from `0 ..= max`, to spread what would otherwise happen together.
    ///
    /// It is a matter of the clock so that a simulation, which hands in its own, can draw the
    /// same one again.
    fn jitter(&self, max: Duration) -> Duration {
        max.mul_f64(rand::rng().random_range(0.0..=1.0))
    }
}

/// The runtime's time; paused time in tests that pause it.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokioClock;

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "this is where the time comes from"
    )]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(duration).boxed()
    }
}

/// Waits until `clock` shows `deadline`; at once if it has passed.
pub async fn sleep_until(clock: &dyn Clock, deadline: Instant) {
    let rest = deadline.saturating_duration_since(clock.now());
    if !rest.is_zero() {
        clock.sleep(rest).await;
    }
}

/// Runs `work` for at most `limit`, counted from the first poll; `None` when the time ran out.
///
/// `work` is dropped then. Work that is ready wins over a limit that is reached at the same time.
pub async fn timeout<T>(
    clock: &dyn Clock,
    limit: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        value = work => Some(value),
        () = clock.sleep(limit) => None,
    }
}

#[cfg(feature = "test-util")]
pub use manual::ManualClock;

#[cfg(feature = "test-util")]
mod manual {
    use tokio::sync::watch;

    use super::*;

    /// A clock that stands still until a test moves it. Clones are hands on the same clock.
    #[derive(Debug, Clone)]
    pub struct ManualClock {
        start: Instant,
        /// Time since the start: monotonic, and wall (which a test may also set back).
        hands: watch::Sender<(Duration, SystemTime)>,
    }

    impl ManualClock {
        /// Makes a clock that shows the moment of its making.
        #[allow(
            clippy::disallowed_methods,
            reason = "a test's clock begins with the real time"
        )]
        pub fn new() -> Self {
            let hands = watch::Sender::new((Duration::ZERO, SystemTime::now()));
            Self {
                start: Instant::now(),
                hands,
            }
        }

        /// Moves both hands forward; sleepers whose time has come are woken.
        pub fn advance(&self, by: Duration) {
            self.hands.send_modify(|(elapsed, wall)| {
                *elapsed += by;
                *wall += by;
            });
        }

        /// Moves forward to `elapsed` after the clock's making; a time in its past changes nothing.
        pub fn set(&self, elapsed: Duration) {
            self.hands.send_modify(|(shown, wall)| {
                let by = elapsed.saturating_sub(*shown);
                *shown += by;
                *wall += by;
            });
        }

        /// Sets the wall clock alone, in either direction, as an operator or NTP would.
        pub fn set_wall(&self, wall: SystemTime) {
            self.hands.send_modify(|hands| hands.1 = wall);
        }
    }

    impl Default for ManualClock {
        fn default() -> Self {
            Self::new()
        }
    }

    impl Clock for ManualClock {
        fn now(&self) -> Instant {
            self.start + self.hands.borrow().0
        }

        fn wall(&self) -> SystemTime {
            self.hands.borrow().1
        }

        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            let mut hands = self.hands.subscribe();
            let due = hands.borrow().0.saturating_add(duration);
            async move {
                if hands.wait_for(|hands| hands.0 >= due).await.is_err() {
                    // Every hand on the clock is gone, so it will never move again.
                    std::future::pending::<()>().await;
                }
            }
            .boxed()
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[tokio::test]
        async fn sleepers_wake_when_the_hand_passes_them() {
            let clock = ManualClock::new();
            let began = clock.now();
            let mut nap = clock.sleep(Duration::from_secs(2));
            assert!((&mut nap).now_or_never().is_none());
            clock.advance(Duration::from_millis(1_999));
            assert!((&mut nap).now_or_never().is_none());
            clock.set(Duration::from_secs(1));
            assert_eq!(clock.now() - began, Duration::from_millis(1_999));
            clock.set(Duration::from_secs(2));
            assert!(nap.now_or_never().is_some());
        }

        #[tokio::test]
        async fn work_that_is_ready_beats_its_limit() {
            let clock = ManualClock::new();
            assert_eq!(timeout(&clock, Duration::ZERO, async { 1 }).await, Some(1));
            let never = std::future::pending::<()>();
            assert_eq!(timeout(&clock, Duration::ZERO, never).await, None);
        }

        #[test]
        fn the_wall_clock_may_jump_alone() {
            let clock = ManualClock::new();
            let (now, past) = (clock.now(), clock.wall() - Duration::from_secs(3_600));
            clock.set_wall(past);
            assert_eq!((clock.now(), clock.wall()), (now, past));
        }
    }
}
