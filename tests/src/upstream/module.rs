//! Modules built in memory: `.info`, `.mod`, `.zip`, list, `@latest` and branch queries.

use std::io::{Cursor, Write as _};

use bytes::Bytes;
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

/// `Time` of versions that carry none in their name.
const TAGGED_AT: &str = "2024-01-02T03:04:05Z";

/// Writes the case-escape of module paths and versions: an upper-case letter becomes `!` and the
/// lower-case letter.
pub fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            escaped.push('!');
        }
        escaped.push(c.to_ascii_lowercase());
    }
    escaped
}

/// Bytes that no compressor shrinks; equal seeds give equal bytes.
pub fn incompressible(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64*: eight bytes a step, because a test build fills tens of megabytes.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// One module of the fixture with its versions, in list order.
#[derive(Debug, Clone)]
pub struct FixtureModule {
    path: String,
    versions: Vec<FixtureVersion>,
    queries: Vec<(String, String)>,
    latest: Option<String>,
    list: Option<String>,
}

/// One version: what its three files hold.
#[derive(Debug, Clone)]
pub struct FixtureVersion {
    version: String,
    listed: bool,
    zip_bytes: usize,
    requires: Vec<(String, String)>,
    info: Option<String>,
    go_mod: Option<String>,
    files: Vec<(String, Vec<u8>)>,
    zip: Option<Bytes>,
}

impl FixtureVersion {
    /// A version with one small Go file.
    pub fn new(version: &str) -> Self {
        Self {
            version: version.to_owned(),
            listed: !is_pseudo(version),
            zip_bytes: 0,
            requires: Vec::new(),
            info: None,
            go_mod: None,
            files: Vec::new(),
            zip: None,
        }
    }

    /// Pads the zip with incompressible bytes to about `bytes` (never below; at most 1 KiB above).
    pub fn zip_bytes(mut self, bytes: usize) -> Self {
        self.zip_bytes = bytes;
        self
    }

    /// Adds a requirement to `go.mod` and an import of it to the Go file.
    pub fn requires(mut self, path: &str, version: &str) -> Self {
        self.requires.push((path.to_owned(), version.to_owned()));
        self
    }

    /// Replaces the `.info` text.
    pub fn info(mut self, text: &str) -> Self {
        self.info = Some(text.to_owned());
        self
    }

    /// Replaces the `.mod` text (and the zip's `go.mod`).
    pub fn go_mod(mut self, text: &str) -> Self {
        self.go_mod = Some(text.to_owned());
        self
    }

    /// Adds a file to the zip, below `path@version/`.
    pub fn file(mut self, name: &str, contents: &[u8]) -> Self {
        self.files.push((name.to_owned(), contents.to_vec()));
        self
    }

    /// Replaces the whole zip, for archives that break the rules.
    pub fn zip(mut self, bytes: impl Into<Bytes>) -> Self {
        self.zip = Some(bytes.into());
        self
    }

    /// Leaves the version out of `@v/list`.
    pub fn unlisted(mut self) -> Self {
        self.listed = false;
        self
    }
}

impl FixtureModule {
    /// A module without versions: its list is empty, its `@latest` does not exist.
    pub fn new(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            versions: Vec::new(),
            queries: Vec::new(),
            latest: None,
            list: None,
        }
    }

    /// Adds a version with one small Go file.
    pub fn version(self, version: &str) -> Self {
        self.with(FixtureVersion::new(version))
    }

    /// Adds a version whose zip has about `zip_bytes` bytes.
    pub fn version_sized(self, version: &str, zip_bytes: usize) -> Self {
        self.with(FixtureVersion::new(version).zip_bytes(zip_bytes))
    }

    /// Adds a version.
    pub fn with(mut self, version: FixtureVersion) -> Self {
        self.versions.push(version);
        self
    }

    /// `@v/{query}.info` answers with the `.info` of `version` (a branch, a commit, a prefix).
    pub fn query(mut self, query: &str, version: &str) -> Self {
        self.queries.push((query.to_owned(), version.to_owned()));
        self
    }

    /// `@latest` answers with the `.info` of `version`; otherwise it does not exist.
    pub fn latest(mut self, version: &str) -> Self {
        self.latest = Some(version.to_owned());
        self
    }

    /// Replaces the text of `@v/list`.
    pub fn list(mut self, text: &str) -> Self {
        self.list = Some(text.to_owned());
        self
    }

    /// The request path of one of this module's files: `info`, `mod` or `zip` of a version.
    pub fn file_path(&self, version: &str, kind: &str) -> String {
        file_path(&self.path, version, kind)
    }

    /// All files: request path, content type, body.
    pub(crate) fn files(&self) -> Vec<(String, &'static str, Bytes)> {
        let json = "application/json";
        let text = "text/plain; charset=utf-8";
        let mut files = Vec::new();
        for version in &self.versions {
            let name = &version.version;
            files.push((self.file_path(name, "info"), json, self.info_of(name)));
            files.push((
                self.file_path(name, "mod"),
                text,
                version.go_mod_text(&self.path).into(),
            ));
            let zip = version
                .zip
                .clone()
                .unwrap_or_else(|| version.build_zip(&self.path));
            files.push((self.file_path(name, "zip"), "application/zip", zip));
        }
        for (query, version) in &self.queries {
            files.push((self.file_path(query, "info"), json, self.info_of(version)));
        }
        if let Some(latest) = &self.latest {
            let path = format!("/{}/@latest", escape(&self.path));
            files.push((path, json, self.info_of(latest)));
        }
        let list = self.list.clone().unwrap_or_else(|| {
            let listed = self.versions.iter().filter(|version| version.listed);
            listed
                .map(|version| format!("{}\n", version.version))
                .collect()
        });
        files.push((list_path(&self.path), text, list.into()));
        files
    }

    fn info_of(&self, version: &str) -> Bytes {
        let own = self.versions.iter().find(|known| known.version == version);
        let replaced = own.and_then(|known| known.info.clone());
        replaced.unwrap_or_else(|| info_text(version)).into()
    }
}

impl FixtureVersion {
    fn go_mod_text(&self, path: &str) -> String {
        if let Some(text) = &self.go_mod {
            return text.clone();
        }
        let mut text = format!("module {path}\n");
        if !self.version.ends_with("+incompatible") {
            text.push_str("\ngo 1.20\n");
        }
        for (required, version) in &self.requires {
            text.push_str(&format!("\nrequire {required} {version}\n"));
        }
        text
    }

    fn build_zip(&self, path: &str) -> Bytes {
        let mut files = Vec::new();
        if !self.version.ends_with("+incompatible") {
            files.push(("go.mod".to_owned(), self.go_mod_text(path).into_bytes()));
        }
        let imports: String = self
            .requires
            .iter()
            .map(|(path, _)| format!("import _ \"{path}\"\n"))
            .collect();
        let code = format!(
            "// Package fixture is generated.\npackage fixture\n\n{imports}\n\
             // Version names the version that was built.\nconst Version = \"{}\"\n",
            self.version
        );
        files.push(("fixture.go".to_owned(), code.into_bytes()));
        files.extend(self.files.iter().cloned());
        if self.zip_bytes > 0 {
            let seed = self
                .version
                .bytes()
                .chain(path.bytes())
                .map(u64::from)
                .sum();
            files.push((
                "padding.bin".to_owned(),
                incompressible(seed, self.zip_bytes),
            ));
        }
        let prefix = format!("{path}@{}/", self.version);
        build_zip(
            files
                .iter()
                .map(|(name, bytes)| (format!("{prefix}{name}"), bytes.as_slice())),
        )
    }
}

/// A zip of stored (uncompressed) files with exactly these names.
///
/// # Panics
///
/// On names that the archive writer refuses, such as the same name twice.
pub fn build_zip<'a>(files: impl IntoIterator<Item = (String, &'a [u8])>) -> Bytes {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, contents) in files {
        writer
            .start_file(name, options)
            .expect("the fixture's zip names are accepted");
        writer
            .write_all(contents)
            .expect("writing to memory does not fail");
    }
    writer
        .finish()
        .expect("writing to memory does not fail")
        .into_inner()
        .into()
}

/// The request path of `{path}/@v/{version}.{kind}`, case-escaped.
pub fn file_path(path: &str, version: &str, kind: &str) -> String {
    format!("/{}/@v/{}.{kind}", escape(path), escape(version))
}

/// The request path of a module's version list.
pub fn list_path(path: &str) -> String {
    format!("/{}/@v/list", escape(path))
}

/// The request path of a module's `@latest`.
pub fn latest_path(path: &str) -> String {
    format!("/{}/@latest", escape(path))
}

/// The generated `.info` text of a version.
pub fn info_text(version: &str) -> String {
    format!(
        "{{\"Version\":\"{version}\",\"Time\":\"{}\"}}",
        time_of(version)
    )
}

fn is_pseudo(version: &str) -> bool {
    stamp_of(version).is_some()
}

/// The 14-digit time of a pseudo-version.
fn stamp_of(version: &str) -> Option<&str> {
    let mut parts = version.trim_end_matches("+incompatible").rsplitn(3, '-');
    let commit = parts.next()?;
    let stamp = parts.next()?.rsplit('.').next()?;
    let digits = stamp.len() == 14 && stamp.bytes().all(|byte| byte.is_ascii_digit());
    (digits && commit.len() == 12).then_some(stamp)
}

fn time_of(version: &str) -> String {
    match stamp_of(version) {
        Some(s) => format!(
            "{}-{}-{}T{}:{}:{}Z",
            &s[0..4],
            &s[4..6],
            &s[6..8],
            &s[8..10],
            &s[10..12],
            &s[12..14]
        ),
        None => TAGGED_AT.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{FixtureModule, escape, time_of};

    #[test]
    fn names_and_times_follow_the_reference() {
        assert_eq!(
            escape("github.com/BurntSushi/toml"),
            "github.com/!burnt!sushi/toml"
        );
        assert_eq!(
            time_of("v0.0.0-20191109021931-daa7c04131f5"),
            "2019-11-09T02:19:31Z"
        );
        assert_eq!(
            time_of("v1.2.4-0.20191109021931-daa7c04131f5"),
            "2019-11-09T02:19:31Z"
        );
        assert_eq!(time_of("v1.2.3"), super::TAGGED_AT);
    }

    #[test]
    fn a_padded_zip_has_the_size_that_was_asked_for() {
        let module = FixtureModule::new("example.com/m").version_sized("v1.0.0", 100_000);
        let files = module.files();
        let (_, _, zip) = files
            .iter()
            .find(|(path, ..)| path.ends_with(".zip"))
            .expect("a zip");
        assert!(
            (100_000..101_024).contains(&zip.len()),
            "{} bytes",
            zip.len()
        );
    }
}
