//! What the process finds around itself: variables, the `go` command's settings, folders.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::secret::StorageOptions;

/// Longest that `go env` may take; it answers within milliseconds or not at all.
const GO_ENV_TIMEOUT: Duration = Duration::from_secs(5);

/// What `go env` says; empty texts where there is no `go` command.
#[derive(Clone, Debug, Default)]
pub struct GoEnv {
    /// The value of `GOPROXY`.
    pub goproxy: String,
    /// The value of `GOSUMDB`.
    pub gosumdb: String,
}

/// The environment that defaults and overrides come from.
#[derive(Clone, Debug)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    system_file: PathBuf,
    go_env: fn() -> GoEnv,
}

impl Environment {
    /// The environment of this process.
    ///
    /// Variables whose name or value is not UTF-8 are passed over: none of ours may be.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place where the environment is read"
    )]
    pub fn of_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self {
            variables,
            system_file: PathBuf::from("/etc/corral/corral.toml"),
            go_env,
        }
    }

    /// An environment of exactly these variables, without a `go` command or a system file.
    pub fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self {
            variables,
            system_file: PathBuf::new(),
            go_env: GoEnv::default,
        }
    }

    /// The same with another answer of `go env`.
    pub fn with_go_env(self, go_env: fn() -> GoEnv) -> Self {
        Self { go_env, ..self }
    }

    /// The same with another file that is read when none is named; it may not exist.
    pub fn with_system_file(self, system_file: impl Into<PathBuf>) -> Self {
        Self {
            system_file: system_file.into(),
            ..self
        }
    }

    /// The value of a variable; an empty one counts as unset.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.trim().is_empty())
    }

    /// The names that begin with `prefix`, of variables that are not empty.
    pub(super) fn names(&self, prefix: &str) -> impl Iterator<Item = &str> {
        let names = self.variables.keys().map(String::as_str);
        names.filter(move |name| name.starts_with(prefix) && self.get(name).is_some())
    }

    /// The file that is read when none is named, if it exists.
    pub(super) fn system_file(&self) -> Option<&Path> {
        Some(self.system_file.as_path()).filter(|file| file.exists())
    }

    /// Asks the `go` command; takes up to five seconds.
    pub(super) fn go_env(&self) -> GoEnv {
        (self.go_env)()
    }

    /// The folder for this user's data: `$XDG_DATA_HOME/corral`, else
    /// `~/.local/share/corral`; `None` if neither variable holds an absolute path.
    ///
    /// Source: XDG Base Directory Specification (relative paths are to be ignored).
    pub(super) fn data_dir(&self) -> Option<PathBuf> {
        let absolute = |name| {
            self.get(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        absolute("XDG_DATA_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
            .map(|data| data.join("corral"))
    }

    /// The file with credentials for hosts.
    pub(super) fn netrc(&self) -> Option<PathBuf> {
        let home = || self.get("HOME").map(|home| Path::new(home).join(".netrc"));
        self.get("NETRC").map(PathBuf::from).or_else(home)
    }

    /// The variables that a storage URL's kind of store understands, names in lower case.
    pub(super) fn storage_options(&self, storage: &str) -> StorageOptions {
        let prefix = match storage.split("://").next() {
            Some("s3") => "AWS_",
            Some("gs") => "GOOGLE_",
            Some("az") => "AZURE_",
            _ => return StorageOptions::default(),
        };
        let value = |name: &str| self.get(name).unwrap_or_default().to_owned();
        let pairs = self
            .names(prefix)
            .map(|name| (name.to_ascii_lowercase(), value(name)));
        StorageOptions(pairs.collect())
    }
}

/// Runs `go env`, if there is a `go` command, and gives up on it after a while.
fn go_env() -> GoEnv {
    let child = Command::new("go")
        .args(["env", "GOPROXY", "GOSUMDB"])
        // Outside any module, and with the tool chain at hand: it must answer, not download.
        .current_dir("/")
        .env("GOTOOLCHAIN", "local")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        return GoEnv::default();
    };
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        // An answer that came too late has nobody waiting for it.
        let _ = sender.send(stdout.read_to_string(&mut text).map(|_| text));
    });
    let answer = receiver.recv_timeout(GO_ENV_TIMEOUT);
    if !matches!(answer, Ok(Ok(_))) {
        // It may have ended by itself meanwhile; either way it is waited for below.
        let _ = child.kill();
    }
    let succeeded = child.wait().is_ok_and(|status| status.success());
    match answer {
        Ok(Ok(text)) if succeeded => {
            let mut lines = text.lines().map(|line| line.trim().to_owned());
            GoEnv {
                goproxy: lines.next().unwrap_or_default(),
                gosumdb: lines.next().unwrap_or_default(),
            }
        }
        _ => GoEnv::default(),
    }
}
