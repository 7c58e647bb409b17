//! What a server's processes used: CPU time and peak memory, read from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// A process and all that descend from it, looked up anew at each call.
#[derive(Debug, Clone, Copy)]
pub struct Tree {
    root: u32,
}

impl Tree {
    /// The tree below and including the process `root`.
    pub fn new(root: u32) -> Self {
        Self { root }
    }

    /// User and system time of the living processes since they started.
    ///
    /// The kernel counts in ticks of 10 ms; a difference is good to one tick a process.
    pub fn cpu(self) -> Duration {
        in_seconds(self.pids().into_iter().filter_map(cpu_ticks).sum())
    }

    /// Sum of the processes' peak resident memory in bytes; shared pages count in each of them.
    pub fn peak_memory(self) -> u64 {
        self.pids()
            .into_iter()
            .filter_map(|pid| status_kib(pid, "VmHWM"))
            .sum::<u64>()
            * 1024
    }

    /// Sum of the processes' resident memory now, in bytes; shared pages count in each of them.
    pub fn memory(self) -> u64 {
        self.pids()
            .into_iter()
            .filter_map(|pid| status_kib(pid, "VmRSS"))
            .sum::<u64>()
            * 1024
    }

    /// Lets the peaks start again from the present use; says whether the kernel allowed it.
    pub fn reset_peak_memory(self) -> bool {
        self.pids()
            .iter()
            .all(|pid| fs::write(format!("/proc/{pid}/clear_refs"), "5").is_ok())
    }

    /// Sends `signal` to every process of the tree that still lives.
    pub fn signal_all(self, signal: Signal) {
        for pid in self.pids() {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            // A process that ended in between has what it was to get.
            let _ = pid.map(|pid| kill_process(pid, signal));
        }
    }

    /// The root and its descendants, the root first.
    fn pids(self) -> Vec<u32> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()) {
            if let Some(parent) = stat_field(pid, 4) {
                children.entry(parent as u32).or_default().push(pid);
            }
        }
        let mut pids = vec![self.root];
        let mut at = 0;
        while at < pids.len() {
            let below = children.remove(&pids[at]).unwrap_or_default();
            pids.extend(below);
            at += 1;
        }
        pids
    }
}

/// User and system time of this process alone: the servers are its children.
pub fn own_cpu() -> Duration {
    in_seconds(cpu_ticks(std::process::id()).unwrap_or(0))
}

fn in_seconds(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn cpu_ticks(pid: u32) -> Option<u64> {
    Some(stat_field(pid, 14)? + stat_field(pid, 15)?)
}

/// A field of `/proc/PID/stat` by its number in proc(5).
fn stat_field(pid: u32, number: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses that may itself hold spaces and parentheses.
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(number - 3)?.parse().ok()
}

fn status_kib(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_holds_its_root_and_what_it_uses() {
        let own = Tree::new(std::process::id());
        assert_eq!(own.pids().first(), Some(&std::process::id()));
        assert!(own.peak_memory() >= own.memory() / 2);
        assert!(own.memory() > 0);
    }
}
