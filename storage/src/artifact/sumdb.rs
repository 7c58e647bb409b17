//! Names of a checksum database's documents: its tree head, its records, its tiles.
//!
//! Source: `golang.org/x/mod/sumdb`, `ServerPaths`; `golang.org/x/mod/sumdb/tlog`,
//! `ParseTilePath`; design document 25530, "Proxying a Checksum Database".

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Error, ModulePath, Version};

/// The longest name of a database in bytes.
const NAME_BYTES_MAX: usize = 255;

/// The elements that end a database's name in a request path.
const ENDPOINTS: [&str; 4] = ["latest", "lookup", "supported", "tile"];

/// A checksum database's name: a host, then optionally a path, such as `sum.golang.org` or
/// `localhost.localdev/sumdb`.
///
/// No element of the path is `latest`, `lookup`, `supported` or `tile`, so that the first of
/// these in a request path is where the name ends. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SumdbName(Arc<str>);

impl SumdbName {
    /// Parses a name as it stands in a verifier key.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]: the name is not `host[/path]`.
    pub fn parse(name: &str) -> Result<Self, Error> {
        check_name(name)
            .map_err(|reason| Error::invalid_name("checksum database name", name, reason))?;
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SumdbName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for SumdbName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for SumdbName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::parse(name)
    }
}

/// A document of a checksum database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SumdbKey {
    /// The database.
    pub name: SumdbName,
    /// The document.
    pub path: SumdbPath,
}

impl SumdbKey {
    /// Splits what follows `sumdb/` in a request path into the database's name and the rest.
    ///
    /// The rest begins with `latest`, `lookup`, `supported` or `tile` and is not parsed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]: there is no such element, or the name before it is malformed.
    pub fn split(target: &str) -> Result<(SumdbName, &str), Error> {
        let mut end = 0;
        for element in target.split('/') {
            if ENDPOINTS.contains(&element) && end > 0 {
                return Ok((SumdbName::parse(&target[..end - 1])?, &target[end..]));
            }
            end += element.len() + 1;
        }
        let reason = "a database serves /supported, /latest, /lookup/ and /tile/ only";
        Err(Error::invalid_name(
            "checksum database path",
            target,
            reason,
        ))
    }
}

/// Writes `{name}/{path}`.
impl fmt::Display for SumdbKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.path)
    }
}

/// A document's path below its database's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SumdbPath {
    /// `supported`: whether the database can be reached this way; empty, and mutable.
    Supported,
    /// `latest`: the signed tree head, mutable.
    Latest,
    /// `lookup/{module}@{version}`, both escaped: the record of a version.
    Lookup {
        /// The module.
        module: ModulePath,
        /// The version.
        version: Version,
    },
    /// `tile/…`: a part of the log.
    Tile(Tile),
}

impl SumdbPath {
    /// Parses a path without a leading slash.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]: no checksum database serves this path.
    pub fn parse(path: &str) -> Result<Self, Error> {
        if path == "latest" {
            return Ok(Self::Latest);
        }
        if path == "supported" {
            return Ok(Self::Supported);
        }
        if let Some(target) = path.strip_prefix("lookup/") {
            let (module, version) = target.split_once('@').ok_or_else(|| {
                Error::invalid_name("checksum database path", path, "it names no version")
            })?;
            return Ok(Self::Lookup {
                module: ModulePath::unescape(module)?,
                version: Version::unescape(version)?,
            });
        }
        Ok(Self::Tile(Tile::parse(path)?))
    }
}

impl fmt::Display for SumdbPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Supported => f.write_str("supported"),
            Self::Latest => f.write_str("latest"),
            Self::Lookup { module, version } => {
                write!(f, "lookup/{}@{}", module.escaped(), version.escaped())
            }
            Self::Tile(tile) => tile.fmt(f),
        }
    }
}

/// Which row of the log a tile belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileLevel {
    /// The records themselves.
    Data,
    /// Hashes, at this level above the records: 0 ..= 63.
    Hashes(u8),
}

/// A tile of the log: a run of hashes or records.
///
/// Written `tile/{height}/{level}/{index}` with `data` for the records' level, the index in
/// groups of three digits (`x001/234`), and `.p/{width}` behind a tile that was not full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    height: u8,
    level: TileLevel,
    index: u64,
    width: u32,
}

impl Tile {
    const HEIGHT_MAX: u8 = 30;
    const LEVEL_MAX: u8 = 63;
    const INDEX_MAX: u64 = i64::MAX as u64;

    /// Parses a tile's path, beginning with `tile/`; only the spelling that is written is read.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]: the path names no tile.
    pub fn parse(path: &str) -> Result<Self, Error> {
        let reason = "a tile is tile/HEIGHT/LEVEL/NNN, optionally with .p/WIDTH";
        Self::read(path)
            .filter(|tile| tile.to_string() == path)
            .ok_or_else(|| Error::invalid_name("checksum database path", path, reason))
    }

    /// The tile's height: it holds up to two to this power entries. 1 ..= 30.
    pub fn height(&self) -> u8 {
        self.height
    }

    /// The tile's row.
    pub fn level(&self) -> TileLevel {
        self.level
    }

    /// The tile's place in its row, counted from 0.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The number of entries: at least 1, and two to the height for a full tile.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Tells whether the tile was cut where the log ended when it was asked for.
    pub fn is_partial(&self) -> bool {
        self.width != 1 << self.height
    }

    /// Reads the numbers; [`Tile::parse`] refuses other spellings of them.
    fn read(path: &str) -> Option<Self> {
        let (height, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let height = height
            .parse()
            .ok()
            .filter(|height| (1..=Self::HEIGHT_MAX).contains(height))?;
        let (level, rest) = rest.split_once('/')?;
        let level = match level {
            "data" => TileLevel::Data,
            level => TileLevel::Hashes(level.parse().ok().filter(|&l| l <= Self::LEVEL_MAX)?),
        };
        let (groups, width) = match rest.split_once(".p/") {
            Some((groups, width)) => (
                groups,
                width
                    .parse()
                    .ok()
                    .filter(|&width| 0 < width && width < 1 << height)?,
            ),
            None => (rest, 1 << height),
        };
        let mut index: u64 = 0;
        for group in groups.split('/') {
            let digits = group.strip_prefix('x').unwrap_or(group);
            let value: u64 = digits.parse().ok().filter(|&value| value < 1000)?;
            index = index.checked_mul(1000)?.checked_add(value)?;
        }
        (index <= Self::INDEX_MAX).then_some(Self {
            height,
            level,
            index,
            width,
        })
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tile/{}/", self.height)?;
        match self.level {
            TileLevel::Data => f.write_str("data/")?,
            TileLevel::Hashes(level) => write!(f, "{level}/")?,
        }
        let mut place = 1;
        while self.index / place >= 1000 {
            place *= 1000;
        }
        while place > 1 {
            write!(f, "x{:03}/", self.index / place % 1000)?;
            place /= 1000;
        }
        write!(f, "{:03}", self.index % 1000)?;
        if self.is_partial() {
            write!(f, ".p/{}", self.width)?;
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), Cow<'static, str>> {
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("it is longer than {NAME_BYTES_MAX} bytes").into());
    }
    let mut elements = name.split('/');
    let authority = elements.next().unwrap_or_default();
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let host_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let port_legal = |port: &str| port.parse::<u16>().is_ok() && !port.starts_with('+');
    if !host.bytes().all(host_byte)
        || !host.starts_with(|c: char| c.is_ascii_alphanumeric())
        || host.ends_with('.')
        || !port.is_none_or(port_legal)
    {
        return Err("it does not begin with a host".into());
    }
    let path_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~');
    for element in elements {
        if element.is_empty() || element.starts_with('.') || !element.bytes().all(path_byte) {
            return Err(format!("{element:?} is no element of a database's path").into());
        }
        if ENDPOINTS.contains(&element) {
            return Err(format!("the element {element:?} belongs to the requests below it").into());
        }
    }
    Ok(())
}
