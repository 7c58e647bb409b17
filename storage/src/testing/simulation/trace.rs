//! The trace of a run: a hash over everything that happened, and the last of it for people.

use std::collections::VecDeque;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// Events that are kept for a report on a violation.
const KEPT_MAX: usize = 50_000;

/// Lines of such a report.
const LINES_MAX: usize = 1_000;

/// One thing that happened.
#[derive(Debug, Clone, Copy, Hash)]
struct Event {
    /// Virtual time since the start.
    at: Duration,
    /// The instance's number; 0 for none.
    host: u32,
    what: &'static str,
    /// The artifact's number; `None` when it concerns none or all.
    unit: Option<usize>,
    /// What else there is to say; 0 for nothing.
    number: u64,
}

#[derive(Debug)]
pub(super) struct Trace {
    hash: DefaultHasher,
    events: u64,
    last: VecDeque<Event>,
}

impl Trace {
    pub(super) fn new() -> Self {
        Self {
            // Without a random start, unlike a map's hasher.
            hash: DefaultHasher::new(),
            events: 0,
            last: VecDeque::new(),
        }
    }

    pub(super) fn push(
        &mut self,
        at: Duration,
        host: u32,
        what: &'static str,
        unit: Option<usize>,
        number: u64,
    ) {
        let event = Event {
            at,
            host,
            what,
            unit,
            number,
        };
        event.hash(&mut self.hash);
        self.events += 1;
        // What a herd is answered, all alike, would push out how it came to that.
        if what == "ok" {
            return;
        }
        if self.last.len() == KEPT_MAX {
            self.last.pop_front();
        }
        self.last.push_back(event);
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash.finish()
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// The last events that concern `unit` or everybody, one a line.
    pub(super) fn tail(&self, unit: Option<usize>) -> String {
        let concerns =
            |event: &&Event| unit.is_none() || event.unit.is_none() || event.unit == unit;
        let chosen: Vec<_> = self
            .last
            .iter()
            .rev()
            .filter(concerns)
            .take(LINES_MAX)
            .collect();
        let mut text = String::new();
        for event in chosen.iter().rev() {
            let at_ms = event.at.as_secs_f64() * 1_000.0;
            let _ = write!(text, "{at_ms:>12.3} ms  ");
            let _ = match event.host {
                0 => write!(text, "{:<14}", "-"),
                host => write!(text, "{:<14}", format!("instance {host}")),
            };
            let _ = match event.unit {
                Some(unit) => write!(text, "unit {unit:<6}"),
                None => write!(text, "{:<11}", "-"),
            };
            let _ = write!(text, "{}", event.what);
            if event.number != 0 {
                let _ = write!(text, " {}", event.number);
            }
            text.push('\n');
        }
        text
    }
}
