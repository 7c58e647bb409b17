//! Cuts a sequence of writes at any of its steps, as a failing disk or a crash does.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Where to cut; clones are the same plan.
#[derive(Debug, Clone, Default)]
pub struct KeptFaults {
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    steps: usize,
    cut: Option<(usize, Cut)>,
    dead: bool,
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
