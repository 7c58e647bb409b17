//! The modules that every server serves: made up, valid, and the same bytes in every run.

use std::collections::HashMap;
use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

/// The only version of every module here.
pub const VERSION: &str = "v1.0.0";

/// One file as a client gets it.
#[derive(Debug, Clone)]
pub struct File {
    /// Request target, for example `/example.com/b/m01/@v/v1.0.0.mod`.
    pub path: String,
    /// The whole body.
    pub body: Bytes,
    /// SHA-256 of the body.
    pub sha256: [u8; 32],
}

impl File {
    fn new(path: String, body: Bytes) -> Self {
        let sha256 = Sha256::digest(&body).into();
        Self { path, body, sha256 }
    }
}

/// The files of one module.
#[derive(Debug, Clone)]
pub struct Module {
    /// `@v/list`.
    pub list: File,
    /// `@v/v1.0.0.info`.
    pub info: File,
    /// `@v/v1.0.0.mod`, about 2 KB.
    pub r#mod: File,
    /// `@v/v1.0.0.zip`, of about the size asked for and incompressible.
    pub zip: File,
}

impl Module {
    /// Makes the module `example.com/{name}` with a zip of about `zip_bytes`.
    ///
    /// # Errors
    ///
    /// When the zip cannot be written, which in memory means a fault of the zip library.
    pub fn new(name: &str, zip_bytes: usize) -> anyhow::Result<Self> {
        let module = format!("example.com/{name}");
        let file = |end: &str, body: Bytes| File::new(format!("/{module}/@v/{end}"), body);
        let go_mod = go_mod(&module);
        let zip = module_zip(&module, &go_mod, zip_bytes).context("write a module's zip")?;
        let info = format!("{{\"Version\":\"{VERSION}\",\"Time\":\"2024-05-06T07:08:09Z\"}}");
        Ok(Self {
            list: file("list", Bytes::from(format!("{VERSION}\n"))),
            info: file(&format!("{VERSION}.info"), Bytes::from(info)),
            r#mod: file(&format!("{VERSION}.mod"), Bytes::from(go_mod)),
            zip: file(&format!("{VERSION}.zip"), Bytes::from(zip)),
        })
    }

    /// All four files.
    pub fn files(&self) -> [&File; 4] {
        [&self.list, &self.info, &self.r#mod, &self.zip]
    }
}

/// Every module of a run, by the part that needs it.
#[derive(Debug)]
pub struct Content {
    /// Small modules of the warm parts; their zips are never asked for there.
    pub small: Vec<Module>,
    /// Modules with a zip of 1 MB.
    pub zip_1mb: Vec<Module>,
    /// Modules with a zip of 30 MB.
    pub zip_30mb: Vec<Module>,
    /// The herd's hundred modules; a build reads the first sixty.
    pub hundred: Vec<Module>,
}

impl Content {
    /// Makes all modules; takes about a second for some 100 MB.
    ///
    /// # Errors
    ///
    /// See [`Module::new`].
    pub fn new() -> anyhow::Result<Self> {
        let many = |kind: &str, count: usize, bytes: usize| -> anyhow::Result<Vec<Module>> {
            (0..count)
                .map(|n| Module::new(&format!("{kind}/m{n:02}"), bytes))
                .collect()
        };
        Ok(Self {
            small: many("small", 60, 4096)?,
            zip_1mb: many("one", 8, 1_000_000)?,
            zip_30mb: many("thirty", 2, 30_000_000)?,
            hundred: many("hundred", 100, 256 * 1024)?,
        })
    }

    /// All files by request target.
    pub fn by_path(&self) -> HashMap<String, Bytes> {
        let all = [&self.small, &self.zip_1mb, &self.zip_30mb, &self.hundred];
        let files = all.into_iter().flatten().flat_map(Module::files);
        files
            .map(|file| (file.path.clone(), file.body.clone()))
            .collect()
    }

    /// Writes all files as a tree that a static web server can serve.
    ///
    /// # Errors
    ///
    /// When a file or directory cannot be written.
    pub fn write_tree(&self, root: &Path) -> anyhow::Result<()> {
        for (path, body) in self.by_path() {
            let file = root.join(path.trim_start_matches('/'));
            let parent = file.parent().context("a file has a directory")?;
            fs::create_dir_all(parent)?;
            fs::write(&file, body).with_context(|| format!("write {}", file.display()))?;
        }
        Ok(())
    }
}

fn go_mod(module: &str) -> String {
    let mut text = format!("module {module}\n\ngo 1.21\n\nrequire (\n");
    for n in 0..60 {
        text += &format!("\texample.com/dependency/d{n:02} v1.{n}.0\n");
    }
    text + ")\n"
}

/// A zip as the module zip rules demand, its data stored so that its size is what was asked for.
fn module_zip(module: &str, go_mod: &str, bytes: usize) -> anyhow::Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::with_capacity(bytes + 4096)));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let prefix = format!("{module}@{VERSION}");
    zip.start_file(format!("{prefix}/go.mod"), options)?;
    zip.write_all(go_mod.as_bytes())?;
    zip.start_file(format!("{prefix}/data.bin"), options)?;
    let seed = Sha256::digest(module.as_bytes());
    zip.write_all(&noise(seed[0].into(), bytes))?;
    Ok(zip.finish()?.into_inner())
}

/// Incompressible bytes, the same for the same seed (xorshift64*).
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_has_the_size_asked_for_and_its_own_prefix() {
        let module = Module::new("a/b", 10_000).expect("a zip in memory");
        assert!((10_000..14_000).contains(&module.zip.body.len()));
        let mut zip = zip::ZipArchive::new(Cursor::new(&module.zip.body)).expect("a zip");
        for index in 0..zip.len() {
            let file = zip.by_index(index).expect("an entry");
            let name = file.name().expect("a name").into_owned();
            assert!(name.starts_with("example.com/a/b@v1.0.0/"), "{name}");
        }
        assert_eq!(module.zip.path, "/example.com/a/b/@v/v1.0.0.zip");
    }
}
