//! Cuts a sequence of writes at any of its steps, as a failing disk or a crash does, and refuses
//! reads.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Where to cut; clones are the same plan.
#[derive(Debug, Clone, Default)]
pub struct KeptFaults {
    plan: Arc<Mutex<Plan>>,
    held: Arc<(Mutex<bool>, Condvar)>,
}

#[derive(Debug, Default)]
struct Plan {
    steps: usize,
    cut: Option<(usize, Cut)>,
    dead: bool,
    no_links: bool,
    reads: usize,
    /// The first read that fails, and how.
    reads_fail: Option<(usize, i32)>,
}

/// What happens at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The disk refuses this step.
    Fail,
    /// The process is gone: neither this step nor any later one happens.
    Die,
}

impl KeptFaults {
    /// Cuts at the `step`th step from now, counted from 0.
    pub fn cut_at(&self, step: usize, cut: Cut) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let step = plan.steps + step;
        plan.cut = Some((step, cut));
    }

    /// How many steps there were.
    pub fn steps(&self) -> usize {
        self.plan
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .steps
    }

    /// Makes every read from the `read`th from now on, counted from 0, fail with the system's
    /// error `code`.
    pub fn fail_reads(&self, read: usize, code: i32) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.reads_fail = Some((plan.reads + read, code));
    }

    /// Lets reads succeed again.
    pub fn heal_reads(&self) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.reads_fail = None;
    }

    /// Makes the disk one without hard links.
    pub fn forbid_links(&self) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.no_links = true;
    }

    pub(super) fn linking(&self) -> io::Result<()> {
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        match plan.no_links {
            true => Err(io::Error::from(io::ErrorKind::Unsupported)),
            false => Ok(()),
        }
    }

    /// Holds reads up, or lets them go on. They block their threads.
    pub fn hold_reads(&self, held: bool) {
        let (is_held, news) = &*self.held;
        *is_held.lock().unwrap_or_else(PoisonError::into_inner) = held;
        news.notify_all();
    }

    /// How many reads were begun.
    pub fn reads(&self) -> usize {
        self.plan
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .reads
    }

    pub(super) fn reading(&self) -> io::Result<()> {
        let (is_held, news) = &*self.held;
        let is_held = is_held.lock().unwrap_or_else(PoisonError::into_inner);
        drop(news.wait_while(is_held, |is_held| *is_held));
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let here = plan.reads;
        plan.reads += 1;
        match plan.reads_fail {
            Some((read, code)) if read <= here => Err(io::Error::from_raw_os_error(code)),
            _ => Ok(()),
        }
    }

    pub(super) fn step(&self) -> io::Result<()> {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let here = plan.steps;
        plan.steps += 1;
        match plan.cut {
            Some((step, Cut::Die)) if step == here => plan.dead = true,
            Some((step, Cut::Fail)) if step == here => {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            _ => {}
        }
        if plan.dead {
            return Err(io::Error::other("the process is gone"));
        }
        Ok(())
    }
}
