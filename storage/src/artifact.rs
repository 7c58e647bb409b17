//! Artifacts: the cacheable objects of a module and of a checksum database, and their keys.

mod sumdb;

use std::fmt;

use crate::layout::percent_encoded;
use crate::{Error, ModulePath, Version, VersionQuery};

pub use sumdb::{SumdbKey, SumdbName, SumdbPath, Tile, TileLevel};

/// One of the three immutable files of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// The version's name and time, JSON.
    Info,
    /// Its `go.mod`.
    Mod,
    /// Its source tree.
    Zip,
}

impl FileKind {
    /// Every kind, in the order in which a client asks for them.
    pub const ALL: [Self; 3] = [Self::Info, Self::Mod, Self::Zip];

    /// The file name's extension without its dot: `info`, `mod` or `zip`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Mod => "mod",
            Self::Zip => "zip",
        }
    }

    /// The kind with this extension; `None` for any other.
    pub fn from_extension(extension: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == extension)
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One of the mutable documents of a module.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Document {
    /// The versions that the module has, one a line.
    List,
    /// The version that `@latest` names, JSON as in an info file.
    Latest,
    /// What a query resolves to, JSON as in an info file.
    Query(VersionQuery),
}

/// The name of one artifact: what is asked for, fetched, leased and stored as a unit.
///
/// Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ArtifactKey {
    /// An immutable file of a version. The version fits the module; [`ArtifactKey::file`] checks.
    File {
        /// The module.
        module: ModulePath,
        /// A version that fits it.
        version: Version,
        /// Which file.
        kind: FileKind,
    },
    /// A mutable document of a module.
    Document {
        /// The module.
        module: ModulePath,
        /// Which document.
        document: Document,
    },
    /// A document of a checksum database.
    Sumdb(SumdbKey),
}

impl ArtifactKey {
    /// Names a file of a version.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]: the version's major number does not fit the module's path.
    pub fn file(module: ModulePath, version: Version, kind: FileKind) -> Result<Self, Error> {
        if version.fits(&module) {
            return Ok(Self::File {
                module,
                version,
                kind,
            });
        }
        let reason = match module.major_suffix() {
            "" => format!("{module} has v0 and v1 only, or versions marked +incompatible"),
            suffix => format!("the path {module} asks for {}", &suffix[1..]),
        };
        Err(Error::invalid_name("version", version.as_str(), reason))
    }

    /// Names what `{text}.info` of a module is: the info file of a version when `text` is a
    /// version that the module can have, else a query. `text` is plain, not escaped.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]: `text` is neither.
    pub fn info(module: ModulePath, text: &str) -> Result<Self, Error> {
        match Version::parse(text) {
            Ok(version) if version.fits(&module) => Ok(Self::File {
                module,
                version,
                kind: FileKind::Info,
            }),
            _ => {
                let document = Document::Query(VersionQuery::parse_for(&module, text)?);
                Ok(Self::Document { module, document })
            }
        }
    }

    /// The name under which this artifact is leased, retried, logged and shown.
    ///
    /// Different keys have different units: a version holds no `:` and begins with `v` and a
    /// digit, a module's first element has a dot. Examples: `example.com/m@v1.0.0.zip`,
    /// `example.com/m@list`, `example.com/m@latest`, `example.com/m@query:master`,
    /// `sumdb/sum.golang.org/tile/8/0/001`. Printable ASCII without spaces; what a query holds
    /// beyond that is percent-encoded.
    pub fn unit(&self) -> String {
        self.to_string()
    }

    /// The module that the artifact belongs to; `None` for a checksum database's document.
    pub fn module(&self) -> Option<&ModulePath> {
        match self {
            Self::File { module, .. } | Self::Document { module, .. } => Some(module),
            Self::Sumdb(_) => None,
        }
    }

    /// Tells whether this is a zip: the one kind that is worth sending while it arrives, and that
    /// can be told from a wrong answer by its first bytes.
    pub fn is_zip(&self) -> bool {
        matches!(
            self,
            Self::File {
                kind: FileKind::Zip,
                ..
            }
        )
    }

    /// Tells whether another answer may be right later: lists, `@latest`, queries, and a
    /// checksum database's tree head. Everything else never changes.
    pub fn is_mutable(&self) -> bool {
        match self {
            Self::File { .. } => false,
            Self::Document { .. } => true,
            Self::Sumdb(key) => matches!(key.path, SumdbPath::Latest | SumdbPath::Supported),
        }
    }

    /// The media type in which the artifact is served.
    pub fn content_type(&self) -> &'static str {
        const TEXT: &str = "text/plain; charset=utf-8";
        const JSON: &str = "application/json";
        match self {
            Self::File {
                kind: FileKind::Info,
                ..
            } => JSON,
            Self::File {
                kind: FileKind::Mod,
                ..
            } => TEXT,
            Self::File {
                kind: FileKind::Zip,
                ..
            } => "application/zip",
            Self::Document {
                document: Document::List,
                ..
            } => TEXT,
            Self::Document {
                document: Document::Latest | Document::Query(_),
                ..
            } => JSON,
            Self::Sumdb(key) => match &key.path {
                SumdbPath::Tile(tile) if tile.level() != TileLevel::Data => {
                    "application/octet-stream"
                }
                _ => TEXT,
            },
        }
    }

    /// The value of the label `kind` in metrics: `info`, `mod`, `zip`, `list`, `latest`, `query`
    /// or `sumdb`.
    pub fn kind_label(&self) -> &'static str {
        match self {
            Self::File { kind, .. } => kind.as_str(),
            Self::Document {
                document: Document::List,
                ..
            } => "list",
            Self::Document {
                document: Document::Latest,
                ..
            } => "latest",
            Self::Document {
                document: Document::Query(_),
                ..
            } => "query",
            Self::Sumdb(_) => "sumdb",
        }
    }
}

/// Writes the unit; see [`ArtifactKey::unit`].
impl fmt::Display for ArtifactKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File {
                module,
                version,
                kind,
            } => write!(f, "{module}@{version}.{kind}"),
            Self::Document { module, document } => match document {
                Document::List => write!(f, "{module}@list"),
                Document::Latest => write!(f, "{module}@latest"),
                Document::Query(query) => {
                    write!(f, "{module}@query:{}", percent_encoded(query.as_str()))
                }
            },
            Self::Sumdb(key) => write!(f, "sumdb/{key}"),
        }
    }
}
