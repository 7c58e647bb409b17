//! Tests of the checks against what real and hostile upstreams send.

#![allow(clippy::unwrap_used)]

mod archive;
mod zips;

use super::*;
use crate::{Error, ModulePath, layout};

fn module() -> ModulePath {
    ModulePath::parse("example.com/M").unwrap()
}

fn version() -> Version {
    Version::parse("v1.0.0").unwrap()
}

/// The reason why a check failed.
fn reason<T: std::fmt::Debug>(checked: Result<T, Error>) -> String {
    match checked {
        Err(Error::Corrupt { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

// protocol: I01
// protocol: I02
#[test]
fn info_files_are_read_as_the_go_command_reads_them() {
    for (json, time) in [
        (r#"{"Version":"v1.0.0"}"#, None),
        (r#"{"Version":"v1.0.0","Time":null}"#, None),
        (
            r#" {"Version":"v1.0.0","Time":"2019-11-09T02:19:31Z"} "#,
            Some("2019-11-09T02:19:31Z"),
        ),
        (
            r#"{"Time":"2020-02-29T23:59:59.123456789+05:30","Version":"v1.0.0"}"#,
            Some("2020-02-29T23:59:59.123456789+05:30"),
        ),
        (
            r#"{"Version":"v1.0.0","Time":"0001-01-01T00:00:00Z"}"#,
            Some("0001-01-01T00:00:00Z"),
        ),
        (r#"{"version":"v1.0.0","Name":"x","Short":"y"}"#, None),
        (r#"{"Version":"v0.9.0","Version":"v1.0.0"}"#, None),
        (r#"{"Version":"v1.0.0","Version":null}"#, None),
        (
            r#"{"Ver\u0073ion":"v1.0\u002e0","Origin":{"VCS":"git","Hash":null,"x":[1e9]}}"#,
            None,
        ),
    ] {
        let fields = check_info(json.as_bytes(), &version()).unwrap();
        assert_eq!(
            (fields.version, fields.time.as_deref()),
            (version(), time),
            "{json}"
        );
    }
}

// protocol: I01
// protocol: I03
// protocol: I04
#[test]
fn other_documents_are_no_info_file() {
    for json in [
        "",
        " ",
        "null",
        "[]",
        "\"v1.0.0\"",
        "{}",
        r#"{"Version":null}"#,
        r#"{"Version":1}"#,
        r#"{"Version":""}"#,
        r#"{"Version":"v1.0.1"}"#,
        r#"{"Version":"v1.0.0+incompatible"}"#,
        r#"{"Version":"v1"}"#,
        r#"{"Version":"v1.0.0""#,
        r#"{"Version":"v1.0.0"} x"#,
        r#"{"Version":"v1.0.0","Time":5}"#,
        r#"{"Version":"v1.0.0","Time":""}"#,
        r#"{"Version":"v1.0.0","Time":"2019-11-09"}"#,
        r#"{"Version":"v1.0.0","Time":"2019-02-29T00:00:00Z"}"#,
        r#"{"Version":"v1.0.0","Time":"2019-11-09t02:19:31z"}"#,
        r#"{"Version":"v1.0.0","Time":"2019-11-09T24:00:00Z"}"#,
        r#"{"Version":"v1.0.0","Time":"2019-11-09T02:19:31"}"#,
        r#"{"Version":"v1.0.0","Time":"2019-11-09T02:19:31.Z"}"#,
        r#"{"Version":"v1.0.0","Time":"2019-11-09T02:19:31+24:00"}"#,
        r#"{"Version":"v1.0.0","Time":"2019-11-09T02:19:31+0100"}"#,
        "<!DOCTYPE html><html>",
        "\n\t <html>",
        "\u{feff}<html>",
    ] {
        assert!(check_info(json.as_bytes(), &version()).is_err(), "{json}");
    }
    let other = check_info(br#"{"Version":"v1.0.1"}"#, &version());
    assert_eq!(reason(other), "it names v1.0.1 instead of v1.0.0");
    let deep = format!(
        r#"{{"Version":"v1.0.0","Origin":{}1{}}}"#,
        "[".repeat(9e4 as usize),
        "]"
    );
    assert!(check_info(deep.as_bytes(), &version()).is_err());
    let large = format!(
        r#"{{"Version":"v1.0.0"}}{}"#,
        " ".repeat(INFO_BYTES_MAX as usize)
    );
    assert!(check_info(large.as_bytes(), &version()).is_err());
}

// protocol: V05
// protocol: A01
#[test]
fn a_query_is_answered_with_a_version_that_fits() {
    for text in [
        "v1.2.3",
        "v2.0.0+incompatible",
        "v0.0.0-20191109021931-daa7c04131f5",
    ] {
        let json = format!(r#"{{"Version":"{text}","Time":"2019-11-09T02:19:31Z"}}"#);
        assert_eq!(
            check_query_info(json.as_bytes(), &module())
                .unwrap()
                .as_str(),
            text
        );
    }
    for text in ["v2.0.0", "master", "v1.2", "v1.2.3+meta", ""] {
        let json = format!(r#"{{"Version":"{text}"}}"#);
        assert!(
            check_query_info(json.as_bytes(), &module()).is_err(),
            "{text}"
        );
    }
}

// protocol: M01
// protocol: L01
// protocol: L02
#[test]
fn texts_are_passed_as_they_are() {
    for text in [
        "module example.com/M\n",
        "go 1.21\n",
        "",
        "\r\n\r\n// \u{e9}\r\nmodule \"x\"",
        "v1.0.0\nv1.1.0 2019-11-09T02:19:31Z\nnot a version\n",
        "\u{feff}module x\n",
    ] {
        check_mod(text.as_bytes()).unwrap();
        check_list(text.as_bytes()).unwrap();
    }
    check_list(b"v1.0.0\n\xff\n").unwrap();
    for text in [
        "<html>",
        " \r\n<!doctype html>",
        "\u{feff}<p>",
        "module x\0\n",
    ] {
        assert!(check_mod(text.as_bytes()).is_err(), "{text:?}");
        assert!(check_list(text.as_bytes()).is_err(), "{text:?}");
    }
    let large = vec![b' '; MOD_BYTES_MAX as usize + 1];
    assert!(check_mod(&large).is_err());
    assert!(check_mod(&large[1..]).is_ok());
    assert!(check_list(&large).is_err());
}

#[test]
fn a_failed_check_names_the_unit() {
    for (path, unit) in [
        ("a.b/m/@v/v1.0.0.info", "a.b/m@v1.0.0.info"),
        ("a.b/m/@v/v1.0.0.mod", "a.b/m@v1.0.0.mod"),
        ("a.b/m/@v/v1.0.0.zip", "a.b/m@v1.0.0.zip"),
        ("a.b/m/@v/list", "a.b/m@list"),
        ("a.b/m/@latest", "a.b/m@latest"),
        ("a.b/m/@v/main.info", "a.b/m@query:main"),
        ("sumdb/a.b/latest", "sumdb/a.b/latest"),
        (
            "sumdb/a.b/lookup/a.b/m@v1.0.0",
            "sumdb/a.b/lookup/a.b/m@v1.0.0",
        ),
    ] {
        let key = layout::parse_path(path).unwrap();
        let error = check(&key, b"<html></html>").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{unit} is corrupt: it is a page of HTML")
        );
        assert!(bytes_max(&key) <= ZIP_BYTES_MAX);
    }
    // A hash may be any byte.
    let tile = layout::parse_path("sumdb/a.b/tile/8/0/000").unwrap();
    assert_eq!(check(&tile, b"<hash>").unwrap(), Checked::Plain);
    let latest = layout::parse_path("a.b/m/@latest").unwrap();
    let resolved = check(&latest, br#"{"Version":"v1.0.0"}"#).unwrap();
    assert_eq!(resolved, Checked::Resolved(version()));
}
