//! Tests of request targets as they come on the wire, from clients and from enemies.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn artifact(raw: &str) -> ArtifactKey {
    match parse(raw) {
        Ok(Target::Artifact(key)) => key,
        other => panic!("{raw}: {other:?}"),
    }
}

/// Why a path is refused, without the path itself.
fn fault(raw: &str) -> String {
    let error = parse(raw).expect_err(raw);
    let text = error.to_string();
    assert!(matches!(error, Error::InvalidName { .. }), "{raw}");
    assert!(!text.contains('\n') && !text.contains('\0'), "{raw}");
    text.rsplit_once("is malformed: ").unwrap().1.to_owned()
}

// protocol: P01
// protocol: P02
// protocol: V03
// protocol: V05
#[test]
fn the_paths_of_clients_are_read() {
    for (raw, unit) in [
        ("/example.com/m/@v/list", "example.com/m@list"),
        ("/example.com/m/@latest", "example.com/m@latest"),
        (
            "/example.com/m/v2/@v/v2.0.0.info",
            "example.com/m/v2@v2.0.0.info",
        ),
        (
            "/github.com/%21azure/a/@v/v1.0.0-%21r%21c1.mod",
            "github.com/Azure/a@v1.0.0-RC1.mod",
        ),
        (
            "/github.com/!azure/a/@v/v1.0.0.mod",
            "github.com/Azure/a@v1.0.0.mod",
        ),
        (
            "/a.b/m/@v/v2.0.0+incompatible.zip",
            "a.b/m@v2.0.0+incompatible.zip",
        ),
        (
            "/a.b/m/@v/v2.0.0%2Bincompatible.zip",
            "a.b/m@v2.0.0+incompatible.zip",
        ),
        (
            "/a.b/m/%40v/v1.0.0%2bincompatible.zip",
            "a.b/m@v1.0.0+incompatible.zip",
        ),
        (
            "/gopkg.in/yaml.v2/@v/v2.2.1.zip",
            "gopkg.in/yaml.v2@v2.2.1.zip",
        ),
        (
            "/golang.org/toolchain/@v/v0.0.1-go1.21.0.linux-amd64.zip",
            "golang.org/toolchain@v0.0.1-go1.21.0.linux-amd64.zip",
        ),
        ("/a.b/m/@v/master.info", "a.b/m@query:master"),
        ("/a.b/m/@v/!main.info", "a.b/m@query:Main"),
        ("/a.b/m/@v/daa7c04131f5.info", "a.b/m@query:daa7c04131f5"),
        ("/a.b/m/@v/v1.info", "a.b/m@query:v1"),
        ("/a.b/m/@v/v2.0.0.info", "a.b/m@query:v2.0.0"),
        ("/a.b/m/@v/v1.0.0+meta.info", "a.b/m@query:v1.0.0+meta"),
        ("/a.b/m/@v/50%25%20x.info", "a.b/m@query:50%25%20x"),
        (
            "/sumdb/sum.golang.org/latest",
            "sumdb/sum.golang.org/latest",
        ),
        (
            "/sumdb/h.d/db/lookup/github.com/%21azure/a@v1.0.0",
            "sumdb/h.d/db/lookup/github.com/!azure/a@v1.0.0",
        ),
        (
            "/sumdb/h/tile/8/0/x001/234.p/5",
            "sumdb/h/tile/8/0/x001/234.p/5",
        ),
        ("/a.b/sumdb/@v/list", "a.b/sumdb@list"),
        ("/a.b/supported/@latest", "a.b/supported@latest"),
    ] {
        assert_eq!(artifact(raw).unit(), unit, "{raw}");
    }
    assert_eq!(parse("/").unwrap(), Target::Landing);
}

// protocol: S01
#[test]
fn supported_is_a_document_of_the_relay() {
    for name in [
        "sum.golang.org",
        "localhost.localdev/sumdb",
        "localhost:8080",
    ] {
        let key = artifact(&format!("/sumdb/{name}/supported"));
        assert_eq!(key.unit(), format!("sumdb/{name}/supported"));
        assert!(key.is_mutable());
    }
    for raw in [
        "/sumdb/supported",
        "/sumdb/h/supported/x",
        "/sumdb/h/latest/supported",
        "/sumdb/h",
    ] {
        parse(raw).expect_err(raw);
    }
}

// protocol: P08
// protocol: P09
// protocol: P10
// protocol: P12
// protocol: P17
#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    for (raw, reason) in [
        ("", "it does not begin with a slash"),
        ("*", "it does not begin with a slash"),
        ("a.b/m/@v/list", "it does not begin with a slash"),
        ("//a.b/m/@v/list", "it holds two slashes in a row"),
        ("/a.b//m/@v/list", "it holds two slashes in a row"),
        ("/a.b/m/@v//list", "it holds two slashes in a row"),
        (
            "/a.b/m/@v/",
            "it ends with a slash, and there are no listings",
        ),
        ("/a.b/m/", "it ends with a slash, and there are no listings"),
        ("/a.b/../m/@v/list", "it holds a dot segment"),
        ("/./a.b/m/@v/list", "it holds a dot segment"),
        ("/a.b/m/@v/..", "it holds a dot segment"),
        ("/a.b/%2e%2e/m/@v/list", "it holds an encoded dot"),
        ("/a%2Eb/m/@v/list", "it holds an encoded dot"),
        ("/a.b%2fm/@v/list", "it holds an encoded slash"),
        ("/a.b%2Fm/@v/list", "it holds an encoded slash"),
        ("/a.b%5cm/@v/list", "it holds an encoded backslash"),
        ("/a.b\\m/@v/list", "it holds a backslash"),
        ("/a.b/m%00/@v/list", "it holds an encoded NUL"),
        ("/a.b/m%0a/@v/list", "it holds an encoded control character"),
        ("/a.b/m%7f/@v/list", "it holds an encoded control character"),
        (
            "/a.b/m\n/@v/list",
            "it holds a space or a control character",
        ),
        ("/a.b/m /@v/list", "it holds a space or a control character"),
        (
            "/a.b/m%ff/@v/list",
            "it holds an encoded byte outside ASCII",
        ),
        (
            "/a.b/m%c3%a9/@v/list",
            "it holds an encoded byte outside ASCII",
        ),
        ("/a.b/m\u{e9}/@v/list", "it holds a byte outside ASCII"),
        ("/a.b/%2521m/@v/list", "it is percent-encoded twice"),
        ("/a.b/m/@v/x%252fy.info", "it is percent-encoded twice"),
        ("/a.b/m/@v/x%25%32%66y.info", "it is percent-encoded twice"),
        (
            "/a.b/m%/@v/list",
            "a '%' is not followed by two hexadecimal digits",
        ),
        (
            "/a.b/m%2",
            "a '%' is not followed by two hexadecimal digits",
        ),
        (
            "/a.b/m%zz/@v/list",
            "a '%' is not followed by two hexadecimal digits",
        ),
        (
            "/a.b/m%+1/@v/list",
            "a '%' is not followed by two hexadecimal digits",
        ),
        ("/a.b/m%1\u{e9}/@v/list", "it holds a byte outside ASCII"),
    ] {
        assert_eq!(fault(raw), reason, "{raw:?}");
    }
    let long = format!("/a.b/{}/@v/list", "m/".repeat(4_000));
    assert_eq!(fault(&long), "it is longer than 4096 bytes");
}

// protocol: P03
// protocol: P04
// protocol: P05
// protocol: P06
// protocol: P07
// protocol: P11
// protocol: V01
// protocol: V02
// protocol: V07
// protocol: V08
#[test]
fn names_that_cannot_exist_are_refused() {
    for raw in [
        "/github.com/Azure/a/@v/list",
        "/github.com/%41zure/a/@v/list",
        "/github.com/!!azure/a/@v/list",
        "/github.com/!1/a/@v/list",
        "/github.com/!Azure/a/@v/list",
        "/github.com/azure!/@v/list",
        "/nodot/m/@v/list",
        "/-a.b/m/@v/list",
        "/a_b.c/m/@v/list",
        "/a.b/con/@v/list",
        "/a.b/m~1/@v/list",
        "/a.b/.m/@v/list",
        "/a.b/m/v1/@v/list",
        "/a.b/m/v2.0/@v/list",
        "/gopkg.in/yaml/@v/list",
        "/a.b/m/@v/v1.0.0",
        "/a.b/m/@v/v1.0.0.tar",
        "/a.b/m/@v/.info",
        "/a.b/m/@latest/x",
        "/a.b/m/@v/list/x",
        "/a.b/m/@foo",
        "/a.b/m",
        "/favicon.ico",
        "/a.b/m/@v/master.mod",
        "/a.b/m/@v/v1.zip",
        "/a.b/m/@v/v1.0.0+meta.mod",
        "/a.b/m/@v/v01.0.0.zip",
        "/a.b/m/@v/v2.0.0.zip",
        "/a.b/m/v3/@v/v2.0.0.mod",
        "/a.b/m/@v/feature/x.info",
        "/a.b/m/@v/-x.info",
        "/a.b/m/@v/latest.info",
        "/a.b/m/@v/upgrade.info",
        "/a.b/m/@v/patch.info",
    ] {
        assert!(!fault(raw).is_empty(), "{raw}");
    }
}

prop_compose! {
    fn soup()(
        pieces in prop::collection::vec(
            prop_oneof![
                Just("/".to_owned()),
                Just("@v".to_owned()),
                Just("@latest".to_owned()),
                Just("sumdb/".to_owned()),
                Just("tile/8/0/".to_owned()),
                Just("%".to_owned()),
                Just("!".to_owned()),
                Just("v1.0.0".to_owned()),
                Just(".info".to_owned()),
                Just("a.b".to_owned()),
                "%[0-9a-f]{2}",
                any::<char>().prop_map(String::from),
            ],
            0..20,
        ),
    ) -> String {
        format!("/{}", pieces.concat())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn what_is_read_from_a_soup_is_written_and_read_back(raw in soup()) {
        if let Ok(Target::Artifact(key)) = parse(&raw) {
            prop_assert_eq!(artifact(&format!("/{}", layout::upstream_path(&key))), key);
        }
    }

    #[test]
    fn every_artifact_that_is_printed_parses_back(
        module in "[a-z]{1,3}\\.[a-z]{2}(/[A-Za-z0-9_-]{1,4}){0,2}",
        file in prop_oneof![
            "v[01]\\.[0-9]\\.[0-9](-[A-Za-z0-9]{1,4})?(\\+incompatible)?\\.(info|mod|zip)",
            "[#$%&()+,.=@A-Z_a-z{}~ \\[\\]^-]{1,6}\\.info",
        ],
    ) {
        let escape = |text: &str| -> String {
            text.chars()
                .flat_map(|c| {
                    let mark = c.is_ascii_uppercase().then_some('!');
                    mark.into_iter().chain([c.to_ascii_lowercase()])
                })
                .collect()
        };
        let path = format!("{}/@v/{}", escape(&module), escape(&file));
        if let Some(key) = layout::key_of_object_path(&path) {
            prop_assert_eq!(artifact(&format!("/{}", layout::upstream_path(&key))), key);
        }
    }
}
