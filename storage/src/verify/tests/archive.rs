//! A writer of zips that says whatever a test wants said: entries in the headers, numbers at the
//! end.

/// One entry: what its headers say, and its stored data.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    /// The name in the local header, when it is another.
    pub(super) local_name: Option<Vec<u8>>,
    pub(super) data: Vec<u8>,
    pub(super) method: u16,
    pub(super) packed_by: u8,
    pub(super) mode: u32,
    /// What the headers say instead of the data's length.
    pub(super) unpacked: Option<u32>,
    pub(super) compressed: Option<u32>,
    pub(super) extra: Vec<u8>,
    pub(super) comment: Vec<u8>,
    /// What the directory says instead of where the local header stands.
    pub(super) offset: Option<u32>,
}

/// A stored file with nothing special.
pub(super) fn file(name: &str, data: &[u8]) -> Entry {
    Entry {
        name: name.into(),
        local_name: None,
        data: data.to_vec(),
        method: 0,
        packed_by: 0,
        mode: 0,
        unpacked: None,
        compressed: None,
        extra: Vec::new(),
        comment: Vec::new(),
        offset: None,
    }
}

/// An archive; the end record's numbers can be replaced.
#[derive(Debug, Clone, Default)]
pub(super) struct Archive {
    pub(super) before: Vec<u8>,
    pub(super) entries: Vec<Entry>,
    pub(super) records: Option<u16>,
    pub(super) directory_bytes: Option<u32>,
    pub(super) directory_offset: Option<u32>,
    /// Records, size and offset for a zip64 end; `None` for the right ones.
    pub(super) zip64: Option<[Option<u64>; 3]>,
    pub(super) comment: Vec<u8>,
    pub(super) comment_len: Option<u16>,
}

impl Archive {
    pub(super) fn of(entries: impl IntoIterator<Item = Entry>) -> Self {
        Self {
            entries: entries.into_iter().collect(),
            ..Self::default()
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = self.before.clone();
        let mut directory = Vec::new();
        for entry in &self.entries {
            let offset = entry.offset.unwrap_or(len(&out));
            let local_name = entry.local_name.as_ref().unwrap_or(&entry.name);
            let data_len = len(&entry.data);
            let compressed = entry.compressed.unwrap_or(data_len);
            let unpacked = entry.unpacked.unwrap_or(data_len);
            let common = |out: &mut Vec<u8>| {
                put(out, &[20, 0, 0, 0]);
                put(out, &entry.method.to_le_bytes());
                put(out, &[0; 8]);
                put(out, &compressed.to_le_bytes());
                put(out, &unpacked.to_le_bytes());
            };
            put(&mut out, b"PK\x03\x04");
            common(&mut out);
            put(&mut out, &short(local_name));
            put(&mut out, &[0, 0]);
            put(&mut out, local_name);
            put(&mut out, &entry.data);

            put(&mut directory, b"PK\x01\x02");
            put(&mut directory, &[20, entry.packed_by]);
            common(&mut directory);
            put(&mut directory, &short(&entry.name));
            put(&mut directory, &short(&entry.extra));
            put(&mut directory, &short(&entry.comment));
            put(&mut directory, &[0; 4]);
            put(&mut directory, &(entry.mode << 16).to_le_bytes());
            put(&mut directory, &offset.to_le_bytes());
            put(&mut directory, &entry.name);
            put(&mut directory, &entry.extra);
            put(&mut directory, &entry.comment);
        }
        let start = len(&out);
        put(&mut out, &directory);
        if let Some([records, size, offset]) = self.zip64 {
            let end64 = u64::from(len(&out));
            put(&mut out, b"PK\x06\x06");
            put(&mut out, &[0; 28]);
            put(
                &mut out,
                &records.unwrap_or(self.entries.len() as u64).to_le_bytes(),
            );
            put(
                &mut out,
                &size.unwrap_or(len(&directory).into()).to_le_bytes(),
            );
            put(&mut out, &offset.unwrap_or(start.into()).to_le_bytes());
            put(&mut out, b"PK\x06\x07\0\0\0\0");
            put(&mut out, &end64.to_le_bytes());
            put(&mut out, &1_u32.to_le_bytes());
        }
        let records = self.records.unwrap_or(self.entries.len() as u16);
        put(&mut out, b"PK\x05\x06\0\0\0\0");
        put(&mut out, &records.to_le_bytes());
        put(&mut out, &records.to_le_bytes());
        put(
            &mut out,
            &self
                .directory_bytes
                .unwrap_or(len(&directory))
                .to_le_bytes(),
        );
        put(
            &mut out,
            &self.directory_offset.unwrap_or(start).to_le_bytes(),
        );
        put(
            &mut out,
            &self
                .comment_len
                .map_or(short(&self.comment), u16::to_le_bytes),
        );
        put(&mut out, &self.comment);
        out
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
}

fn len(bytes: &[u8]) -> u32 {
    bytes.len() as u32
}

fn short(bytes: &[u8]) -> [u8; 2] {
    (bytes.len() as u16).to_le_bytes()
}
