//! What the commands that ask a running server need to know: where its admin listener is, and
//! the token.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::Config;
use super::environment::Environment;
use super::load::{Flags, read_file};
use super::mistake::{Mistake, Mistakes};
use super::secret::Secret;
use super::source::{Origin, Sources};

/// Where the admin listener is, for a command that talks to it.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Base URL: what was named, else `CORRAL_ADMIN`, else derived from `admin_listen`.
    pub admin: String,
    /// The bearer token; `None` where no file is named.
    pub token: Option<Secret>,
    /// Whether colours are welcome on a terminal (`NO_COLOR` is not set).
    pub colours: bool,
}

/// What the command line says about the server to ask.
#[derive(Clone, Debug, Default)]
pub struct ClientFlags {
    /// `--admin URL`.
    pub admin: Option<String>,
    /// `--token-file FILE`.
    pub token_file: Option<PathBuf>,
    /// `--config FILE`: the server's own, whose `admin_listen` and `admin.token_file` are taken.
    pub config: Option<PathBuf>,
}

impl ClientSettings {
    /// Finds the admin listener in flags, variables and the configuration file.
    ///
    /// Of the server's configuration only the two keys that matter are read: a client need not
    /// have what a server needs.
    ///
    /// # Errors
    ///
    /// [`Mistakes`]: print its lines and exit with 2.
    pub fn read(flags: &ClientFlags, environment: &Environment) -> Result<Self, Mistakes> {
        let file_flags = Flags {
            config: flags.config.clone(),
            ..Flags::default()
        };
        let mut sources = Sources::default();
        read_file(&mut sources, &file_flags, environment);
        // A file that cannot be read is one mistake; what is wrong with other keys is none here.
        let mut mistakes: Vec<Mistake> = sources
            .mistakes
            .drain(..)
            .filter(|mistake| mistake.key.is_empty())
            .collect();
        sources.variables(environment);
        let mut config = Config::default();
        let mut token_origin = Origin::Default;
        for given in sources.given {
            if !matches!(given.key.name, "admin_listen" | "admin.token_file") {
                continue;
            }
            match given.key.assign(&mut config, &given.value) {
                Ok(()) if given.key.name == "admin.token_file" => token_origin = given.origin,
                Ok(()) => {}
                Err(must) => mistakes.push(Mistake::value(
                    &given.origin,
                    given.key.name,
                    &given.value,
                    &must,
                )),
            }
        }
        if let Some(file) = &flags.token_file {
            config.admin.token_file = Some(file.clone());
            token_origin = Origin::Flag("--token-file");
        }
        let token = config.admin.token_file.and_then(|file| {
            Secret::read(&file)
                .map_err(|problem| {
                    let key = format!("admin.token_file = {file:?}");
                    mistakes.push(Mistake::new(&token_origin, &key, problem));
                })
                .ok()
        });
        let named = flags.admin.as_deref();
        let admin = match named.or_else(|| environment.get("CORRAL_ADMIN")) {
            Some(url) => url.trim().to_owned(),
            None if config.admin_listen.port() == 0 => {
                let problem = "its port is chosen at each start (0), so say where it is: --admin \
                               http://HOST:PORT, from the line `admin on …` that corral printed";
                mistakes.push(Mistake::missing("admin_listen", problem));
                String::new()
            }
            None => format!("http://{}", reachable(config.admin_listen)),
        };
        match mistakes.is_empty() {
            true => Ok(Self {
                admin,
                token,
                colours: environment.get("NO_COLOR").is_none(),
            }),
            false => Err(Mistakes(mistakes)),
        }
    }
}

/// The address under which this machine reaches a listener on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    type Variables<'a> = &'a [(&'a str, &'a str)];

    fn read(flags: &ClientFlags, variables: Variables<'_>) -> Result<ClientSettings, String> {
        let environment = Environment::of(variables.iter().copied());
        ClientSettings::read(flags, &environment).map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn the_nearest_source_wins() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("corral.toml");
        // What only a server could do without is no concern of a client.
        std::fs::write(&file, "admin_listen = \"0.0.0.0:9\"\ncolour = \"red\"").unwrap();
        let by_file = ClientFlags {
            config: Some(file),
            ..ClientFlags::default()
        };
        let by_flag = ClientFlags {
            admin: Some("http://flag".to_owned()),
            ..by_file.clone()
        };
        let listen = ("CORRAL_ADMIN_LISTEN", "[::]:10");
        let admin = ("CORRAL_ADMIN", "http://variable");
        let none = ClientFlags::default();
        let cases: [(&ClientFlags, Variables<'_>, &str); 5] = [
            (&none, &[], "http://127.0.0.1:8071"),
            (&by_file, &[], "http://127.0.0.1:9"),
            (&by_file, &[listen], "http://[::1]:10"),
            (&by_file, &[listen, admin], "http://variable"),
            (&by_flag, &[listen, admin], "http://flag"),
        ];
        for (flags, variables, expected) in cases {
            assert_eq!(read(flags, variables).unwrap().admin, expected);
        }
    }

    #[test]
    fn the_token_comes_from_a_file_and_is_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "hush\n").unwrap();
        let variable = [("CORRAL_ADMIN__TOKEN_FILE", file.to_str().unwrap())];
        let settings = read(&ClientFlags::default(), &variable).unwrap();
        assert_eq!(settings.token, Some(Secret::new("hush")));
        assert!(!format!("{settings:?}").contains("hush"));
        let flags = ClientFlags {
            token_file: Some("/no/such/token".into()),
            ..ClientFlags::default()
        };
        assert_eq!(
            read(&flags, &variable).unwrap_err(),
            "--token-file: admin.token_file = \"/no/such/token\": must be a file that can be \
             read: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn a_port_that_nobody_knows_is_said() {
        let line = read(&ClientFlags::default(), &[("CORRAL_ADMIN_LISTEN", ":0")]).unwrap_err();
        assert!(line.contains("--admin http://HOST:PORT"), "{line}");
        let none = [("CORRAL_CONFIG", "/no/such.toml")];
        let line = read(&ClientFlags::default(), &none).unwrap_err();
        assert!(line.starts_with("CORRAL_CONFIG: cannot read"), "{line}");
    }
}
