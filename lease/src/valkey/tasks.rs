//! `Tasks`: the background tasks, which end with the last user of what they serve.

use std::sync::Mutex;

use tokio::task::JoinHandle;

use crate::sync::lock;

/// The background tasks. Everything that needs them holds this in an `Arc`; when the last holder
/// drops it, they are ended.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: Vec<JoinHandle<()>>,
    closed: bool,
}

impl Tasks {
    /// Takes over a task; ends it at once after a [`shutdown`](Self::shutdown).
    pub(crate) fn add(&self, task: JoinHandle<()>) {
        let mut state = lock(&self.state);
        if state.closed {
            task.abort();
        } else {
            state.running.push(task);
        }
    }

    /// Ends all tasks, and waits for their end.
    pub(crate) async fn shutdown(&self) {
        let running = {
            let mut state = lock(&self.state);
            state.closed = true;
            std::mem::take(&mut state.running)
        };
        for task in &running {
            task.abort();
        }
        for task in running {
            // It was cancelled, which is what was asked for.
            let _ = task.await;
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &lock(&self.state).running {
            task.abort();
        }
    }
}
