//! Progress lines on standard error for runs that take minutes.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Shows how far a known number of steps has come.
///
/// On a terminal one line is rewritten; elsewhere a new line is printed every 10 s at most.
#[derive(Debug)]
pub struct Progress {
    what: String,
    steps: usize,
    done: usize,
    started: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// Starts counting `steps` steps of `what`.
    pub fn new(what: impl Into<String>, steps: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let now = Instant::now();
        Self {
            what: what.into(),
            steps,
            done: 0,
            started: now,
            shown: None,
            terminal,
        }
    }

    /// Counts one step done and names what it was.
    pub fn step(&mut self, detail: &str) {
        self.done += 1;
        let pause = Duration::from_millis(if self.terminal { 100 } else { 10_000 });
        let due = self.shown.is_none_or(|at| at.elapsed() >= pause);
        if !due && self.done < self.steps {
            return;
        }
        self.shown = Some(Instant::now());
        let spent = self.started.elapsed().as_secs_f64();
        let left = spent / self.done as f64 * self.steps.saturating_sub(self.done) as f64;
        let line = format!(
            "{}: {}/{}, {spent:.0} s spent, about {left:.0} s left ({detail})",
            self.what, self.done, self.steps
        );
        let mut err = std::io::stderr().lock();
        // A closed standard error must not end a run of many minutes, so its errors are dropped.
        let _ = if self.terminal && self.done < self.steps {
            write!(err, "\r\x1b[K{line}")
        } else if self.terminal {
            writeln!(err, "\r\x1b[K{line}")
        } else {
            writeln!(err, "{line}")
        };
        let _ = err.flush();
    }
}

/// Prints one line on standard error, for steps that cannot be counted.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
