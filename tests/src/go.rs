//! The real `go` command, in a world of its own: fresh module cache, one proxy, no other network.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

/// The bound on one `go` command.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// A home, a module cache and a work directory for `go`; everything is deleted with it.
#[derive(Debug)]
pub struct Go {
    dir: TempDir,
    env: Vec<(String, String)>,
}

/// What one command said.
#[derive(Debug)]
pub struct GoOutput {
    /// Whether its exit code was 0.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    command: String,
}

impl GoOutput {
    /// Asserts exit code 0.
    #[track_caller]
    pub fn expect_success(self) -> Self {
        assert!(
            self.success,
            "{} failed\n{}\n{}",
            self.command, self.stdout, self.stderr
        );
        self
    }

    /// Asserts another exit code.
    #[track_caller]
    pub fn expect_failure(self) -> Self {
        assert!(
            !self.success,
            "{} should have failed\n{}",
            self.command, self.stdout
        );
        self
    }
}

impl Go {
    /// An empty module cache, and `goproxy` as `GOPROXY`; no checksum database.
    ///
    /// # Panics
    ///
    /// When no temporary directory can be made.
    pub fn new(goproxy: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("corral-go-").tempdir();
        let go = Self {
            dir: dir.expect("a temporary directory"),
            env: Vec::new(),
        };
        std::fs::create_dir(go.project()).expect("a fresh directory takes a folder");
        // A child of go writes its counters behind its back, into a folder that may be gone by then.
        let telemetry = go.dir.path().join("home/.config/go/telemetry");
        std::fs::create_dir_all(&telemetry).expect("a fresh directory takes folders");
        std::fs::write(telemetry.join("mode"), "off\n").expect("and a file");
        go.env("GOPROXY", goproxy).env("GOSUMDB", "off")
    }

    /// Sets a variable; a later value replaces an earlier one.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lets `go` use its default checksum database.
    pub fn default_sumdb(mut self) -> Self {
        self.env.retain(|(known, _)| known != "GOSUMDB");
        self
    }

    /// The directory that commands run in.
    pub fn project(&self) -> PathBuf {
        self.dir.path().join("project")
    }

    /// `GOMODCACHE/cache/download`, a GOPROXY tree.
    pub fn download_cache(&self) -> PathBuf {
        self.dir.path().join("modcache/cache/download")
    }

    /// Writes a file of the project.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn write(&self, name: &str, contents: &str) {
        let path = self.project().join(name);
        std::fs::write(&path, contents)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// Writes a `go.mod` and a `main.go` that imports these packages.
    pub fn write_main(&self, imports: &[&str]) {
        self.write("go.mod", "module example.org/main\n\ngo 1.20\n");
        let imports: String = imports
            .iter()
            .map(|path| format!("import _ \"{path}\"\n"))
            .collect();
        self.write(
            "main.go",
            &format!("package main\n\n{imports}\nfunc main() {{}}\n"),
        );
    }

    /// Runs `go` with these arguments.
    ///
    /// # Panics
    ///
    /// When there is no `go`, or it runs for more than two minutes.
    pub async fn run(&self, args: &[&str]) -> GoOutput {
        let at = |name: &str| -> PathBuf { self.dir.path().join(name) };
        let mut command = Command::new("go");
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", at("home"))
            .env("GOPATH", at("gopath"))
            .env("GOMODCACHE", at("modcache"))
            .env("GOCACHE", build_cache())
            .env("GOENV", "off")
            .env("GOFLAGS", "-modcacherw -mod=mod")
            .env("GOTOOLCHAIN", "local")
            .env("GOVCS", "*:off")
            .env("CGO_ENABLED", "0")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.project())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let text = format!("go {}", args.join(" "));
        let output = match tokio::time::timeout(TIME_LIMIT, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => panic!("cannot run `{text}`: {error}; these tests need go in PATH"),
            Err(_) => panic!("`{text}` still runs after {TIME_LIMIT:?}"),
        };
        GoOutput {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            command: text,
        }
    }

    /// The files of the download cache, as request paths (`/example.com/m/@v/v1.0.0.zip`).
    pub fn downloaded(&self) -> Vec<String> {
        let files = crate::proxy::files_under(&self.download_cache());
        files
            .into_iter()
            .map(|(path, _)| format!("/{path}"))
            .filter(|path| {
                [".info", ".mod", ".zip"]
                    .iter()
                    .any(|kind| path.ends_with(kind))
            })
            .collect()
    }
}

/// Compiled packages, shared by all tests and runs: what is compiled says nothing about what was
/// downloaded, and compiling the standard library anew takes a minute each time.
fn build_cache() -> PathBuf {
    let exe = std::env::current_exe().expect("a process knows its executable");
    exe.parent()
        .expect("an executable lies in a folder")
        .join("e2e-go-build-cache")
}

/// `file://` URL of a folder, for `GOPROXY`.
pub fn file_url(dir: &Path) -> String {
    format!("file://{}", dir.display())
}
