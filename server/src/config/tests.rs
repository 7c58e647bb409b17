//! Sources, precedence and messages of the configuration, and that its documents agree with it.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use super::keys::KEYS;
use super::*;

const SAMPLE: &str = include_str!("../../../corral.toml");
const DOCUMENT: &str = include_str!("../../../docs/configuration.md");

/// An environment in which nothing needs to be set.
const HOME: [(&str, &str); 2] = [
    ("HOME", "/home/gopher"),
    ("GOPROXY", "https://proxy.example,direct"),
];

/// Names and values.
type Variables<'a> = &'a [(&'a str, &'a str)];

/// A case: a configuration file, variables beside [`HOME`], `--set` flags.
#[derive(Default)]
struct Case<'a> {
    file: Option<&'a str>,
    variables: Variables<'a>,
    set: &'a [&'a str],
    flags: Flags,
}

impl Case<'_> {
    /// Reads it, the file being called `corral.toml`.
    fn read(self) -> Result<Loaded, Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let mut flags = self.flags;
        if let Some(text) = self.file {
            let file = dir.path().join("corral.toml");
            std::fs::write(&file, text).unwrap();
            flags.config = Some(file);
        }
        flags
            .set
            .extend(self.set.iter().map(|text| (*text).to_owned()));
        let environment = Environment::of(HOME.into_iter().chain(self.variables.iter().copied()));
        let folder = format!("{}/", dir.path().display());
        Loaded::read(&flags, &environment).map_err(|mistakes| {
            mistakes
                .to_string()
                .lines()
                .map(|line| line.replace(&folder, ""))
                .collect()
        })
    }

    fn mistakes(self) -> Vec<String> {
        self.read().map(|loaded| loaded.config).unwrap_err()
    }
}

fn set(set: &[&str]) -> Result<Loaded, Vec<String>> {
    Case {
        set,
        ..Case::default()
    }
    .read()
}

fn values(loaded: &Loaded) -> Vec<(&'static str, Option<String>)> {
    loaded
        .settings()
        .map(|row| (row.key, row.value.map(|value| value.to_string())))
        .collect()
}

fn warnings(loaded: &Loaded) -> Vec<String> {
    let warnings = loaded.notices.iter().filter(|notice| notice.is_warning);
    warnings.map(ToString::to_string).collect()
}

#[test]
fn later_sources_win() {
    let file = "drain_timeout = \"1s\"\n[fill]\nretries = 1\n";
    let variable = [("CORRAL_FILL__RETRIES", "2"), ("CORRAL_VERIFY", "off")];
    let flag = || Flags {
        verify: Some("sumdb".to_owned()),
        ..Flags::default()
    };
    type Row<'a> = (
        Option<&'a str>,
        &'a [(&'a str, &'a str)],
        Flags,
        &'a [&'a str],
    );
    let cases: [(Row<'_>, u32, VerifyMode, &str); 5] = [
        (
            (None, &[], Flags::default(), &[]),
            3,
            VerifyMode::Sumdb,
            "default",
        ),
        (
            (Some(file), &[], Flags::default(), &[]),
            1,
            VerifyMode::Sumdb,
            "corral.toml:3",
        ),
        (
            (Some(file), &variable, Flags::default(), &[]),
            2,
            VerifyMode::Off,
            "CORRAL_FILL__RETRIES",
        ),
        (
            (Some(file), &variable, flag(), &["fill.retries=4"]),
            4,
            VerifyMode::Sumdb,
            "--set",
        ),
        (
            (
                None,
                &[],
                flag(),
                &["fill.retries=4", "verify.mode=off", "fill.retries=5"],
            ),
            5,
            VerifyMode::Off,
            "--set",
        ),
    ];
    for ((file, variables, flags, set), retries, mode, origin) in cases {
        let loaded = Case {
            file,
            variables,
            set,
            flags,
        }
        .read()
        .unwrap();
        assert_eq!(loaded.config.fill.retries, retries, "{origin}");
        assert_eq!(loaded.config.verify.mode, mode, "{origin}");
        assert!(
            loaded.origin("fill.retries").to_string().ends_with(origin),
            "{origin}"
        );
    }
}

#[test]
fn every_flag_has_its_key_and_its_variable() {
    let text = |text: &str| Some(text.to_owned());
    let by_flag = Flags {
        listen: text("127.0.0.1:0"),
        admin_listen: text("localhost:0"),
        upstream: text("https://a.example|direct"),
        storage: text("s3://bucket/x"),
        spool: text("/var/spool"),
        verify: text("off"),
        offline: true,
        ..Flags::default()
    };
    let by_variable = [
        ("CORRAL_LISTEN", "127.0.0.1:0"),
        ("CORRAL_ADMIN_LISTEN", "localhost:0"),
        ("CORRAL_UPSTREAM", "https://a.example|direct"),
        ("CORRAL_STORAGE", "s3://bucket/x"),
        ("CORRAL_SPOOL", "/var/spool"),
        ("CORRAL_VERIFY", "off"),
        ("CORRAL_OFFLINE", "1"),
    ];
    let by_flag = Case {
        flags: by_flag,
        ..Case::default()
    }
    .read()
    .unwrap();
    let by_variable = Case {
        variables: &by_variable,
        ..Case::default()
    }
    .read()
    .unwrap();
    assert_eq!(values(&by_flag), values(&by_variable));
    let config = by_flag.config;
    assert_eq!(config.listen.to_string(), "127.0.0.1:0");
    assert_eq!(config.admin_listen.to_string(), "127.0.0.1:0");
    assert_eq!(config.upstream.expose(), "https://a.example|direct");
    assert_eq!(config.storage.expose(), "s3://bucket/x");
    assert_eq!(config.spool.dir, PathBuf::from("/var/spool"));
    assert!(config.offline);
}

#[test]
fn set_takes_toml_values_and_bare_words() {
    let loaded = set(&[
        "fill.retries=0",
        "fill.wait_max = 30s",
        "fill.first_byte_max=\"10s\"",
        "fill={stream = false, concurrency_max = 7}",
        "l1.bytes_max=1048576",
        "spool.bytes_max=20GiB",
        "fleet.id=42",
        "storage=s3://bucket/a=b",
        "sumdb.proxied=[\"sum.golang.org\", \"sum.example https://s.example\"]",
        "internal.peers=10.1.0.0/16, fd00::/8",
        "offline=true",
        "log.level=info,storage=debug",
    ]);
    let config = loaded.unwrap().config;
    assert_eq!(config.fill.retries, 0);
    assert_eq!(config.fill.wait_max, Duration::from_secs(30));
    assert_eq!(config.fill.first_byte_max, Duration::from_secs(10));
    assert!(!config.fill.stream);
    assert_eq!(config.fill.concurrency_max, 7);
    assert_eq!(config.l1.bytes_max, 1 << 20);
    assert_eq!(config.spool.bytes_max, 20 << 30);
    assert_eq!(config.fleet.id.as_deref(), Some("42"));
    assert_eq!(config.storage.expose(), "s3://bucket/a=b");
    assert_eq!(config.sumdb.proxied.unwrap().len(), 2);
    assert_eq!(config.internal.peers.len(), 2);
    assert!(config.offline);
    assert_eq!(config.log.level, "info,storage=debug");
}

#[test]
fn a_mistake_is_one_line_with_source_key_and_what_is_allowed() {
    let cases = [
        (
            "fill.retries=many",
            "fill.retries = \"many\": must be a whole number from 0 to 20",
        ),
        (
            "fill.retries=21",
            "fill.retries = 21: must be a whole number from 0 to 20",
        ),
        (
            "fill.retries=-1",
            "fill.retries = -1: must be a whole number from 0 to 20",
        ),
        (
            "fill.retires=1",
            "fill.retires: unknown key; did you mean \"fill.retries\"?",
        ),
        (
            "wait_max=1s",
            "wait_max: unknown key; did you mean \"fill.wait_max\"?",
        ),
        ("colour=red", "colour: unknown key"),
        (
            "negative=3",
            "negative: is a table with the keys negative.ttl, negative.gone_ttl",
        ),
        (
            "fill={retires=1}",
            "fill.retires: unknown key; did you mean \"fill.retries\"?",
        ),
        (
            "fill.retries",
            "fill.retries: must be key=value, such as fill.retries=0",
        ),
        (
            "lease.ttl=6",
            "lease.ttl = \"6\": must be a duration from 1s to 5m with its unit, such as \"6s\"",
        ),
        (
            "lease.ttl=10m",
            "lease.ttl = \"10m\": must be a duration from 1s to 5m with its unit, such as \"6s\"",
        ),
        (
            // The queue lets no job live longer.
            "retry.deadline=31d",
            "retry.deadline = \"31d\": must be a duration from 1s to 720h with its unit, such as \
             \"6s\"",
        ),
        (
            "zip_bytes_max=1B",
            "zip_bytes_max = \"1B\": must be a size from 1KiB to 1TiB, such as \"64MiB\" or a \
             number of bytes",
        ),
        (
            "verify.mode=sumbd",
            "verify.mode = \"sumbd\": must be \"sumdb\" or \"off\"; did you mean \"sumdb\"?",
        ),
        (
            "offline=maybe",
            "offline = \"maybe\": must be true or false",
        ),
        (
            "listen=8070",
            "listen = \"8070\": must be an IP address and a port from 0 to 65535, such as \
             \"127.0.0.1:8070\" or \"[::]:8070\"",
        ),
        (
            "upstream=ftp://user:hush@proxy.example",
            "upstream = \"ftp://***@proxy.example\": must be a list such as \
             \"https://proxy.example,direct\": URLs, \"direct\" or \"off\", separated by \",\" or \
             \"|\"",
        ),
        (
            "admin_listen=127.0.0.1:8070",
            "admin_listen: 127.0.0.1:8070 is taken by listen; set another port, or 0 for a free \
             one",
        ),
        (
            "admin.token_file=/no/such/file",
            "admin.token_file = \"/no/such/file\": must be a file that can be read: No such file \
             or directory (os error 2)",
        ),
        ("internal.peers=10.0.0.0/99", {
            "internal.peers = \"10.0.0.0/99\": must be networks such as \"10.0.0.0/8\" or \
             \"fc00::/7\""
        }),
        ("log.level=inof", {
            "log.level = \"inof\": must be one of off, error, warn, info, debug, trace, or \
             directives such as \"info,storage=debug\""
        }),
    ];
    for (assignment, expected) in cases {
        assert_eq!(
            set(&[assignment]).unwrap_err(),
            [format!("--set: {expected}")]
        );
    }
}

#[test]
fn all_mistakes_of_all_sources_are_reported_at_once() {
    let file = "listen = 80\n\n[fill]\nretires = 1\nwait_max = 5\n\n[colour]\nred = 1\n";
    let mistakes = Case {
        file: Some(file),
        variables: &[
            ("CORRAL_LEASE__TTL", "0s"),
            ("CORRAL_LISTN", "x"),
            ("CORRAL_A__B", "1"),
        ],
        set: &["verify.mode=x"],
        flags: Flags {
            listen: Some("no\nsuch".to_owned()),
            ..Flags::default()
        },
    }
    .mistakes();
    let heads: Vec<String> = mistakes
        .iter()
        .map(|line| line.split(": must").next().unwrap().to_owned())
        .collect();
    assert_eq!(
        heads,
        [
            "corral.toml:4: fill.retires: unknown key; did you mean \"fill.retries\"?",
            "corral.toml:8: colour.red: unknown key",
            "CORRAL_A__B: unknown variable",
            "CORRAL_LISTN: unknown variable; did you mean CORRAL_LISTEN?",
            "corral.toml:1: listen = 80",
            "corral.toml:5: fill.wait_max = 5",
            "CORRAL_LEASE__TTL: lease.ttl = \"0s\"",
            "--listen: listen = \"no\\nsuch\"",
            "--set: verify.mode = \"x\"",
        ]
    );
}

#[test]
fn a_file_that_is_not_toml_or_not_there_is_named() {
    let broken = Case {
        file: Some("listen = \"127.0.0.1:1\"\n[fill\n"),
        ..Case::default()
    };
    let mistakes = broken.mistakes();
    assert!(
        mistakes[0].starts_with("corral.toml:2: not TOML: "),
        "{mistakes:?}"
    );
    let flags = Flags {
        config: Some("/no/such.toml".into()),
        ..Flags::default()
    };
    assert_eq!(
        Case {
            flags,
            ..Case::default()
        }
        .mistakes(),
        ["--config: cannot read /no/such.toml: No such file or directory (os error 2)"]
    );
    let variables = [("CORRAL_CONFIG", "/no/such.toml")];
    assert_eq!(
        Case {
            variables: &variables,
            ..Case::default()
        }
        .mistakes(),
        ["CORRAL_CONFIG: cannot read /no/such.toml: No such file or directory (os error 2)"]
    );
}

#[test]
fn the_systems_file_is_read_if_no_other_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (system, named) = (
        dir.path().join("system.toml"),
        dir.path().join("named.toml"),
    );
    let environment = Environment::of(HOME).with_system_file(&system);
    let read = |flags: &Flags| {
        Loaded::read(flags, &environment)
            .unwrap()
            .config
            .fill
            .retries
    };
    assert_eq!(read(&Flags::default()), 3, "it need not exist");
    std::fs::write(&system, "fill.retries = 7").unwrap();
    std::fs::write(&named, "").unwrap();
    assert_eq!(read(&Flags::default()), 7);
    assert_eq!(
        read(&Flags {
            config: Some(named),
            ..Flags::default()
        }),
        3
    );
}

#[test]
fn variables_of_container_platforms_are_passed_over() {
    let noise = [
        ("CORRAL_PORT", "tcp://10.0.0.1:8070"),
        ("CORRAL_PORT_8070_TCP", "tcp://10.0.0.1:8070"),
        ("CORRAL_PORT_8070_TCP_PROTO", "tcp"),
        ("CORRAL_PORT_8070_TCP_PORT", "8070"),
        ("CORRAL_PORT_8070_TCP_ADDR", "10.0.0.1"),
        ("CORRAL_SERVICE_HOST", "10.0.0.1"),
        ("CORRAL_SERVICE_PORT", "8070"),
        ("CORRAL_SERVICE_PORT_HTTP", "8070"),
        ("CORRAL_ADMIN_SERVICE_HOST", "10.0.0.2"),
        ("CORRAL_ADMIN_PORT_8071_TCP", "tcp://10.0.0.2:8071"),
        ("CORRAL_VALKEY_PORT", "tcp://10.0.0.3:6379"),
        ("CORRAL_UPSTREAM", ""),
    ];
    let quiet = Case {
        variables: &noise,
        ..Case::default()
    }
    .read()
    .unwrap();
    assert_eq!(values(&quiet), values(&Case::default().read().unwrap()));
    assert!(warnings(&quiet).is_empty());

    let other = Case {
        variables: &[("CORRAL_BUILD_DATE", "today")],
        ..Case::default()
    };
    assert_eq!(
        warnings(&other.read().unwrap()),
        ["CORRAL_BUILD_DATE: unknown, passed over"]
    );
    let single = Case {
        variables: &[("CORRAL_FILL_RETRIES", "1")],
        ..Case::default()
    };
    assert_eq!(
        single.mistakes(),
        ["CORRAL_FILL_RETRIES: unknown variable; did you mean CORRAL_FILL__RETRIES?"]
    );
}

#[test]
fn upstream_comes_from_goproxy_else_from_the_go_command() {
    fn go_env() -> GoEnv {
        GoEnv {
            goproxy: "https://go.example".to_owned(),
            gosumdb: "sum.example".to_owned(),
        }
    }
    let set = "set --upstream, CORRAL_UPSTREAM or upstream in the file, for example to \
               \"https://proxy.example,direct\"";
    let none = format!("upstream: no upstream: GOPROXY is not set and go env names none; {set}");
    let off = format!("GOPROXY: upstream = \"off\": no usable upstream; {set}");
    let own =
        format!("GOPROXY: upstream = \"http://localhost:8070,off\": no usable upstream; {set}");
    type Go = fn() -> GoEnv;
    type Expected<'a> = Result<(&'a str, &'a str), &'a str>;
    let cases: [(Variables<'_>, Go, Expected<'_>); 6] = [
        (
            &[("GOPROXY", "https://a.example")],
            go_env,
            Ok(("https://a.example", "GOPROXY")),
        ),
        (&[], go_env, Ok(("https://go.example", "go env GOPROXY"))),
        (
            &[("GOPROXY", "http://127.0.0.1:8070,https://a.example")],
            go_env,
            Ok(("https://a.example", "GOPROXY")),
        ),
        (&[], GoEnv::default, Err(&none)),
        (&[("GOPROXY", "off")], go_env, Err(&off)),
        (
            &[("GOPROXY", "http://localhost:8070,off")],
            go_env,
            Err(&own),
        ),
    ];
    for (variables, go_env, expected) in cases {
        let variables = variables.iter().copied().chain([("HOME", "/home/gopher")]);
        let environment = Environment::of(variables).with_go_env(go_env);
        let loaded = Loaded::read(&Flags::default(), &environment);
        match (loaded, expected) {
            (Ok(loaded), Ok((list, origin))) => {
                assert_eq!(loaded.config.upstream.expose(), list);
                assert_eq!(loaded.origin("upstream").to_string(), origin);
                assert_eq!(loaded.config.verify.sumdb.expose(), "sum.example");
            }
            (Err(mistakes), Err(line)) => assert_eq!(mistakes.to_string(), line),
            (loaded, expected) => panic!("{loaded:?} is not {expected:?}"),
        }
    }
    let offline = Flags {
        offline: true,
        ..Flags::default()
    };
    let loaded = Loaded::read(&offline, &Environment::of([("HOME", "/h")])).unwrap();
    assert!(loaded.config.upstream.is_empty());
    assert_eq!(loaded.config.verify.sumdb.expose(), "sum.golang.org");
}

#[test]
fn storage_and_spool_go_to_the_data_directory_or_beside_each_other() {
    let upstream = || Flags {
        upstream: Some("direct".to_owned()),
        ..Flags::default()
    };
    let with = |storage: &str| Flags {
        storage: Some(storage.to_owned()),
        ..upstream()
    };
    let home = [("HOME", "/h")];
    let data = [("HOME", "/h"), ("XDG_DATA_HOME", "/data")];
    let relative = [("HOME", "/h"), ("XDG_DATA_HOME", "data")];
    let share = "/h/.local/share/corral";
    let cases: [(Flags, Variables<'_>, &str, String); 7] = [
        (
            upstream(),
            &home,
            "file:///h/.local/share/corral/store",
            format!("{share}/store.spool"),
        ),
        (
            upstream(),
            &data,
            "file:///data/corral/store",
            "/data/corral/store.spool".to_owned(),
        ),
        (
            upstream(),
            &relative,
            "file:///h/.local/share/corral/store",
            format!("{share}/store.spool"),
        ),
        (
            with("file:///srv/a b"),
            &[],
            "file:///srv/a b",
            "/srv/a b.spool".to_owned(),
        ),
        (
            with("file:///srv/a/"),
            &[],
            "file:///srv/a/",
            "/srv/a.spool".to_owned(),
        ),
        (
            with("/srv/a b"),
            &[],
            "file:///srv/a%20b",
            "/srv/a b.spool".to_owned(),
        ),
        (
            with("s3://bucket"),
            &home,
            "s3://bucket",
            format!("{share}/store.spool"),
        ),
    ];
    for (flags, variables, storage, spool) in cases {
        let config = Loaded::read(&flags, &Environment::of(variables.iter().copied()));
        let config = config.unwrap().config;
        assert_eq!(config.storage.expose(), storage);
        assert_eq!(config.spool.dir, PathBuf::from(spool));
    }
    let nowhere = Environment::of([]);
    assert_eq!(
        Loaded::read(&upstream(), &nowhere).unwrap_err().to_string(),
        "storage: no data directory, because HOME is not set; set --storage, CORRAL_STORAGE or \
         storage in the file, for example to \"file:///var/lib/corral/store\""
    );
    assert_eq!(
        Loaded::read(&with("s3://bucket"), &nowhere)
            .unwrap_err()
            .to_string(),
        "spool.dir: no data directory, because HOME is not set; set --spool, CORRAL_SPOOL or \
         spool.dir in the file, for example to \"/var/lib/corral/spool\""
    );
}

#[test]
fn a_store_gets_the_variables_of_its_own_kind_and_nobody_prints_them() {
    let variables = [
        ("AWS_ENDPOINT", "http://127.0.0.1:9"),
        ("AWS_SECRET_ACCESS_KEY", "hush"),
        ("AZURE_X", "y"),
    ];
    let s3 = Case {
        variables: &variables,
        set: &["storage=s3://b"],
        ..Case::default()
    };
    let config = s3.read().unwrap().config;
    let names: Vec<&str> = config
        .storage_options
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["aws_endpoint", "aws_secret_access_key"]);
    assert!(!format!("{config:?}").contains("hush"));
    let folder = Case {
        variables: &variables,
        ..Case::default()
    }
    .read()
    .unwrap();
    assert!(folder.config.storage_options.is_empty());
}

#[test]
fn a_fleets_secret_is_read_hidden_and_long_enough() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fleet");
    let assignment = format!("fleet.secret_file={}", file.display());
    let with_valkey = ["valkey.url=redis://h", &assignment];
    std::fs::write(&file, "hush-hush-hush-hush\n").unwrap();
    let loaded = set(&with_valkey).unwrap();
    assert_eq!(
        loaded.config.fleet.secret,
        Some(Secret::new("hush-hush-hush-hush"))
    );
    assert!(!format!("{loaded:?}").contains("hush"));
    std::fs::write(&file, "hush\n").unwrap();
    let line = set(&with_valkey).map(|loaded| loaded.config).unwrap_err();
    assert!(
        line[0].contains("at least 16 bytes") && !line[0].contains("hush"),
        "{line:?}"
    );
}

#[test]
fn the_admin_token_is_read_and_hidden() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let assignment = format!("admin.token_file={}", file.display());
    std::fs::write(&file, " \n").unwrap();
    let empty = set(&[&assignment]).map(|loaded| loaded.config).unwrap_err();
    assert!(empty[0].ends_with("must be a file that holds the secret, but it is empty"));

    std::fs::write(&file, "hush-hush\n").unwrap();
    let loaded = set(&[&assignment, "admin_listen=:8071"]).unwrap();
    assert_eq!(loaded.config.admin.token, Some(Secret::new("hush-hush")));
    assert!(warnings(&loaded).is_empty());
    assert!(!format!("{loaded:?}").contains("hush"));

    let open = warnings(&set(&["admin_listen=:8071"]).unwrap());
    assert!(
        open[0].contains("set admin.token_file or listen on 127.0.0.1"),
        "{open:?}"
    );
}

// acceptance: A30
#[test]
fn a_copy_in_l1_should_not_outlive_half_of_what_it_copies() {
    let line = "l1.ttl = 1m: more than half of documents.ttl = 1m, so a list may be served long \
                after it changed; set l1.ttl to at most 30s";
    let cases: [(&[&str], &[&str]); 4] = [
        (&[], &[]),
        (&["l1.ttl=1m"], &[line]),
        (&["l1.ttl=30s"], &[]),
        (&["documents.ttl=2m"], &[]),
    ];
    for (assignments, expected) in cases {
        assert_eq!(
            warnings(&set(assignments).unwrap()),
            expected,
            "{assignments:?}"
        );
    }
    assert_eq!(warnings(&set(&["documents.ttl=10s"]).unwrap()).len(), 1);
}

#[test]
fn what_contradicts_itself_is_a_mistake_only_if_both_are_set() {
    let cases = [
        ("upstreams.stall_timeout=2m", "fill.max_duration=1m"),
        ("fill.wait_max=2m", "fill.max_duration=1m"),
        (
            "upstreams.first_byte_timeout=30s",
            "fill.first_byte_max=25s",
        ),
        ("documents.swr=25h", "documents.sie=24h"),
        ("l1.entry_bytes_max=2MiB", "l1.bytes_max=1MiB"),
        ("zip_bytes_max=2GiB", "spool.bytes_max=1GiB"),
    ];
    for (low, high) in cases {
        let (key, value) = high.split_once('=').unwrap();
        let (low_key, low_value) = low.split_once('=').unwrap();
        assert_eq!(
            set(&[low, high]).unwrap_err(),
            [format!(
                "--set: {low_key} = {low_value}: must not exceed {key} = {value}"
            )]
        );
    }
    let short = set(&["fill.max_duration=10s"]).unwrap();
    assert!(warnings(&short)[0].contains("must not exceed fill.max_duration = 10s"));
    for off in ["documents.sie=0s", "l1.bytes_max=0"] {
        assert!(warnings(&set(&[off]).unwrap()).is_empty(), "{off}");
    }
}

#[test]
fn jobs_get_a_quarter_of_the_fills_and_who_asks_for_more_is_told() {
    let said = |pairs: &[&str]| {
        let loaded = set(pairs).unwrap();
        let warnings = warnings(&loaded);
        warnings.iter().any(|text| text.contains("at most 8 jobs"))
    };
    assert!(said(&[
        "fill.concurrency_max=32",
        "retry.concurrency_max=9"
    ]));
    for fine in [
        ["fill.concurrency_max=32", "retry.concurrency_max=8"].as_slice(),
        // The default is cut without a word.
        &["fill.concurrency_max=32"],
        // Switched off altogether, its keys are idle and no mistake.
        &["fill.on_failure=drop", "retry.attempts_max=3"],
    ] {
        assert!(!said(fine), "{fine:?}");
    }
}

#[test]
fn what_is_not_built_yet_is_said() {
    let notes = |mode: &str| set(&[mode]).unwrap().notices.len();
    assert_eq!(notes("verify.mode=sumdb"), 1);
    assert_eq!(notes("verify.mode=off"), 0);
}

#[test]
fn the_sample_file_shows_every_key_with_its_default() {
    // The machine's own number stands in the default of this one.
    let fixed = |settings: Vec<(&'static str, Option<String>)>| -> Vec<_> {
        settings
            .into_iter()
            .filter(|(key, _)| *key != "workers")
            .collect()
    };
    let defaults = Case::default().read().unwrap();
    let as_shipped = Case {
        file: Some(SAMPLE),
        ..Case::default()
    }
    .read()
    .unwrap();
    assert_eq!(values(&as_shipped), values(&defaults));
    let set: Vec<_> = KEYS
        .iter()
        .filter(|key| as_shipped.is_explicit(key.name))
        .collect();
    assert!(
        set.is_empty(),
        "{:?}",
        set.iter().map(|key| key.name).collect::<Vec<_>>()
    );

    // Examples stand for what has no fixed default; everything else must be the default.
    let mut is_example = false;
    let mut keys_shown = Vec::new();
    let mut table = String::new();
    let mut text = String::new();
    for line in SAMPLE.lines() {
        is_example = match line.strip_prefix('#') {
            Some(prose) if prose.starts_with(' ') => is_example || prose.starts_with(" Example."),
            Some(setting) if !setting.is_empty() => {
                let key = format!("{table}{}", setting.split(" = ").next().unwrap());
                if !is_example {
                    text += &format!("{setting}\n");
                }
                let variables = [
                    ("CORRAL_STORAGE", "memory://"),
                    ("CORRAL_SPOOL", "/x"),
                    ("CORRAL_OFFLINE", "1"),
                ];
                let alone = format!("{key} = {}", setting.split_once(" = ").unwrap().1);
                let alone = Case {
                    file: Some(&alone),
                    variables: &variables,
                    ..Case::default()
                };
                match alone.read() {
                    Ok(_) => {}
                    // Examples of files are of files that are not there.
                    Err(lines) => assert!(lines[0].contains("No such file"), "{lines:?}"),
                }
                keys_shown.push(key);
                false
            }
            _ => is_example,
        };
        if let Some(name) = line.strip_prefix('[') {
            table = format!("{}.", name.trim_end_matches(']'));
            text += &format!("{line}\n");
        }
    }
    let mut keys: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    keys.sort_unstable();
    keys_shown.sort_unstable();
    assert_eq!(keys_shown, keys);
    let uncommented = Case {
        file: Some(&text),
        ..Case::default()
    }
    .read()
    .unwrap();
    assert_eq!(fixed(values(&uncommented)), fixed(values(&defaults)));
}

#[test]
fn the_document_lists_every_key_with_its_default() {
    let defaults = Config::default();
    let mut rows = 0;
    for key in KEYS {
        let start = format!("| `{}` |", key.name);
        let row = DOCUMENT.lines().find(|line| line.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("{} is not documented", key.name));
        let default = row.split(" | ").nth(1).unwrap();
        rows += 1;
        match key.show(&defaults) {
            Some(value) if key.name != "workers" => {
                assert_eq!(default, format!("`{value}`"), "{}", key.name);
            }
            _ => assert_eq!(default, "see meaning", "{}", key.name),
        }
    }
    let keys = DOCUMENT
        .split("## Keys")
        .nth(1)
        .unwrap()
        .split("## Exit codes")
        .next()
        .unwrap();
    assert_eq!(
        keys.lines().filter(|line| line.starts_with("| `")).count(),
        rows
    );
}
