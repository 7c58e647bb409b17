//! How well the jobs for later are kept, as metrics.

use std::sync::atomic::Ordering;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::queue::QueueView;

/// Gauges and counters about the queue's file. How full the queue is, its worker counts.
#[derive(Debug, Default)]
pub struct QueueMetrics {
    file_failed: Gauge,
    file_set_aside: Counter,
    journaled: Gauge,
    restored: Counter,
    unjournaled: Counter,
}

impl QueueMetrics {
    /// Makes the handles and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "retry_file_failed",
            "1 while the file of jobs cannot be opened or written",
            metrics.file_failed.clone(),
        );
        registry.register(
            "retry_file_set_aside",
            "Files of jobs that could not be read and were moved out of the way",
            metrics.file_set_aside.clone(),
        );
        registry.register(
            "retry_journal_jobs",
            "Jobs in this instance's journal, dead ones included",
            metrics.journaled.clone(),
        );
        registry.register(
            "retry_journal_restored",
            "Jobs that the shared queue had lost and that the journal brought back",
            metrics.restored.clone(),
        );
        registry.register(
            "retry_journal_unjournaled",
            "Jobs that the shared queue took and the journal could not",
            metrics.unjournaled.clone(),
        );
        metrics
    }

    /// Takes over what the queue says of itself, for a scrape.
    pub fn sample(&self, queue: &QueueView) {
        self.file_failed.set(i64::from(queue.file_error.is_some()));
        let set_aside = u64::try_from(queue.set_aside.len()).unwrap_or(u64::MAX);
        overwrite(&self.file_set_aside, set_aside);
        let Some(journal) = &queue.fleet else {
            return;
        };
        let journaled = i64::try_from(journal.journaled).unwrap_or(i64::MAX);
        self.journaled.set(journaled);
        overwrite(&self.restored, journal.restored);
        overwrite(&self.unjournaled, journal.unjournaled);
    }
}

/// Shows a number that is counted elsewhere and never falls; nor does what is shown, when a slow
/// scrape comes in with an older one behind a quick one.
fn overwrite(counter: &Counter, total: u64) {
    counter.inner().fetch_max(total, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use crate::queue::JournalView;

    use super::*;

    #[test]
    fn an_older_sample_takes_nothing_back() {
        let metrics = QueueMetrics::new(&mut Registry::default());
        for restored in [3, 5, 4] {
            metrics.sample(&QueueView {
                file: "queue.redb".into(),
                file_error: None,
                set_aside: Vec::new(),
                fleet: Some(JournalView {
                    shared_error: None,
                    journaled: 0,
                    restored,
                    unjournaled: restored + 1,
                }),
            });
        }
        let shown = (metrics.restored.get(), metrics.unjournaled.get());
        assert_eq!(shown, (5, 6));
    }
}
