//! Tests of keys, units and paths: what is printed is read back, and nothing else is read.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::{SumdbName, Tile, TileLevel};

fn key(path: &str) -> ArtifactKey {
    parse_path(path).unwrap_or_else(|error| panic!("{error}"))
}

// protocol: P01
// protocol: P02
// protocol: V03
#[test]
fn keys_and_paths_correspond() {
    for (path, unit, upstream) in [
        (
            "example.com/m/@v/list",
            "example.com/m@list",
            "example.com/m/@v/list",
        ),
        (
            "example.com/m/@latest",
            "example.com/m@latest",
            "example.com/m/@latest",
        ),
        (
            "example.com/m/@v/v1.0.0.zip",
            "example.com/m@v1.0.0.zip",
            "example.com/m/@v/v1.0.0.zip",
        ),
        (
            "github.com/!azure/a/@v/v2.0.0-!r!c1+incompatible.mod",
            "github.com/Azure/a@v2.0.0-RC1+incompatible.mod",
            "github.com/%21azure/a/@v/v2.0.0-%21r%21c1+incompatible.mod",
        ),
        (
            "example.com/m/@v/a b#50%.info",
            "example.com/m@query:a%20b%2350%25",
            "example.com/m/@v/a%20b%2350%25.info",
        ),
        (
            "example.com/m/@v/v1.0.0.zip.info",
            "example.com/m@query:v1.0.0.zip",
            "example.com/m/@v/v1.0.0.zip.info",
        ),
        (
            "example.com/m/@v/list.info",
            "example.com/m@query:list",
            "example.com/m/@v/list.info",
        ),
        (
            "example.com/m/@v/v2.0.0.info",
            "example.com/m@query:v2.0.0",
            "example.com/m/@v/v2.0.0.info",
        ),
        (
            "example.com/m/@v/v1.0.0.info",
            "example.com/m@v1.0.0.info",
            "example.com/m/@v/v1.0.0.info",
        ),
        (
            "sumdb/sum.golang.org/latest",
            "sumdb/sum.golang.org/latest",
            "sumdb/sum.golang.org/latest",
        ),
        (
            "sumdb/localhost.localdev/sumdb/lookup/github.com/!azure/lookup/latest@v1.0.0-!a",
            "sumdb/localhost.localdev/sumdb/lookup/github.com/!azure/lookup/latest@v1.0.0-!a",
            "sumdb/localhost.localdev/sumdb/lookup/github.com/%21azure/lookup/latest@v1.0.0-%21a",
        ),
        (
            "sumdb/sum.golang.org/tile/8/0/x001/x234/067.p/1",
            "sumdb/sum.golang.org/tile/8/0/x001/x234/067.p/1",
            "sumdb/sum.golang.org/tile/8/0/x001/x234/067.p/1",
        ),
    ] {
        let key = key(path);
        assert_eq!(object_path(&key), path);
        assert_eq!(key.unit(), unit);
        assert_eq!(upstream_path(&key), upstream);
    }
}

// protocol: P11
// protocol: P14
// protocol: V01
// protocol: V02
// protocol: V08
// protocol: S07
#[test]
fn other_paths_have_no_key() {
    for path in [
        "",
        "example.com/m",
        "example.com/m/@foo",
        "example.com/m/@v",
        "example.com/m/@v/",
        "example.com/m/@v/.info",
        "example.com/m/@v/.zip",
        "example.com/m/@v/v1.0.0",
        "example.com/m/@v/v1.0.0.",
        "example.com/m/@v/v1.0.0.ziphash",
        "example.com/m/@v/v1.0.0.lock",
        "example.com/m/@v/v1.0.0.INFO",
        "example.com/m/@v/list/x",
        "example.com/m/@v/a/b.info",
        "example.com/m/@latest/x",
        "example.com/m/@v/v1.zip",
        "example.com/m/@v/master.mod",
        "example.com/m/@v/v1.0.0+meta.zip",
        "example.com/m/@v/v01.0.0.mod",
        "example.com/m/@v/v2.0.0.mod",
        "example.com/m/v2/@v/v1.0.0.zip",
        "example.com/m/@v/latest.info",
        "example.com/m/@v/upgrade.info",
        "example.com/m/@v/patch.info",
        "example.com/M/@v/list",
        "/@v/list",
        "@v/list",
        "sumdb/",
        "sumdb/sum.golang.org",
        "sumdb/latest",
        "sumdb//latest",
        "sumdb/sum.golang.org/latest/x",
        "sumdb/sum.golang.org/lookup/",
        "sumdb/sum.golang.org/lookup/example.com/m",
        "sumdb/sum.golang.org/lookup/example.com/m@master",
        "sumdb/sum.golang.org/lookup/example.com/m@v1.0.0/go.mod",
        "sumdb/sum.golang.org/lookup/example.com/M@v1.0.0",
        "sumdb/sum golang.org/latest",
        "sumdb/a+b/latest",
        "sumdb/../latest",
        "sumdb/host/../latest",
        "sumdb/host:/latest",
        "sumdb/host:x/latest",
        "sumdb/user@host/latest",
    ] {
        assert!(key_of_object_path(path).is_none(), "{path}");
    }
    assert_ne!(
        key("example.com/m/@latest"),
        key("example.com/m/sub/@latest")
    );
}

// protocol: S04
#[test]
fn tiles_are_read_in_one_spelling_only() {
    for path in [
        "tile/8/0/000",
        "tile/8/0/999",
        "tile/8/0/x001/000",
        "tile/8/data/x123/x456/789",
        "tile/8/1/000.p/255",
        "tile/1/63/000.p/1",
        "tile/30/0/000",
    ] {
        assert_eq!(Tile::parse(path).unwrap().to_string(), path);
    }
    for path in [
        "tile",
        "tile/",
        "tile/8",
        "tile/8/0",
        "tile/8/0/",
        "tile/8/0/0",
        "tile/8/0/0000",
        "tile/8/0/1000",
        "tile/8/0/x001",
        "tile/8/0/001/002",
        "tile/8/0/x000/001",
        "tile/8/0/000.p/0",
        "tile/8/0/000.p/256",
        "tile/8/0/000.p/01",
        "tile/8/0/000.p/+1",
        "tile/8/0/000.p",
        "tile/8/0/000.p/",
        "tile/8/0/000.p/1/2",
        "tile/0/0/000",
        "tile/31/0/000",
        "tile/08/0/000",
        "tile/8/-1/000",
        "tile/8/64/000",
        "tile/8/DATA/000",
        "tile/8/0/+01",
        "tile/8/0/x999/x999/x999/x999/x999/x999/999",
        "tile//0/000",
        "tile/8/0/000 ",
    ] {
        assert!(Tile::parse(path).is_err(), "{path}");
    }
    let tile = Tile::parse("tile/8/data/x123/456.p/7").unwrap();
    assert_eq!(
        (tile.height(), tile.level(), tile.index()),
        (8, TileLevel::Data, 123_456)
    );
    assert_eq!((tile.width(), tile.is_partial()), (7, true));
    let last = Tile::parse("tile/8/0/x009/x223/x372/x036/x854/x775/807").unwrap();
    assert_eq!(last.index(), i64::MAX as u64);
}

#[test]
fn keys_know_their_kind() {
    for (path, label, mutable, content_type) in [
        ("a.b/m/@v/v1.0.0.info", "info", false, "application/json"),
        (
            "a.b/m/@v/v1.0.0.mod",
            "mod",
            false,
            "text/plain; charset=utf-8",
        ),
        ("a.b/m/@v/v1.0.0.zip", "zip", false, "application/zip"),
        ("a.b/m/@v/list", "list", true, "text/plain; charset=utf-8"),
        ("a.b/m/@latest", "latest", true, "application/json"),
        ("a.b/m/@v/main.info", "query", true, "application/json"),
        (
            "sumdb/a.b/latest",
            "sumdb",
            true,
            "text/plain; charset=utf-8",
        ),
        (
            "sumdb/a.b/lookup/a.b/m@v1.0.0",
            "sumdb",
            false,
            "text/plain; charset=utf-8",
        ),
        (
            "sumdb/a.b/tile/8/0/000",
            "sumdb",
            false,
            "application/octet-stream",
        ),
        (
            "sumdb/a.b/tile/8/data/000",
            "sumdb",
            false,
            "text/plain; charset=utf-8",
        ),
    ] {
        let key = key(path);
        assert_eq!(key.kind_label(), label, "{path}");
        assert_eq!(key.is_mutable(), mutable, "{path}");
        assert_eq!(key.content_type(), content_type, "{path}");
        assert_eq!(key.module().is_some(), label != "sumdb", "{path}");
    }
    assert_eq!(
        versions_prefix(&ModulePath::parse("a.b/M").unwrap()),
        "a.b/!m/@v"
    );
}

#[test]
fn database_names_have_no_element_that_ends_them() {
    for name in [
        "sum.golang.org",
        "localhost:8080",
        "localhost.localdev/sumdb",
        "h/a/b~c_d",
    ] {
        assert_eq!(SumdbName::parse(name).unwrap().as_str(), name);
    }
    for name in [
        "",
        "h/",
        "/h",
        "h/tile",
        "h/lookup/x",
        "h//x",
        "h/.x",
        "h x",
        "h+x",
        "h:99999",
    ] {
        assert!(SumdbName::parse(name).is_err(), "{name:?}");
    }
}

prop_compose! {
    fn module_path()(path in "[a-z]{1,2}\\.[a-z](/[A-Za-z0-9._~-]{1,4}){0,3}(/v[2-9])?") -> String {
        path
    }
}

fn any_path() -> impl Strategy<Value = String> {
    let file = prop_oneof![
        "v[0-9]\\.[0-9]\\.[0-9](-[A-Za-z0-9.-]{1,4})?(\\+incompatible)?\\.(info|mod|zip)",
        "[!#$%&()+,.=@A-Z_a-z{}~ \\[\\]^-]{1,6}\\.info",
        Just("list".to_owned()),
    ];
    let tile = "tile/[1-9]/([0-9]|data)/(x[0-9]{3}/){0,2}[0-9]{3}(\\.p/[1-9])?";
    prop_oneof![
        (module_path(), file).prop_map(|(module, file)| format!("{module}/@v/{file}")),
        module_path().prop_map(|module| format!("{module}/@latest")),
        ("[a-z]{1,3}(/[a-z]{1,6}){0,2}", tile)
            .prop_map(|(name, tile)| format!("sumdb/{name}/{tile}")),
        ("[a-z]{1,3}(/(lookup|tile|x))?", module_path())
            .prop_map(|(name, module)| format!("sumdb/{name}/lookup/{module}@v1.0.0")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn paths_round_trip(path in any_path()) {
        // Upper case is escaped first, so that most of what is generated is legal.
        let escaped: String = path
            .chars()
            .flat_map(|c| c.is_ascii_uppercase().then_some('!').into_iter().chain([c.to_ascii_lowercase()]))
            .collect();
        if let Some(key) = key_of_object_path(&escaped) {
            prop_assert_eq!(object_path(&key), escaped);
        }
    }

    #[test]
    fn no_path_makes_the_parser_panic(path in any::<String>()) {
        let _ = parse_path(&path);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn paths_and_units_are_injective(paths in prop::collection::vec(any_path(), 2..40)) {
        let keys: HashSet<_> = paths.iter().filter_map(|path| key_of_object_path(path)).collect();
        let units: HashSet<_> = keys.iter().map(ArtifactKey::unit).collect();
        let objects: HashSet<_> = keys.iter().map(object_path).collect();
        let upstream: HashSet<_> = keys.iter().map(upstream_path).collect();
        prop_assert_eq!(units.len(), keys.len());
        prop_assert_eq!(objects.len(), keys.len());
        prop_assert_eq!(upstream.len(), keys.len());
        prop_assert!(units.iter().all(|unit| unit.bytes().all(|byte| byte.is_ascii_graphic())));
    }
}
