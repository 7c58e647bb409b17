//! The central directory of a zip, read as Go's `archive/zip` reads it.
//!
//! Two readers that find different entries in one archive let bytes pass that only one of them
//! has checked, so this one follows the go command's reader in what it accepts, what it skips and
//! where it looks; a general reader would find another directory in a crafted archive. Numbers in
//! the archive are never trusted: each read is checked against the data, and nothing is allocated
//! by a count that the archive announces.
//!
//! Source: `archive/zip`, `Reader`; PKWARE APPNOTE 6.3.10, section 4.3.

/// Why a directory cannot be read.
pub(super) type Fault = &'static str;

const LOCAL_SIGNATURE: u32 = 0x0403_4b50;
const ENTRY_SIGNATURE: u32 = 0x0201_4b50;
const END_SIGNATURE: &[u8] = b"PK\x05\x06";
const LOCATOR64_SIGNATURE: u32 = 0x0706_4b50;
const END64_SIGNATURE: u32 = 0x0606_4b50;

const LOCAL_BYTES: u64 = 30;
const ENTRY_BYTES: usize = 46;
const END_BYTES: usize = 22;
const LOCATOR64_BYTES: u64 = 20;
const END64_BYTES: usize = 56;

/// The extra field that holds numbers too large for 32 bits.
const ZIP64_EXTRA: u16 = 1;

/// How far from the end the directory's end is looked for: first here, then farther.
const END_SEARCH_BYTES: [usize; 2] = [1024, 65 * 1024];

const NOT_A_ZIP: Fault = "it is not a zip file, or its end is missing";
const MALFORMED: Fault = "its directory is malformed";
const CUT: Fault = "its directory is cut short";

/// One entry of the central directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    /// The name as it stands there, in any encoding.
    pub(super) name: &'a [u8],
    /// How the data is compressed: 0 stored, 8 deflated.
    pub(super) method: u16,
    pub(super) compressed_bytes: u64,
    pub(super) unpacked_bytes: u64,
    /// The file's Unix mode with its type; `None` when it was packed elsewhere.
    pub(super) unix_mode: Option<u32>,
    /// Where the local header stands, counted from the archive's first byte.
    header_offset: u64,
}

impl<'a> Entry<'a> {
    /// Checks that the entry's local header is where the directory says, bears the same name, and
    /// that the data lies inside the archive.
    pub(super) fn check_local(&self, data: &'a [u8]) -> Result<(), Fault> {
        let gone = "its local header is missing";
        let start = usize::try_from(self.header_offset).map_err(|_| gone)?;
        let mut header = Bytes(data.get(start..).ok_or(gone)?);
        if header.u32() != Some(LOCAL_SIGNATURE) {
            return Err(gone);
        }
        header.take(22).ok_or(gone)?;
        let name_len = header.u16().ok_or(gone)?;
        let extra_len = header.u16().ok_or(gone)?;
        if header.take(name_len.into()) != Some(self.name) {
            return Err("its local header bears another name");
        }
        let before = LOCAL_BYTES + u64::from(name_len) + u64::from(extra_len);
        let end = self.header_offset.checked_add(before);
        let end = end.and_then(|end| end.checked_add(self.compressed_bytes));
        match end {
            Some(end) if end <= data.len() as u64 => Ok(()),
            _ => Err("its data reaches past the end of the archive"),
        }
    }
}

/// The entries of an archive, in the directory's order.
pub(super) struct Directory<'a> {
    rest: Bytes<'a>,
    /// What to add to an entry's offset.
    base: i64,
    announced: u64,
    seen: u64,
    done: bool,
}

impl<'a> Directory<'a> {
    /// Finds the directory.
    pub(super) fn open(data: &'a [u8]) -> Result<Self, Fault> {
        let (end_offset, end) = find_end(data)?;
        let end = end.or_zip64(data, end_offset)?;
        let (base, start) = end.place(data)?;
        let rest = Bytes(&data[start..]);
        Ok(Self {
            rest,
            base,
            announced: end.records,
            seen: 0,
            done: false,
        })
    }

    /// Reads one entry; `None` where the entries end, which the count must confirm.
    fn read(&mut self) -> Result<Option<Entry<'a>>, Fault> {
        // The end record follows the last entry, so that nothing at all left means that the
        // archive points past it.
        if self.rest.0.is_empty() {
            return Err(CUT);
        }
        match read_entry(&mut self.rest) {
            Ok(mut entry) => {
                self.seen += 1;
                let offset = entry.header_offset.checked_add_signed(self.base);
                entry.header_offset = offset.ok_or(MALFORMED)?;
                Ok(Some(entry))
            }
            // The announced count has 16 bits in an archive without zip64 records, even where it
            // holds more entries.
            Err(_) if self.seen & 0xffff == self.announced & 0xffff => Ok(None),
            Err(fault) => Err(fault),
        }
    }
}

impl<'a> Iterator for Directory<'a> {
    type Item = Result<Entry<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let entry = self.read().transpose();
        self.done = !matches!(entry, Some(Ok(_)));
        entry
    }
}

/// What the end record says.
#[derive(Clone, Copy)]
struct End {
    /// Where the record stands: the directory ends there.
    offset: u64,
    records: u64,
    directory_bytes: u64,
    directory_offset: u64,
}

impl End {
    /// Takes the numbers from the zip64 record, when this one says that they did not fit.
    fn or_zip64(self, data: &[u8], offset: usize) -> Result<Self, Fault> {
        // 0xffff for the size is the go command's own reading; the format says 0xffffffff.
        let overflown = self.records == 0xffff
            || self.directory_bytes == 0xffff
            || self.directory_offset == 0xffff_ffff;
        if !overflown {
            return Ok(self);
        }
        let Some(at) = (offset as u64).checked_sub(LOCATOR64_BYTES) else {
            return Ok(self);
        };
        let mut locator = Bytes(&data[at as usize..]);
        if locator.u32() != Some(LOCATOR64_SIGNATURE) || locator.u32() != Some(0) {
            return Ok(self);
        }
        let at = locator.u64().ok_or(MALFORMED)?;
        // The total number of disks. An offset beyond 63 bits is negative to the go command,
        // which then goes on with the 32-bit numbers.
        if locator.u32() != Some(1) || i64::try_from(at).is_err() {
            return Ok(self);
        }
        let start = usize::try_from(at).map_err(|_| MALFORMED)?;
        let record = data
            .get(start..)
            .filter(|record| record.len() >= END64_BYTES);
        let mut record = Bytes(record.ok_or(MALFORMED)?);
        if record.u32() != Some(END64_SIGNATURE) {
            return Err(MALFORMED);
        }
        record.take(28).ok_or(MALFORMED)?;
        Ok(Self {
            offset: at,
            records: record.u64().ok_or(MALFORMED)?,
            directory_bytes: record.u64().ok_or(MALFORMED)?,
            directory_offset: record.u64().ok_or(MALFORMED)?,
        })
    }

    /// Finds where the archive begins, and its directory. Something may precede the archive, or
    /// be missing from its front; the offsets in it count from where it once began.
    fn place(self, data: &[u8]) -> Result<(i64, usize), Fault> {
        let sized = |number: u64| i64::try_from(number).map_err(|_| MALFORMED);
        let offset = sized(self.directory_offset)?;
        let before = sized(self.offset)? - sized(self.directory_bytes)?;
        let start = usize::try_from(before)
            .ok()
            .filter(|&start| start < data.len());
        let start = start.ok_or(MALFORMED)?;
        let base = before.checked_sub(offset).ok_or(MALFORMED)?;
        if base > 0 {
            // Some archives announce a wrong size; where there is an entry at the announced
            // offset, that is the directory.
            let announced = usize::try_from(offset).map_err(|_| MALFORMED)?;
            let entry = data
                .get(announced..)
                .map(|rest| read_entry(&mut Bytes(rest)));
            if matches!(entry, Some(Ok(_))) {
                return Ok((0, announced));
            }
        }
        Ok((base, start))
    }
}

/// Finds the end record and the place where it stands.
fn find_end(data: &[u8]) -> Result<(usize, End), Fault> {
    for reach in END_SEARCH_BYTES {
        let first = data.len().saturating_sub(reach);
        let block = &data[first..];
        if let Some(at) = find_end_in(block) {
            let offset = first + at;
            let mut record = Bytes(&block[at + 10..]);
            let end = End {
                offset: offset as u64,
                records: record.u16().ok_or(NOT_A_ZIP)?.into(),
                directory_bytes: record.u32().ok_or(NOT_A_ZIP)?.into(),
                directory_offset: record.u32().ok_or(NOT_A_ZIP)?.into(),
            };
            return Ok((offset, end));
        }
        if first == 0 {
            break;
        }
    }
    Err(NOT_A_ZIP)
}

/// The last end record in `block`; none when its comment reaches past the end.
fn find_end_in(block: &[u8]) -> Option<usize> {
    let last = block.len().checked_sub(END_BYTES)?;
    let at = (0..=last)
        .rev()
        .find(|&at| block[at..].starts_with(END_SIGNATURE))?;
    let comment_len = u16::from_le_bytes([block[at + END_BYTES - 2], block[at + END_BYTES - 1]]);
    (at + END_BYTES + usize::from(comment_len) <= block.len()).then_some(at)
}

/// Reads an entry, its offset not yet corrected.
fn read_entry<'a>(rest: &mut Bytes<'a>) -> Result<Entry<'a>, Fault> {
    let mut header = Bytes(rest.take(ENTRY_BYTES).ok_or(CUT)?);
    read_entry_fields(&mut header, rest).ok_or(CUT)?
}

/// Reads the fields of a header that is there whole; `None` when what follows it is not.
fn read_entry_fields<'a>(
    header: &mut Bytes<'a>,
    rest: &mut Bytes<'a>,
) -> Option<Result<Entry<'a>, Fault>> {
    if header.u32()? != ENTRY_SIGNATURE {
        return Some(Err(MALFORMED));
    }
    let packed_by = header.u16()? >> 8;
    header.take(4)?;
    let method = header.u16()?;
    header.take(8)?;
    let compressed = header.u32()?;
    let unpacked = header.u32()?;
    let name_len = header.u16()?;
    let extra_len = header.u16()?;
    let comment_len = header.u16()?;
    header.take(4)?;
    let attributes = header.u32()?;
    let offset = header.u32()?;
    let name = rest.take(name_len.into())?;
    let extra = rest.take(extra_len.into())?;
    rest.take(comment_len.into())?;

    // Unix and macOS, whose modes stand in the upper half.
    let unix_mode = matches!(packed_by, 3 | 19).then_some(attributes >> 16);
    let mut numbers = Numbers {
        unpacked,
        compressed,
        offset,
    }
    .widen();
    if numbers.read_extra(extra).is_none() || !numbers.are_complete() {
        return Some(Err(MALFORMED));
    }
    Some(Ok(Entry {
        name,
        method,
        compressed_bytes: numbers.compressed.value,
        unpacked_bytes: numbers.unpacked.value,
        unix_mode,
        header_offset: numbers.offset.value,
    }))
}

/// The numbers of an entry that may be too large for 32 bits.
struct Numbers<T> {
    unpacked: T,
    compressed: T,
    offset: T,
}

/// A number, and whether a zip64 field has yet to give it.
struct Number {
    value: u64,
    wanted: bool,
}

impl Numbers<u32> {
    fn widen(self) -> Numbers<Number> {
        let widen = |value: u32| Number {
            value: value.into(),
            wanted: value == u32::MAX,
        };
        Numbers {
            unpacked: widen(self.unpacked),
            compressed: widen(self.compressed),
            offset: widen(self.offset),
        }
    }
}

impl Numbers<Number> {
    /// Takes the wanted numbers from the zip64 fields; `None` when such a field is too short.
    fn read_extra(&mut self, extra: &[u8]) -> Option<()> {
        let mut extra = Bytes(extra);
        while let (Some(tag), Some(len)) = (extra.u16(), extra.u16()) {
            // Other writers put what they like here; a field that does not fit ends the reading.
            let Some(field) = extra.take(len.into()) else {
                return Some(());
            };
            if tag != ZIP64_EXTRA {
                continue;
            }
            let mut field = Bytes(field);
            for number in [&mut self.unpacked, &mut self.compressed, &mut self.offset] {
                if number.wanted {
                    *number = Number {
                        value: field.u64()?,
                        wanted: false,
                    };
                }
            }
        }
        Some(())
    }

    /// An unpacked size may really be the largest 32-bit number; the others may not.
    fn are_complete(&self) -> bool {
        !self.compressed.wanted && !self.offset.wanted
    }
}

/// Little-endian numbers, read from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }
}
