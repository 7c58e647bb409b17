//! Where values come from: the file, variables, flags and `--set`.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::Value;
use toml::de::{DeTable, DeValue};

use super::keys::{self, KEYS};
use super::mistake::Mistake;
use super::spelling;
use super::value::{Shape, from_text};
use super::{Config, Environment, Flags, Notice};

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the default.
    Default,
    /// Nowhere: it is derived from other values, which the text names.
    Derived(&'static str),
    /// A line, counted from 1, of the configuration file; zero stands for the whole file.
    File(PathBuf, usize),
    /// An environment variable.
    Variable(String),
    /// What `go env` says about a variable.
    GoEnv(&'static str),
    /// A flag.
    Flag(&'static str),
    /// A `--set` flag.
    Set,
}

impl Origin {
    /// Whether an operator gave the value to corral, rather than it being a default of some
    /// kind; `GOPROXY` is one.
    pub(super) fn is_explicit(&self) -> bool {
        match self {
            Self::File(..) | Self::Flag(_) | Self::Set => true,
            Self::Variable(name) => name.starts_with("CORRAL_"),
            Self::Default | Self::Derived(_) | Self::GoEnv(_) => false,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Derived(from) => write!(f, "default, from {from}"),
            Self::File(path, 0) => write!(f, "{}", path.display()),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::GoEnv(name) => write!(f, "go env {name}"),
            Self::Flag(name) => f.write_str(name),
            Self::Set => f.write_str("--set"),
        }
    }
}

/// One value for one key, not yet read into its field.
pub(super) struct Given {
    pub(super) key: &'static keys::Key,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// What all sources give, weakest first, and what is wrong with them.
#[derive(Default)]
pub(super) struct Sources {
    pub(super) given: Vec<Given>,
    pub(super) mistakes: Vec<Mistake>,
    pub(super) notices: Vec<Notice>,
}

/// Variables that stand for a flag and are not called after their key.
const FLAG_VARIABLES: [(&str, &str); 3] = [
    ("CORRAL_SPOOL", "spool.dir"),
    ("CORRAL_VALKEY", "valkey.url"),
    ("CORRAL_VERIFY", "verify.mode"),
];

/// Variables of ours that set no key: the file to read, and where commands find the server.
const OTHER_VARIABLES: [&str; 2] = ["CORRAL_CONFIG", "CORRAL_ADMIN"];

impl Sources {
    /// Adds what a configuration file says.
    pub(super) fn file(&mut self, path: &Path, text: &str) {
        let (table, errors) = DeTable::parse_recoverable(text);
        let origin_at = |at: usize| {
            let before = text.get(..at).unwrap_or(text);
            Origin::File(path.to_owned(), before.matches('\n').count() + 1)
        };
        for error in &errors {
            let origin = error
                .span()
                .map_or(Origin::File(path.to_owned(), 0), |span| {
                    origin_at(span.start)
                });
            self.mistakes.push(Mistake::new(
                &origin,
                "",
                format!("not TOML: {}", error.message()),
            ));
        }
        if errors.is_empty() {
            self.file_table("", table.get_ref(), &origin_at);
        }
    }

    fn file_table(
        &mut self,
        prefix: &str,
        table: &DeTable<'_>,
        origin_at: &dyn Fn(usize) -> Origin,
    ) {
        // The parser keeps tables sorted by name; mistakes read best in the order of the lines.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name = format!("{prefix}{}", key.get_ref());
            let origin = origin_at(key.span().start);
            match (keys::find(&name), value.get_ref()) {
                (Some(key), value) => match plain(value) {
                    Some(value) => self.given.push(Given { key, value, origin }),
                    None => self
                        .mistakes
                        .push(Mistake::new(&origin, &name, "number out of range")),
                },
                (None, DeValue::Table(table)) if !table.is_empty() => {
                    self.file_table(&format!("{name}."), table, origin_at);
                }
                (None, DeValue::Table(_)) if is_table(&name) => {}
                (None, _) => self.mistakes.push(unknown(&origin, &name)),
            }
        }
    }

    /// Adds what the environment's `CORRAL_` variables say.
    ///
    /// Container platforms put variables of their own beside ours when a service is called
    /// `corral`; those are passed over. So is what resembles no key, with a notice.
    pub(super) fn variables(&mut self, environment: &Environment) {
        for key in KEYS {
            self.variable(environment, &key.variable(), key);
        }
        for (name, key) in FLAG_VARIABLES {
            self.variable(
                environment,
                name,
                keys::find(key).expect("the table has the key"),
            );
        }
        let mut known: Vec<String> = KEYS.iter().map(keys::Key::variable).collect();
        known.extend(FLAG_VARIABLES.map(|(name, _)| name.to_owned()));
        known.extend(OTHER_VARIABLES.map(str::to_owned));
        for name in environment.names("CORRAL_") {
            if known.iter().any(|known| known == name) || is_service_link(name) {
                continue;
            }
            let origin = Origin::Variable(name.to_owned());
            match spelling::nearest(name, known.iter().map(String::as_str)) {
                Some(meant) => self.mistakes.push(Mistake::new(
                    &origin,
                    "",
                    format!("unknown variable; did you mean {meant}?"),
                )),
                None if name.contains("__") => {
                    self.mistakes
                        .push(Mistake::new(&origin, "", "unknown variable"));
                }
                None => self
                    .notices
                    .push(Notice::warning(format!("{name}: unknown, passed over"))),
            }
        }
    }

    fn variable(&mut self, environment: &Environment, name: &str, key: &'static keys::Key) {
        // An empty variable is an unset one, as for the go command.
        let Some(text) = environment.get(name) else {
            return;
        };
        let origin = Origin::Variable(name.to_owned());
        self.text(key, text, origin);
    }

    /// Adds what the flags say, `--set` last.
    pub(super) fn flags(&mut self, flags: &Flags) {
        let texts = [
            ("--listen", "listen", &flags.listen),
            ("--admin-listen", "admin_listen", &flags.admin_listen),
            ("--upstream", "upstream", &flags.upstream),
            ("--storage", "storage", &flags.storage),
            ("--spool", "spool.dir", &flags.spool),
            ("--verify", "verify.mode", &flags.verify),
        ];
        let key = |name| keys::find(name).expect("the table has the key");
        for (flag, name, text) in texts {
            if let Some(text) = text {
                let value = Value::String(text.clone());
                self.given.push(Given {
                    key: key(name),
                    value,
                    origin: Origin::Flag(flag),
                });
            }
        }
        if !flags.valkey.is_empty() {
            let value = Value::from(flags.valkey.clone());
            let origin = Origin::Flag("--valkey");
            self.given.push(Given {
                key: key("valkey.url"),
                value,
                origin,
            });
        }
        if flags.offline {
            let (value, origin) = (Value::Boolean(true), Origin::Flag("--offline"));
            self.given.push(Given {
                key: key("offline"),
                value,
                origin,
            });
        }
        for assignment in &flags.set {
            self.set(assignment);
        }
    }

    fn set(&mut self, assignment: &str) {
        let Some((name, text)) = assignment.split_once('=') else {
            let problem = "must be key=value, such as fill.retries=0";
            self.mistakes
                .push(Mistake::new(&Origin::Set, assignment, problem));
            return;
        };
        let name = name.trim();
        match (keys::find(name), from_text(text, Shape::Number)) {
            (Some(key), _) => self.text(key, text, Origin::Set),
            (None, Value::Table(table)) if is_table(name) => self.set_table(name, table),
            (None, _) => self.mistakes.push(unknown(&Origin::Set, name)),
        }
    }

    fn set_table(&mut self, prefix: &str, table: toml::Table) {
        for (name, value) in table {
            let name = format!("{prefix}.{name}");
            match keys::find(&name) {
                Some(key) => self.given.push(Given {
                    key,
                    value,
                    origin: Origin::Set,
                }),
                None => self.mistakes.push(unknown(&Origin::Set, &name)),
            }
        }
    }

    fn text(&mut self, key: &'static keys::Key, text: &str, origin: Origin) {
        let value = from_text(text, key.shape(&Config::default()));
        self.given.push(Given { key, value, origin });
    }
}

fn unknown(origin: &Origin, name: &str) -> Mistake {
    if is_table(name) {
        let keys: Vec<&str> = children(name).collect();
        return Mistake::new(
            origin,
            name,
            format!("is a table with the keys {}", keys.join(", ")),
        );
    }
    let same_end: Vec<&str> = KEYS
        .iter()
        .map(|key| key.name)
        .filter(|key| key.rsplit('.').next() == name.rsplit('.').next())
        .collect();
    let meant =
        spelling::nearest(name, KEYS.iter().map(|key| key.name)).or(if let [only] = same_end[..] {
            Some(only)
        } else {
            None
        });
    let hint = meant.map_or_else(String::new, |key| format!("; did you mean {key:?}?"));
    Mistake::new(origin, name, format!("unknown key{hint}"))
}

fn is_table(name: &str) -> bool {
    children(name).next().is_some()
}

fn children(name: &str) -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.name).filter(move |key| {
        key.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

/// Whether a container platform made this variable for a service: `…_SERVICE_HOST`,
/// `…_SERVICE_PORT[_NAME]`, `…_PORT`, `…_PORT_8070_TCP[_PROTO|_PORT|_ADDR]`.
fn is_service_link(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| {
            rest.split_once('_').is_some_and(|(port, protocol)| {
                port.parse::<u16>().is_ok()
                    && ["TCP", "UDP", "SCTP"]
                        .iter()
                        .any(|known| protocol.starts_with(known))
            })
        })
}

/// Turns a value with positions into a plain one; `None` if a number does not fit 64 bits.
fn plain(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()?)
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().ok()?),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(value) => Value::Datetime(*value),
        DeValue::Array(values) => Value::Array(
            values
                .iter()
                .map(|value| plain(value.get_ref()))
                .collect::<Option<_>>()?,
        ),
        DeValue::Table(table) => Value::Table(
            table
                .iter()
                .map(|(key, value)| Some((key.get_ref().to_string(), plain(value.get_ref())?)))
                .collect::<Option<_>>()?,
        ),
    })
}
