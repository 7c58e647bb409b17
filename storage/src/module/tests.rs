//! Tests of names against the rules and examples of the reference implementation.

#![allow(clippy::unwrap_used)]

use std::cmp::Ordering;

use proptest::prelude::*;

use super::*;

fn module(path: &str) -> ModulePath {
    ModulePath::parse(path).unwrap_or_else(|error| panic!("{error}"))
}

fn version(text: &str) -> Version {
    Version::parse(text).unwrap_or_else(|error| panic!("{error}"))
}

// protocol: P05
// protocol: P06
// protocol: P07
// protocol: P15
// protocol: P16
#[test]
fn legal_module_paths_are_taken() {
    for path in [
        "x.y/z",
        "x.y",
        "example.com/m",
        "example.com/m/v2",
        "example.com/m/v10",
        "example.com/m/v20.x",
        "example.com/v2x",
        "example.com/mv1",
        "example.com/m.v1",
        "example.com/a_b/c~d/e-f",
        "example.com/a~/b",
        "example.com/a~1b",
        "example.com/a.~1",
        "example.com/com",
        "example.com/com0",
        "example.com/com10",
        "example.com/console",
        "example.com/x..y",
        "example.com/-x",
        "0.example-x.com/m",
        ".x.y/z",
        "gopkg.in",
        "gopkg.in/yaml.v2",
        "gopkg.in/yaml.v0",
        "gopkg.in/user/pkg.v12",
        "gopkg.in/yaml.v2-unstable",
        "golang.org/toolchain",
        "github.com/Azure/azure-sdk-for-go",
        "example.com/m/latest",
        "example.com/lookup/tile",
    ] {
        let legal = ModulePath::parse(path).is_ok();
        assert_eq!(legal, path != ".x.y/z", "{path}");
    }
}

// protocol: P05
// protocol: P06
// protocol: P07
#[test]
fn illegal_module_paths_are_refused() {
    for path in [
        "",
        "/",
        "m",
        "example/m",
        "-example.com/m",
        "Example.com/m",
        "example_x.com/m",
        "example.com:80/m",
        "example.com//m",
        "example.com/m/",
        "/example.com/m",
        "example.com/.m",
        "example.com/m.",
        "example.com/.",
        "example.com/..",
        "example.com/...",
        "example.com/m n",
        "example.com/m+n",
        "example.com/m!n",
        "example.com/m@v1.0.0",
        "example.com/m\\n",
        "example.com/m\n",
        "example.com/m\0",
        "example.com/m%20",
        "example.com/\u{e9}",
        "example.com/con",
        "example.com/CON.x",
        "example.com/aux.c/m",
        "example.com/nul",
        "example.com/PrN",
        "example.com/com1",
        "example.com/LPT9.txt",
        "con.example/m",
        "example.com/m~1",
        "example.com/progra~12",
        "example.com/m~1.x",
        "example.com/m/v0",
        "example.com/m/v1",
        "example.com/m/v01",
        "example.com/m/v2.0",
        "example.com/m/v1.2.3",
        "example.com/m/v02",
        "gopkg.in/yaml",
        "gopkg.in/yaml.v",
        "gopkg.in/yaml.v01",
        "gopkg.in/yaml.v00",
        "gopkg.in/yaml.v0-unstable",
        "gopkg.in/yaml.v2.0",
        "gopkg.in/yaml/v2",
        "gopkg.in/yaml-unstable",
    ] {
        let refused = ModulePath::parse(path);
        assert!(
            matches!(refused, Err(Error::InvalidName { .. })),
            "{path:?}"
        );
    }
}

// protocol: P10
#[test]
fn lengths_are_counted_escaped() {
    let legal = format!("example.com/{}/{}", "a".repeat(255), "B".repeat(127));
    assert!(ModulePath::parse(&legal).is_ok());
    assert!(ModulePath::parse(&format!("example.com/{}", "a".repeat(256))).is_err());
    assert!(ModulePath::parse(&format!("example.com/{}", "B".repeat(128))).is_err());
    assert!(ModulePath::parse(&format!("example.com/{}x", "a/".repeat(344))).is_err());
    let pre = "a".repeat(VERSION_BYTES_MAX - "v1.0.0-".len());
    assert!(Version::parse(&format!("v1.0.0-{pre}")).is_ok());
    assert!(Version::parse(&format!("v1.0.0-{pre}a")).is_err());
}

// protocol: P01
// protocol: P03
// protocol: P04
#[test]
fn the_case_escape_goes_both_ways() {
    for (plain, escaped) in [
        (
            "github.com/Azure/go-AUTOREST",
            "github.com/!azure/go-!a!u!t!o!r!e!s!t",
        ),
        ("example.com/m", "example.com/m"),
    ] {
        assert_eq!(module(plain).escaped(), escaped);
        assert_eq!(ModulePath::unescape(escaped).unwrap(), module(plain));
    }
    for escaped in [
        "example.com/M",
        "example.com/!!m",
        "example.com/!1",
        "example.com/!M",
    ] {
        assert!(ModulePath::unescape(escaped).is_err(), "{escaped}");
    }
    for escaped in [
        "example.com/m!",
        "example.com/!",
        "example.com/!/m",
        "example.com/\u{e9}",
    ] {
        assert!(ModulePath::unescape(escaped).is_err(), "{escaped}");
    }
    assert_eq!(
        Version::unescape("v1.0.0-!r!c1").unwrap(),
        version("v1.0.0-RC1")
    );
    assert!(Version::unescape("v1.0.0-RC1").is_err());
    assert_eq!(
        VersionQuery::unescape("!feature").unwrap().as_str(),
        "Feature"
    );
}

// protocol: V01
// protocol: V04
#[test]
fn only_canonical_versions_are_versions() {
    for text in [
        "v0.0.0",
        "v1.2.3",
        "v10.20.30",
        "v1.0.0-alpha",
        "v1.0.0-0",
        "v1.0.0-0.3.7",
        "v1.0.0-x-y-z.-",
        "v1.0.0-01a",
        "v1.0.0--",
        "v2.0.0+incompatible",
        "v2.0.0-rc.1+incompatible",
        "v1.0.0+incompatible",
        "v0.0.1-go1.21.0.linux-amd64",
        "v0.0.1-go1.21rc2.windows-arm64",
        "v99999999999999999999.0.0",
    ] {
        assert_eq!(version(text).as_str(), text);
    }
    for text in [
        "",
        "v",
        "v1",
        "v1.2",
        "1.2.3",
        "V1.2.3",
        "v01.2.3",
        "v1.02.3",
        "v1.2.03",
        "v1.2.3.4",
        "v1.2.3-",
        "v1.2.3-01",
        "v1.2.3-a..b",
        "v1.2.3-a.",
        "v1.2.3-.a",
        "v1.2.3+",
        "v1.2.3+meta",
        "v1.2.3+incompatible.x",
        "v1.2.3+Incompatible",
        "v1.2.3-a_b",
        "v1.2.3 ",
        "v1.2.3-\u{e9}",
        "v-1.2.3",
        "v1..3",
        "v1.2.3/go.mod",
        "vx.y.z",
        "v+1.2.3",
        "v1.2.3-a+incompatible+x",
        "v1.2.3-+incompatible",
        "master",
    ] {
        assert!(Version::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn versions_are_ordered_by_precedence() {
    let ascending = [
        "v0.0.0-20191109021931-daa7c04131f5",
        "v0.0.0",
        "v0.0.1",
        "v1.0.0-1",
        "v1.0.0-2",
        "v1.0.0-10",
        "v1.0.0--",
        "v1.0.0-alpha",
        "v1.0.0-alpha.1",
        "v1.0.0-alpha.beta",
        "v1.0.0-beta",
        "v1.0.0-beta.2",
        "v1.0.0-beta.11",
        "v1.0.0-rc.1",
        "v1.0.0",
        "v1.2.0",
        "v1.10.0",
        "v2.0.0",
        "v2.0.0+incompatible",
        "v10.0.0",
        "v99999999999999999999.0.0",
        "v100000000000000000000.0.0",
    ];
    for (i, a) in ascending.iter().enumerate() {
        for (j, b) in ascending.iter().enumerate() {
            assert_eq!(version(a).cmp(&version(b)), i.cmp(&j), "{a} {b}");
        }
    }
}

// protocol: V04
#[test]
fn pseudo_versions_are_recognized() {
    for text in [
        "v0.0.0-20191109021931-daa7c04131f5",
        "v2.0.0-20191109021931-daa7c04131f5",
        "v1.2.4-0.20191109021931-daa7c04131f5",
        "v1.2.3-pre.0.20191109021931-daa7c04131f5",
        "v2.2.4-0.20191109021931-daa7c04131f5+incompatible",
        "v1.2.3-a-b.c.0.20191109021931-X",
    ] {
        assert!(version(text).is_pseudo(), "{text}");
        assert!(version(text).is_prerelease(), "{text}");
    }
    for text in [
        "v1.2.3",
        "v1.2.3-pre",
        "v1.2.3-20191109021931-daa7c04131f5",
        "v1.2.3-pre.20191109021931-daa7c04131f5",
        "v1.2.4-1.20191109021931-daa7c04131f5",
        "v0.0.0-2019110902193-daa7c04131f5",
        "v0.0.0-201911090219311-daa7c04131f5",
        "v0.0.0-20191109021931-daa7.c04131f5",
        "v0.0.0-20191109021931-",
        "v0.0.0-20191109021931",
        "v0.0.1-go1.21.0.linux-amd64",
    ] {
        assert!(!version(text).is_pseudo(), "{text}");
    }
    assert!(!version("v1.2.3").is_prerelease());
    assert!(version("v2.0.0+incompatible").is_incompatible());
}

// protocol: V02
// protocol: P15
// protocol: P16
#[test]
fn a_version_fits_by_its_major_number() {
    for (path, text, fits) in [
        ("example.com/m", "v0.1.0", true),
        ("example.com/m", "v1.1.0", true),
        ("example.com/m", "v2.0.0", false),
        ("example.com/m", "v2.0.0+incompatible", true),
        ("example.com/m", "v0.0.0-20191109021931-daa7c04131f5", true),
        ("example.com/m/v2", "v2.0.0", true),
        (
            "example.com/m/v2",
            "v2.0.0-20191109021931-daa7c04131f5",
            true,
        ),
        (
            "example.com/m/v2",
            "v0.0.0-20191109021931-daa7c04131f5",
            false,
        ),
        ("example.com/m/v2", "v1.0.0", false),
        ("example.com/m/v2", "v3.0.0+incompatible", false),
        ("example.com/m/v20", "v2.0.0", false),
        ("gopkg.in/yaml.v2", "v2.2.1", true),
        ("gopkg.in/yaml.v2", "v1.0.0", false),
        (
            "gopkg.in/yaml.v2",
            "v0.0.0-20161208181325-20d25e280405",
            false,
        ),
        (
            "gopkg.in/check.v1",
            "v0.0.0-20161208181325-20d25e280405",
            true,
        ),
        (
            "gopkg.in/check.v1",
            "v1.0.0-20161208181325-20d25e280405",
            true,
        ),
        ("gopkg.in/check.v1", "v0.0.0", false),
        ("gopkg.in/check.v0", "v0.1.0", true),
        ("gopkg.in/check.v0", "v1.0.0", false),
        ("gopkg.in/yaml.v2-unstable", "v2.0.0", true),
        ("gopkg.in/yaml.v2-unstable", "v3.0.0", false),
        ("golang.org/toolchain", "v0.0.1-go1.21.0.linux-amd64", true),
    ] {
        assert_eq!(version(text).fits(&module(path)), fits, "{path}@{text}");
    }
}

// protocol: V05
// protocol: V06
// protocol: V07
// protocol: V08
#[test]
fn queries_are_what_the_go_command_would_send() {
    for text in [
        "master",
        "main",
        "v1",
        "v1.2",
        "v1.2.3+meta",
        "daa7c04",
        "HEAD",
        "list",
        "release-1.x",
        "v1.0.0.zip",
        "feature#1",
        "a b",
        "50%",
        ".hidden",
        "x@y",
        "none",
        "refs",
        "v01.2.3",
    ] {
        assert_eq!(VersionQuery::parse(text).unwrap().as_str(), text);
    }
    for text in [
        "",
        ".",
        "..",
        "x.",
        "-x",
        "--upload-pack=x",
        "a/b",
        "a!b",
        "a:b",
        "a*",
        "<v1.2",
        ">=v1",
        "a\\b",
        "a\nb",
        "a\0",
        "con",
        "nul.x",
        "COM1",
        "latest",
        "upgrade",
        "patch",
        "v1.0.0",
        "v2.0.0+incompatible",
        "br\u{e4}nch",
        "a%20b",
        "a|b",
        "a?b",
        "a\"b",
        "a'b",
        "a`b",
    ] {
        assert!(VersionQuery::parse(text).is_err(), "{text:?}");
    }
    let long = "a".repeat(VERSION_BYTES_MAX);
    assert!(VersionQuery::parse(&long).is_ok());
    assert!(VersionQuery::parse(&(long + "a")).is_err());
}

// protocol: V02
// protocol: V05
#[test]
fn a_version_that_does_not_fit_is_a_query() {
    let module = module("example.com/m");
    assert!(VersionQuery::parse_for(&module, "v2.0.0").is_ok());
    assert!(VersionQuery::parse_for(&module, "v1.0.0").is_err());
    assert!(VersionQuery::parse_for(&module, "v2.0.0+incompatible").is_err());
    assert!(VersionQuery::parse_for(&module, "master").is_ok());
}

proptest! {
    #[test]
    fn unescaping_undoes_escaping(path in "[a-z]{1,8}\\.[a-z]{2}(/[A-Za-z0-9._~-]{1,12}){0,4}") {
        if let Ok(module) = ModulePath::parse(&path) {
            let escaped = module.escaped().into_owned();
            prop_assert!(!escaped.bytes().any(|byte| byte.is_ascii_uppercase()));
            prop_assert_eq!(ModulePath::unescape(&escaped).unwrap(), module);
        }
    }

    #[test]
    fn what_unescapes_escapes_to_itself(escaped in "[a-z]{1,5}\\.[a-z]{2}(/[A-Za-z!]{1,6}){0,2}") {
        if let Ok(module) = ModulePath::unescape(&escaped) {
            prop_assert_eq!(module.escaped(), escaped);
        }
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in any::<String>()) {
        let _ = ModulePath::parse(&text);
        let _ = ModulePath::unescape(&text);
        let _ = VersionQuery::unescape(&text);
        if let Ok(version) = Version::unescape(&text) {
            let _ = version.is_pseudo();
        }
    }

    #[test]
    fn the_order_of_versions_is_total(
        texts in prop::array::uniform3(
            "v[0-2]\\.[0-2]\\.[0-2](-[a-c0-2]{1,2}(\\.[a-c0-2]{1,2}){0,2})?(\\+incompatible)?"
        ),
    ) {
        let [Ok(a), Ok(b), Ok(c)] = texts.map(|text| Version::parse(&text)) else {
            return Ok(());
        };
        prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
        prop_assert_eq!(a.cmp(&b) == Ordering::Equal, a == b);
        if a <= b && b <= c {
            prop_assert!(a <= c);
        }
    }
}
