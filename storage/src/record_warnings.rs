//! Warnings about shared records that could not be written, at a bounded rate.
//!
//! Records are a help and never a must, so their failure is no client's; but an operator should
//! see it, once, and not ten thousand times a second while they are away.

use std::sync::Arc;
use std::time::Duration;

use lease::{Clock, LeaseError};

use crate::warning_gate::WarningGate;

/// The least time between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(1);

/// Logs failures of records.
#[derive(Debug)]
pub(crate) struct RecordWarnings(WarningGate);

impl RecordWarnings {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self(WarningGate::new(clock, WARN_EVERY))
    }

    /// Warns that `operation` on `unit`'s record failed, unless it has just warned of another;
    /// the next warning says how many were kept back.
    pub(crate) fn warn(&self, operation: &'static str, unit: &str, error: &LeaseError) {
        if let Some(kept_back) = self.0.due() {
            tracing::warn!(operation, unit, %error, kept_back, "a shared record failed");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;
    use std::sync::Mutex;

    use lease::ManualClock;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    // acceptance: A11
    #[test]
    fn failures_are_warnings_with_unit_and_operation_at_a_bounded_rate() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let clock = Arc::new(ManualClock::new());
        let warnings = RecordWarnings::new(clock.clone());
        let error = LeaseError::unavailable("no answer");
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..1_000 {
                warnings.warn("set", "example.com/m@list", &error);
            }
            clock.advance(WARN_EVERY);
            warnings.warn("delete", "example.com/n@list", &error);
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        for (line, parts) in [
            (
                lines[0],
                [
                    "WARN",
                    "operation=\"set\"",
                    "unit=\"example.com/m@list\"",
                    "kept_back=0",
                ],
            ),
            (
                lines[1],
                [
                    "WARN",
                    "operation=\"delete\"",
                    "unit=\"example.com/n@list\"",
                    "kept_back=999",
                ],
            ),
        ] {
            for part in parts {
                assert!(line.contains(part), "{part} in {line}");
            }
        }
    }
}
