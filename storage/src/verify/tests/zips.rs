//! Zips: those of the go command, those of careless tools, and those of an enemy.

use std::io::{Cursor, Write as _};

use ::zip::write::SimpleFileOptions;
use ::zip::{CompressionMethod, ZipWriter};
use proptest::prelude::*;

use super::archive::{Archive, Entry, file};
use super::*;

const PREFIX: &str = "example.com/M@v1.0.0/";

fn checked(data: &[u8]) -> Result<ZipSummary, Error> {
    check_zip(data, &module(), &version())
}

/// A file of the module.
fn part(name: &str) -> Entry {
    file(&format!("{PREFIX}{name}"), b"data")
}

fn of_names(names: &[&str]) -> Result<ZipSummary, Error> {
    checked(&Archive::of(names.iter().map(|name| part(name))).bytes())
}

/// A folder entry, without data.
fn folder(name: &str) -> Entry {
    file(&format!("{PREFIX}{name}/"), b"")
}

/// A zip as tools write it, compressed, with some folders.
fn usual() -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let deflated = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    writer
        .add_directory(format!("{PREFIX}sub"), stored)
        .unwrap();
    for (name, options) in [
        ("go.mod", stored),
        ("sub/a.go", deflated),
        ("LICENSE", deflated),
    ] {
        writer
            .start_file(format!("{PREFIX}{name}"), options)
            .unwrap();
        writer
            .write_all(&b"module example.com/M\n".repeat(20))
            .unwrap();
    }
    writer.finish().unwrap().into_inner()
}

// protocol: Z01
#[test]
fn usual_zips_are_taken() {
    let summary = checked(&usual()).unwrap();
    assert_eq!(
        summary,
        ZipSummary {
            files: 3,
            unpacked_bytes: 3 * 20 * 21
        }
    );
    let none = ZipSummary {
        files: 0,
        unpacked_bytes: 0,
    };
    assert_eq!(checked(&Archive::default().bytes()).unwrap(), none);

    let names = [
        "go.mod",
        "LICENSE",
        ".gitignore",
        "a b.txt",
        "vendor/modules.txt",
        "vendor/example.com/x/x.go",
        "testdata/!$&()+,-.=@[]^_{}~#%/x",
        "d\u{e9}j\u{e0}/\u{4e2d}\u{6587}.go",
        "go.module",
        "go.mod.txt",
        "sub/license",
        "a~1/b~2",
        "x/..y/...z",
    ];
    assert_eq!(of_names(&names).unwrap().files, names.len() as u64);
}

#[test]
fn careless_zips_are_taken() {
    let twice = [
        folder("a"),
        folder("a"),
        folder("a/b"),
        part("a/b/c"),
        file(PREFIX, b""),
    ];
    assert_eq!(checked(&Archive::of(twice).bytes()).unwrap().files, 1);

    let mut archive = Archive::of([part("a")]);
    archive.comment = b"made by hand".to_vec();
    assert!(checked(&archive.bytes()).is_ok());
    archive.comment = vec![b'x'; 60_000];
    assert!(checked(&archive.bytes()).is_ok());
    archive.zip64 = Some([None; 3]);
    archive.records = Some(u16::MAX);
    archive.directory_offset = Some(u32::MAX);
    assert!(checked(&archive.bytes()).is_ok());

    // Something before the archive, whose offsets count from the archive or from the file.
    let mut prefixed = Archive::of([part("a"), part("b")]);
    prefixed.before = b"#!/bin/sh\n".to_vec();
    assert_eq!(checked(&prefixed.bytes()).unwrap().files, 2);
    let mut bare = Archive::of([part("a"), part("b")]).bytes();
    bare.splice(0..0, *b"#!/bin/sh\n");
    assert_eq!(checked(&bare).unwrap().files, 2);

    let mut regular = part("a");
    (regular.packed_by, regular.mode) = (3, 0o100_755);
    let mut odd_extra = part("b");
    odd_extra.extra = vec![9, 9, 200, 0, 1];
    odd_extra.comment = b"comment".to_vec();
    assert!(checked(&Archive::of([regular, odd_extra]).bytes()).is_ok());
}

#[test]
fn more_entries_than_sixteen_bits_count_are_read() {
    let entries = (0..65_536 + 3).map(|i| file(&format!("{PREFIX}{i}"), b""));
    let mut archive = Archive::of(entries);
    assert_eq!(checked(&archive.bytes()).unwrap().files, 65_539);
    archive.records = Some(4);
    assert!(checked(&archive.bytes()).is_err());
}

// protocol: Z03
#[test]
fn other_documents_are_no_zip() {
    assert_eq!(
        reason(checked(b"<!DOCTYPE html><html>")),
        "it is a page of HTML"
    );
    for data in [
        &b""[..],
        b"PK",
        b"PK\x05\x06",
        b"{}",
        &[0; 22],
        &[b'P'; 100_000],
    ] {
        assert_eq!(
            reason(checked(data)),
            "it is not a zip file, or its end is missing"
        );
    }
}

// protocol: Z04
#[test]
fn names_outside_the_version_are_refused() {
    for name in [
        "",
        "go.mod",
        "/example.com/M@v1.0.0/go.mod",
        "example.com/m@v1.0.0/go.mod",
        "example.com/!m@v1.0.0/go.mod",
        "example.com/M@v1.0.1/go.mod",
        "example.com/M@v1.0.0",
        "example.com/M@v1.0.0go.mod",
        "../example.com/M@v1.0.0/go.mod",
    ] {
        let zip = Archive::of([part("a"), file(name, b"x")]).bytes();
        assert!(
            reason(checked(&zip)).contains("does not begin with"),
            "{name}"
        );
    }
}

#[test]
fn names_that_no_file_system_is_sure_of_are_refused() {
    for name in [
        "/a",
        "a//b",
        "a/./b",
        "../a",
        "a/../b",
        "a/..",
        ".",
        "...",
        "a.",
        "a./b",
        "a\\b",
        "a:b",
        "a*",
        "a?",
        "a\"",
        "a'b",
        "a`",
        "a|b",
        "a<b",
        "a\tb",
        "a\nb",
        "a\0",
        "con",
        "x/NUL.go",
        "com1/x",
        "Lpt3",
        "a;b",
        "\u{1f600}",
        "a\u{301}",
        "\u{2160}",
        "//",
        "a//",
    ] {
        assert!(of_names(&[name]).is_err(), "{name:?}");
    }
    let mut not_text = part("a");
    not_text.name.push(0xff);
    assert!(reason(checked(&Archive::of([not_text]).bytes())).contains("not UTF-8"));
    let long = of_names(&[&"a/".repeat(30_000)]);
    assert!(reason(long).contains("longer than"));
}

#[test]
fn names_that_meet_in_one_file_system_are_refused() {
    for names in [
        &["a", "a"][..],
        &["a", "A"],
        &["a/b", "A/c"],
        &["a", "a/b"],
        &["a/b", "a"],
        &["a/b/c", "a/B"],
        &["stra\u{df}e", "STRA\u{1e9e}E"],
        &["k", "\u{212a}"],
    ] {
        assert!(of_names(names).is_err(), "{names:?}");
    }
    assert!(checked(&Archive::of([part("a"), folder("a")]).bytes()).is_err());
    assert!(checked(&Archive::of([folder("A"), part("a/b")]).bytes()).is_err());
    assert!(of_names(&["a", "b/a", "b/b/a", "ab"]).is_ok());
}

#[test]
fn go_mod_lies_at_the_top_only() {
    for name in [
        "GO.MOD",
        "Go.mod",
        "sub/go.mod",
        "sub/GO.mod",
        "vendor/x/go.mod",
    ] {
        assert!(reason(of_names(&[name])).contains("go.mod"), "{name}");
    }
    assert!(checked(&Archive::of([folder("go.mod")]).bytes()).is_ok());
}

#[test]
fn irregular_files_are_refused() {
    for mode in [0o120_777, 0o010_644, 0o020_644, 0o060_644, 0o140_644] {
        for packed_by in [3, 19] {
            let mut link = part("a");
            (link.packed_by, link.mode) = (packed_by, mode);
            assert!(reason(checked(&Archive::of([link]).bytes())).contains("irregular"));
        }
    }
    let mut packed_elsewhere = part("a");
    packed_elsewhere.mode = 0o120_777;
    assert!(checked(&Archive::of([packed_elsewhere]).bytes()).is_ok());
}

#[test]
fn sizes_have_limits() {
    let huge = |name: &str, unpacked| {
        let mut entry = part(name);
        (entry.method, entry.unpacked) = (8, Some(unpacked));
        entry
    };
    let mib = 1 << 20;
    let taken = Archive::of([huge("a", 250 * mib), huge("b", 250 * mib)]);
    assert_eq!(
        checked(&taken.bytes()).unwrap().unpacked_bytes,
        ZIP_BYTES_MAX
    );
    let bomb = Archive::of([huge("a", 250 * mib), huge("b", 250 * mib + 1)]);
    assert!(reason(checked(&bomb.bytes())).contains("when unpacked"));
    for name in ["go.mod", "LICENSE"] {
        assert!(checked(&Archive::of([huge(name, 16 * mib)]).bytes()).is_ok());
        assert!(checked(&Archive::of([huge(name, 16 * mib + 1)]).bytes()).is_err());
    }
    assert!(checked(&Archive::of([huge("sub/LICENSE", 17 * mib)]).bytes()).is_ok());

    // A zip64 field whose sum would overflow.
    let mut wide = huge("a", u32::MAX);
    wide.extra = [&[1, 0, 8, 0][..], &u64::MAX.to_le_bytes()].concat();
    assert!(checked(&Archive::of([part("b"), wide]).bytes()).is_err());
    let mut folder = folder("a");
    folder.unpacked = Some(1);
    assert!(checked(&Archive::of([folder]).bytes()).is_err());
}

#[test]
fn data_that_the_go_command_cannot_unpack_is_refused() {
    let mut foreign = part("a");
    foreign.method = 12;
    assert!(reason(checked(&Archive::of([foreign]).bytes())).contains("compression"));
    let mut uneven = part("a");
    uneven.unpacked = Some(3);
    assert!(checked(&Archive::of([uneven]).bytes()).is_err());
    let mut past = part("a");
    (past.compressed, past.unpacked) = (Some(1 << 20), Some(1 << 20));
    assert!(reason(checked(&Archive::of([past]).bytes())).contains("past the end"));
    let mut renamed = part("a");
    renamed.local_name = Some(format!("{PREFIX}b").into_bytes());
    assert!(reason(checked(&Archive::of([renamed]).bytes())).contains("another name"));
    for offset in [1, 1 << 30, u32::MAX] {
        let mut lost = part("a");
        lost.offset = Some(offset);
        assert!(checked(&Archive::of([lost]).bytes()).is_err(), "{offset}");
    }
}

#[test]
fn two_entries_over_the_same_data_need_two_headers() {
    let mut second = part("b");
    second.offset = Some(0);
    let overlapping = Archive::of([part("a"), second]).bytes();
    assert!(reason(checked(&overlapping)).contains("another name"));
}

#[test]
fn numbers_at_the_end_are_not_trusted() {
    let good = Archive::of([part("a"), part("b")]);
    for records in [0, 1, 3, 65_534, u16::MAX] {
        let lying = Archive {
            records: Some(records),
            ..good.clone()
        };
        assert!(checked(&lying.bytes()).is_err(), "{records}");
    }
    for offset in [1, 1 << 20, u32::MAX] {
        let lying = Archive {
            directory_offset: Some(offset),
            ..good.clone()
        };
        assert!(checked(&lying.bytes()).is_err(), "{offset}");
    }
    for size in [1, 0xffff, 1 << 20, u32::MAX] {
        let lying = Archive {
            directory_bytes: Some(size),
            ..good.clone()
        };
        let _ = checked(&lying.bytes());
    }
    let lying = Archive {
        comment_len: Some(1),
        ..good.clone()
    };
    assert!(checked(&lying.bytes()).is_err());
    // A wrong size alone is forgiven where an entry stands at the announced offset.
    for number in [0, 1, u64::from(u32::MAX), 1 << 63, u64::MAX] {
        for (at, forgiven) in [(0, false), (1, number < 2), (2, false)] {
            let mut numbers = [None; 3];
            numbers[at] = Some(number);
            let zip64 = Some(numbers);
            let lying = Archive {
                zip64,
                records: Some(u16::MAX),
                ..good.clone()
            };
            assert_eq!(checked(&lying.bytes()).is_ok(), forgiven, "{number} {at}");
        }
    }
    let bytes = good.bytes();
    for end in 0..bytes.len() {
        assert!(checked(&bytes[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn a_tree_of_names_has_a_limit() {
    let deep = (0..1_000).map(|i| file(&format!("{PREFIX}{i}/{}x", "a/".repeat(600)), b""));
    let refused = checked(&Archive::of(deep).bytes());
    assert!(reason(refused).contains("more than 500000 files and folders"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_changed_zip_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut zip = usual();
        for (at, byte) in changes {
            let at = at.index(zip.len());
            zip[at] = byte;
        }
        let _ = checked(&zip);
        let end = cut.index(zip.len());
        let _ = checked(&zip[..end]);
        let _ = checked(&zip[end..]);
    }

    #[test]
    fn numbers_from_an_enemy_never_panic(
        records in any::<Option<u16>>(),
        directory_bytes in any::<Option<u32>>(),
        directory_offset in prop_oneof![Just(None), Just(Some(u32::MAX)), any::<Option<u32>>()],
        zip64 in prop::option::of(prop::array::uniform3(any::<Option<u64>>())),
        offset in any::<Option<u32>>(),
        extra in prop::collection::vec(any::<u8>(), 0..40),
        comment in prop::collection::vec(any::<u8>(), 0..40),
        comment_len in any::<Option<u16>>(),
    ) {
        let entry = Entry { offset, extra, unpacked: Some(u32::MAX), ..part("a") };
        let archive = Archive {
            entries: vec![entry],
            records,
            directory_bytes,
            directory_offset,
            zip64,
            comment,
            comment_len,
            ..Archive::default()
        };
        let _ = checked(&archive.bytes());
    }

    #[test]
    fn bytes_of_any_kind_never_panic(mut data in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = checked(&data);
        data.splice(0..0, *b"PK\x01\x02");
        data.extend_from_slice(&Archive::default().bytes());
        let _ = checked(&data);
    }
}
