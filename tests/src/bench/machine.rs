//! The header of every report: on which machine, when, and with which versions it ran.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// What a reader must know before comparing figures.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Processor model as the kernel names it.
    pub cpu: String,
    /// Logical processors this process may use.
    pub cores: usize,
    /// Installed memory in MiB.
    pub memory_mib: u64,
    /// Distribution and kernel release.
    pub os: String,
    /// Start of the run, UTC, RFC 3339.
    pub date: String,
    /// Load average over the last minute before the run: above 0.5 somebody else was busy.
    pub load_before: f64,
    /// Compiler that built the harness, and the profile.
    pub rust: String,
    /// Program or crate → version, in the order they were added.
    pub versions: Vec<(String, String)>,
}

impl Machine {
    /// Reads the machine's description from `/proc` and `/etc/os-release`.
    ///
    /// What cannot be read is given as `unknown`; a report without a field beats no report.
    pub fn read() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let os = field(&release, "PRETTY_NAME", '=')
            .unwrap_or("unknown")
            .trim_matches('"');
        let memory_kib = field(&meminfo, "MemTotal", ':')
            .and_then(|v| v.trim_end_matches("kB").trim().parse::<u64>().ok());
        Self {
            cpu: field(&cpuinfo, "model name", ':')
                .unwrap_or("unknown")
                .to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory_kib.unwrap_or(0) / 1024,
            os: format!("{os}, kernel {}", kernel.trim()),
            date: now_rfc3339(),
            load_before: load
                .split(' ')
                .next()
                .and_then(|v| v.parse().ok())
                .unwrap_or(0.0),
            rust: format!(
                "{}, {} profile",
                first_line("rustc", &["--version"]),
                profile()
            ),
            versions: Vec::new(),
        }
    }

    /// Adds the version that a program prints on its first line.
    pub fn add_program(&mut self, name: &str, program: &str, args: &[&str]) {
        self.versions
            .push((name.to_owned(), first_line(program, args)));
    }

    /// Adds the locked version of each crate, read from the workspace's `Cargo.lock`.
    pub fn add_crates(&mut self, names: &[&str]) {
        let lock = fs::read_to_string(workspace_root().join("Cargo.lock")).unwrap_or_default();
        for name in names {
            self.versions
                .push(((*name).to_owned(), locked_versions(&lock, name)));
        }
    }

    /// Renders the header as text lines.
    pub fn text(&self) -> String {
        let mut out = format!(
            "cpu       {} ({} cores)\nmemory    {} MiB\nos        {}\ndate      {}\nload      {} (one minute, before the run)\nrust      {}\n",
            self.cpu, self.cores, self.memory_mib, self.os, self.date, self.load_before, self.rust
        );
        let versions: Vec<String> = self
            .versions
            .iter()
            .map(|(n, v)| format!("{n} {v}"))
            .collect();
        if !versions.is_empty() {
            out += &format!("versions  {}\n", versions.join("; "));
        }
        out
    }

    /// Names a directory for this run's results: the date without characters shells dislike.
    pub fn directory_name(&self) -> String {
        self.date.replace([':', '-'], "")
    }
}

/// The workspace's root, found from the package's manifest at build time.
pub fn workspace_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

fn field<'a>(text: &'a str, name: &str, separator: char) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(separator)?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn profile() -> &'static str {
    if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    }
}

/// Some programs print their version on standard error, so both streams are looked at.
fn first_line(program: &str, args: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(args).output() else {
        return "not found".to_owned();
    };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text)
        .lines()
        .next()
        .unwrap_or("unknown")
        .trim()
        .to_owned()
}

fn locked_versions(lock: &str, name: &str) -> String {
    let wanted = format!("name = \"{name}\"");
    let mut lines = lock.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if line == wanted
            && let Some(version) = lines.next().and_then(|l| l.strip_prefix("version = "))
        {
            found.push(version.trim_matches('"'));
        }
    }
    if found.is_empty() {
        "not locked".to_owned()
    } else {
        found.join(" and ")
    }
}

/// The wall clock as RFC 3339 in UTC, to the second.
pub fn now_rfc3339() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let (days, second) = (since / 86_400, since % 86_400);
    let (year, month, day) = civil(days);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

/// Days since 1970-01-01 as year, month and day.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_453), (2025, 12, 31));
    }

    #[test]
    fn every_locked_version_is_named() {
        let lock = "name = \"a\"\nversion = \"1.0\"\n\nname = \"a\"\nversion = \"2.0\"\n";
        assert_eq!(locked_versions(lock, "a"), "1.0 and 2.0");
        assert_eq!(locked_versions(lock, "b"), "not locked");
    }
}
