//! Merges all sources into one checked configuration.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Value;
use url::Url;

use super::environment::{Environment, GoEnv};
use super::keys::KEYS;
use super::mistake::{Mistake, Mistakes};
use super::secret::{Secret, SecretUrl};
use super::source::{Origin, Sources};
use super::value::Rule;
use super::value::assign;
use super::{Config, Notice, VerifyMode, check, text, valkey};

/// The checksum database that is asked when nothing names another.
const SUMDB_DEFAULT: &str = "sum.golang.org";

/// What the command line says, each as it was given.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config FILE`.
    pub config: Option<PathBuf>,
    /// `--listen ADDR`.
    pub listen: Option<String>,
    /// `--admin-listen ADDR`.
    pub admin_listen: Option<String>,
    /// `--upstream LIST`.
    pub upstream: Option<String>,
    /// `--storage URL`.
    pub storage: Option<String>,
    /// `--spool DIR`.
    pub spool: Option<String>,
    /// `--valkey URL`, repeated.
    pub valkey: Vec<String>,
    /// `--verify sumdb|off`.
    pub verify: Option<String>,
    /// `--offline`.
    pub offline: bool,
    /// `--set key=value`, repeated.
    pub set: Vec<String>,
}

/// One key with the value in force.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Dotted name.
    pub key: &'static str,
    /// The value, credentials hidden; `None` if nothing is set.
    pub value: Option<Value>,
    /// Where it was given.
    pub origin: Origin,
}

/// A configuration without mistakes, and how it came about.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values in force.
    pub config: Config,
    /// What the operator should know about them; log each once at start.
    pub notices: Vec<Notice>,
    origins: BTreeMap<&'static str, Origin>,
}

impl Loaded {
    /// Reads and checks the configuration: defaults, file, variables, flags, `--set`, the later
    /// ones winning.
    ///
    /// The file is the one that `--config` or `CORRAL_CONFIG` names, else the system's
    /// `/etc/corral/corral.toml` if there is one. A `corral.toml` in the working folder is not
    /// read by itself: where a server is started from must not change what it does.
    /// May run `go env`, and so block for up to five seconds.
    ///
    /// # Errors
    ///
    /// [`Mistakes`]: everything that is wrong, in one go; print its lines and exit with 2.
    pub fn read(flags: &Flags, environment: &Environment) -> Result<Self, Mistakes> {
        let mut sources = Sources::default();
        read_file(&mut sources, flags, environment);
        sources.variables(environment);
        sources.flags(flags);

        let Sources {
            given,
            mut mistakes,
            notices,
        } = sources;
        let mut loaded = Self {
            config: Config::default(),
            notices,
            origins: BTreeMap::new(),
        };
        for given in given {
            match given.key.assign(&mut loaded.config, &given.value) {
                Ok(()) => {
                    loaded.origins.insert(given.key.name, given.origin);
                }
                Err(must) if given.key.is_secret() => {
                    mistakes.push(Mistake::new(&given.origin, given.key.name, must));
                }
                Err(must) => mistakes.push(Mistake::value(
                    &given.origin,
                    given.key.name,
                    &given.value,
                    &must,
                )),
            }
        }
        // A default may depend on a value that was refused; then its absence is no second mistake.
        if mistakes.is_empty() {
            loaded.fill_defaults(environment, &mut mistakes);
            loaded.read_secrets(&mut mistakes);
            valkey::complete(&mut loaded, &mut mistakes);
            check::check(&mut loaded, &mut mistakes);
        }
        if mistakes.is_empty() {
            Ok(loaded)
        } else {
            Err(Mistakes(mistakes))
        }
    }

    /// Every key with its value and origin, in the order of the documentation.
    pub fn settings(&self) -> impl Iterator<Item = Setting> {
        KEYS.iter().map(|key| Setting {
            key: key.name,
            value: key.show(&self.config),
            origin: self.origin(key.name),
        })
    }

    /// Where the value of `key` was given.
    pub(super) fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Whether an operator gave the value of `key`.
    pub(super) fn is_explicit(&self, key: &str) -> bool {
        self.origin(key).is_explicit()
    }

    /// Fills in the defaults that depend on the environment.
    fn fill_defaults(&mut self, environment: &Environment, mistakes: &mut Vec<Mistake>) {
        let go_env = OnceCell::new();
        let go_env = || go_env.get_or_init(|| environment.go_env());
        mistakes.extend(self.default_upstream(environment, &go_env));
        mistakes.extend(self.default_sumdb(environment, &go_env));
        mistakes.extend(self.default_storage(environment));
        mistakes.extend(self.default_spool(environment));
        self.config.storage_options = environment.storage_options(self.config.storage.expose());
        self.config.netrc = environment.netrc();
    }

    fn default_upstream<'a>(
        &mut self,
        environment: &Environment,
        go_env: &impl Fn() -> &'a GoEnv,
    ) -> Option<Mistake> {
        if self.is_explicit("upstream") || self.config.offline {
            return None;
        }
        let set = "set --upstream, CORRAL_UPSTREAM or upstream in the file, \
                   for example to \"https://proxy.example,direct\"";
        let (list, origin) = match environment.get("GOPROXY") {
            Some(list) => (list, Origin::Variable("GOPROXY".to_owned())),
            None => (go_env().goproxy.as_str(), Origin::GoEnv("GOPROXY")),
        };
        if list.is_empty() {
            let problem = format!("no upstream: GOPROXY is not set and go env names none; {set}");
            return Some(Mistake::missing("upstream", problem));
        }
        let value = Value::from(list);
        let list = match text::check_list(list) {
            Ok(list) => text::without_own_address(&list, self.config.listen),
            Err(must) => return Some(Mistake::value(&origin, "upstream", &value, &must)),
        };
        if !text::is_usable(&list) {
            let problem = format!("no usable upstream; {set}");
            return Some(Mistake::value(&origin, "upstream", &value, &problem));
        }
        self.config.upstream = SecretUrl::new(list);
        self.origins.insert("upstream", origin);
        None
    }

    fn default_sumdb<'a>(
        &mut self,
        environment: &Environment,
        go_env: &impl Fn() -> &'a GoEnv,
    ) -> Option<Mistake> {
        if self.is_explicit("verify.sumdb") {
            return None;
        }
        let (text, origin) = match environment.get("GOSUMDB") {
            Some(text) => (text, Origin::Variable("GOSUMDB".to_owned())),
            // Whoever does not use the answer does not wait for it.
            None if self.config.verify.mode == VerifyMode::Off => ("", Origin::Default),
            None => (go_env().gosumdb.as_str(), Origin::GoEnv("GOSUMDB")),
        };
        let (text, origin) = if text.is_empty() {
            (SUMDB_DEFAULT, Origin::Default)
        } else {
            (text, origin)
        };
        let value = Value::from(text);
        let rule = Rule::Text(text::check_sumdb);
        match assign(&mut self.config.verify.sumdb, &value, &rule) {
            Ok(()) => {
                self.origins.insert("verify.sumdb", origin);
                None
            }
            Err(must) => Some(Mistake::value(&origin, "verify.sumdb", &value, &must)),
        }
    }

    fn default_storage(&mut self, environment: &Environment) -> Option<Mistake> {
        if self.is_explicit("storage") {
            return None;
        }
        let folder = environment.data_dir().map(|data| data.join("store"));
        match folder.as_deref().map(Url::from_file_path) {
            Some(Ok(url)) => {
                self.config.storage = SecretUrl::new(url);
                self.origins
                    .insert("storage", Origin::Derived("the data directory"));
                None
            }
            _ => Some(Mistake::missing(
                "storage",
                "no data directory, because HOME is not set; set --storage, CORRAL_STORAGE or \
                 storage in the file, for example to \"file:///var/lib/corral/store\"",
            )),
        }
    }

    /// The spool stands beside a store in a folder, or else in the data directory.
    ///
    /// It has the store's own name in its, so that two stores in one folder have two spools.
    fn default_spool(&mut self, environment: &Environment) -> Option<Mistake> {
        if self.is_explicit("spool.dir") || self.config.storage.is_empty() {
            return None;
        }
        let store = Url::parse(self.config.storage.expose()).ok();
        let store = store
            .filter(|url| url.scheme() == "file")
            .and_then(|url| url.to_file_path().ok());
        let (dir, origin) = match store {
            Some(store) => (beside(&store), Origin::Derived("storage")),
            None => (
                environment.data_dir().map(|data| data.join("store.spool")),
                Origin::Derived("the data directory"),
            ),
        };
        let Some(dir) = dir else {
            return Some(Mistake::missing(
                "spool.dir",
                "no data directory, because HOME is not set; set --spool, CORRAL_SPOOL or \
                 spool.dir in the file, for example to \"/var/lib/corral/spool\"",
            ));
        };
        self.config.spool.dir = dir;
        self.origins.insert("spool.dir", origin);
        None
    }

    /// Reads the files that hold the admin token and the fleet's secret.
    fn read_secrets(&mut self, mistakes: &mut Vec<Mistake>) {
        let (admin, fleet) = (&self.config.admin, &self.config.fleet);
        let token = self.secret_in("admin.token_file", admin.token_file.as_deref());
        let secret = self.secret_in("fleet.secret_file", fleet.secret_file.as_deref());
        match token {
            Ok(token) => self.config.admin.token = token,
            Err(mistake) => mistakes.push(mistake),
        }
        match secret {
            Ok(secret) => self.config.fleet.secret = secret,
            Err(mistake) => mistakes.push(mistake),
        }
    }

    /// The secret in the file that `key` names; `None` if it names none.
    pub(super) fn secret_in(
        &self,
        key: &str,
        file: Option<&Path>,
    ) -> Result<Option<Secret>, Mistake> {
        let Some(file) = file else { return Ok(None) };
        Secret::read(file).map(Some).map_err(|problem| {
            let value = Value::from(file.to_string_lossy().into_owned());
            Mistake::value(&self.origin(key), key, &value, &problem)
        })
    }
}

/// The folder `NAME.spool` beside the folder `NAME`.
fn beside(store: &Path) -> Option<PathBuf> {
    let mut name = store.file_name()?.to_owned();
    name.push(".spool");
    Some(store.with_file_name(name))
}

pub(super) fn read_file(sources: &mut Sources, flags: &Flags, environment: &Environment) {
    let named = match (&flags.config, environment.get("CORRAL_CONFIG")) {
        (Some(file), _) => Some((file.clone(), Origin::Flag("--config"))),
        (None, Some(file)) => Some((
            PathBuf::from(file),
            Origin::Variable("CORRAL_CONFIG".to_owned()),
        )),
        (None, None) => environment
            .system_file()
            .map(|file| (file.to_owned(), Origin::File(file.to_owned(), 0))),
    };
    let Some((file, origin)) = named else { return };
    match std::fs::read_to_string(&file) {
        Ok(text) => sources.file(&file, &text),
        Err(error) => {
            let problem = format!("cannot read {}: {error}", file.display());
            sources.mistakes.push(Mistake::new(&origin, "", problem));
        }
    }
}
