//! Module zips of any size that the go command would accept.

use std::io::{Cursor, Write};

use bytes::Bytes;
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

/// Builds the zip of `module` at `version`: a `go.mod`, and one stored file of `filler_bytes`
/// bytes that don't repeat, so that a piece in the wrong place shows.
///
/// # Panics
///
/// Never: writing to memory does not fail.
pub fn module_zip(module: &str, version: &str, filler_bytes: usize) -> Bytes {
    let mut writer = ZipWriter::new(Cursor::new(Vec::with_capacity(filler_bytes + 1_024)));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut add = |name: &str, data: &[u8]| {
        writer
            .start_file(format!("{module}@{version}/{name}"), stored)
            .and_then(|()| Ok(writer.write_all(data)?))
            .expect("memory takes everything");
    };
    add("go.mod", format!("module {module}\n").as_bytes());
    add("filler.bin", &filler(filler_bytes));
    let written = writer.finish().expect("memory takes everything");
    Bytes::from(written.into_inner())
}

/// The numbers of a small generator (xorshift), the same each time.
fn filler(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
