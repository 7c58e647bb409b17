//! Stores that break on command: a folder, and a bucket behind a breakable link.
//!
//! Everything works for root, too, whom no permission stops: what may not be made has something
//! else in its way.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

use crate::fault_proxy::FaultProxy;
use crate::proxy::Setup;
use crate::s3::{S3Server, WriteFault};

/// A store that can be broken while instances use it.
pub enum BreakableStore {
    /// Files below a folder.
    Folder(Folder),
    /// Objects in a bucket.
    Bucket(Bucket),
}

/// A folder that can be in the way of itself.
#[derive(Debug)]
pub struct Folder {
    home: TempDir,
    /// Files that stand where folders should be made.
    obstacles: Mutex<Vec<PathBuf>>,
}

/// A bucket and the way to it.
pub struct Bucket {
    /// The server.
    pub server: S3Server,
    /// The way to it.
    pub link: FaultProxy,
}

impl BreakableStore {
    /// An empty folder.
    ///
    /// # Panics
    ///
    /// When no temporary directory can be made.
    pub fn folder() -> Self {
        let home = tempfile::Builder::new().prefix("corral-store-").tempdir();
        let home = home.expect("a temporary directory");
        std::fs::create_dir(home.path().join("store")).expect("a fresh directory takes a folder");
        Self::Folder(Folder {
            home,
            obstacles: Mutex::default(),
        })
    }

    /// An empty bucket.
    ///
    /// # Panics
    ///
    /// When its server cannot be started.
    pub async fn bucket() -> Self {
        let server = S3Server::start().await;
        let link = FaultProxy::to(server.addr()).await;
        Self::Bucket(Bucket { server, link })
    }

    /// `file` or `s3`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Folder(_) => "file",
            Self::Bucket(_) => "s3",
        }
    }

    /// The value for `--storage`.
    pub fn url(&self) -> String {
        match self {
            Self::Folder(folder) => format!("file://{}", folder.root().display()),
            Self::Bucket(bucket) => bucket.server.storage_url(),
        }
    }

    /// The environment variables that lead there.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Folder(_) => Vec::new(),
            Self::Bucket(bucket) => bucket.server.env_through(bucket.link.addr()).into(),
        }
    }

    /// An instance that stores here.
    pub fn under(&self, setup: Setup) -> Setup {
        let setup = setup.storage(&self.url());
        self.env()
            .into_iter()
            .fold(setup, |setup, (name, value)| setup.env(name, &value))
    }

    /// Refuses to store these request paths, unless they are stored already; what is stored can
    /// be read. A bucket refuses all writes.
    ///
    /// # Panics
    ///
    /// When the folder cannot be changed.
    pub fn refuse_writes<'a>(&self, paths: impl IntoIterator<Item = &'a str>) {
        match self {
            Self::Folder(folder) => paths.into_iter().for_each(|path| folder.obstruct(path)),
            Self::Bucket(bucket) => {
                let refusal = WriteFault::Refuse(503, "SlowDown".to_owned());
                bucket.server.all_writes(Some(refusal));
            }
        }
    }

    /// Takes the whole store away: neither reading nor writing works.
    ///
    /// # Panics
    ///
    /// When the folder cannot be changed.
    pub fn vanish(&self) {
        match self {
            Self::Folder(folder) => folder.vanish(),
            Self::Bucket(bucket) => bucket.link.refuse(),
        }
    }

    /// Makes it work again, with all that it held.
    ///
    /// # Panics
    ///
    /// When the folder cannot be changed.
    pub fn heal(&self) {
        match self {
            Self::Folder(folder) => folder.heal(),
            Self::Bucket(bucket) => {
                bucket.server.all_writes(None);
                bucket.link.heal();
            }
        }
    }

    /// What is stored of a request path, also while the store is broken.
    pub fn object(&self, request_path: &str) -> Option<Vec<u8>> {
        let root = match self {
            Self::Folder(folder) => folder.contents(),
            Self::Bucket(bucket) => bucket.server.bucket_dir(),
        };
        std::fs::read(root.join(request_path.trim_start_matches('/'))).ok()
    }

    /// Whether the object of a request path holds exactly these bytes.
    pub fn holds(&self, request_path: &str, bytes: &[u8]) -> bool {
        self.object(request_path)
            .is_some_and(|stored| stored == bytes)
    }
}

impl Folder {
    fn root(&self) -> PathBuf {
        self.home.path().join("store")
    }

    fn away(&self) -> PathBuf {
        self.home.path().join("away")
    }

    /// Where the files are now.
    fn contents(&self) -> PathBuf {
        let away = self.away();
        if away.is_dir() { away } else { self.root() }
    }

    /// Puts a file where the first missing folder above a path would be made.
    fn obstruct(&self, request_path: &str) {
        let root = self.contents();
        let target = root.join(request_path.trim_start_matches('/'));
        let mut above: Vec<&Path> = target.ancestors().skip(1).collect();
        above.retain(|dir| dir.starts_with(&root) && *dir != root);
        above.reverse();
        for dir in above {
            match File::create_new(dir) {
                Ok(_) => {
                    self.obstacles().push(dir.to_owned());
                    return;
                }
                // Whoever uses the store may have made the folder just now.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if dir.is_file() {
                        return;
                    }
                }
                Err(error) => panic!("a folder of our own takes a file: {error}"),
            }
        }
    }

    fn vanish(&self) {
        if !self.away().exists() {
            std::fs::rename(self.root(), self.away()).expect("our own folder can be moved");
            std::fs::write(self.root(), "in the way").expect("our own folder takes a file");
        }
    }

    fn heal(&self) {
        if self.away().exists() {
            std::fs::remove_file(self.root()).expect("what stood in the way is ours");
            std::fs::rename(self.away(), self.root()).expect("our own folder can be moved");
        }
        for obstacle in self.obstacles().drain(..) {
            // Its path begins with the place at which it was made.
            let name = obstacle
                .strip_prefix(self.away())
                .or_else(|_| obstacle.strip_prefix(self.root()));
            let name = name.expect("an obstacle lies in the store");
            std::fs::remove_file(self.root().join(name)).expect("what stood in the way is ours");
        }
    }

    fn obstacles(&self) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
        self.obstacles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
