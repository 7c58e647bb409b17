//! Tables for people: aligned columns, short units, nothing that a terminal would obey.

use std::borrow::Cow;

use comfy_table::{Cell, CellAlignment, Table, presets};

/// How much of a last column stays, however narrow the terminal is.
const LAST_COLUMN_CHARS_MIN: usize = 20;

/// A column's heading, and whether its cells are numbers, which stand at the right.
pub(super) type Heading = (&'static str, bool);

/// Lays out rows under headings; every line ends without blanks, the last one with a line break.
///
/// Cells come from other machines: control characters are shown as `?`. `is_bold` sets the
/// headings off, for a terminal. Where there is a `width`, the last column is cut to end there, but
/// [`LAST_COLUMN_CHARS_MIN`] of it stay: what stands before it may have to be copied whole.
pub(super) fn table(
    headings: &[Heading],
    rows: Vec<Vec<String>>,
    is_bold: bool,
    width: Option<usize>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let cell = |text: String, is_number: bool| {
        let cell = Cell::new(printable(&text));
        match is_number {
            true => cell.set_alignment(CellAlignment::Right),
            false => cell,
        }
    };
    table.set_header(
        headings
            .iter()
            .map(|(name, is_number)| cell((*name).to_owned(), *is_number)),
    );
    for row in rows {
        let cells = row.into_iter().zip(headings);
        table.add_row(cells.map(|(text, (_, is_number))| cell(text, *is_number)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut out = String::new();
    let mut chars_max = usize::MAX;
    for (i, line) in table.lines().enumerate() {
        if let (0, Some(width), Some((last, _))) = (i, width, headings.last()) {
            let before = line.rfind(last).unwrap_or_default();
            chars_max = width.max(before + LAST_COLUMN_CHARS_MIN);
        }
        let line = cut(line.trim_end(), chars_max);
        match i == 0 && is_bold {
            true => out += &format!("\x1b[1m{line}\x1b[0m\n"),
            false => out += &format!("{line}\n"),
        }
    }
    out
}

/// The text, or as much of it as fits with a mark that it goes on.
fn cut(text: &str, chars_max: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars_max) {
        None => Cow::Borrowed(text),
        Some(_) => {
            let kept: String = text.chars().take(chars_max.saturating_sub(1)).collect();
            Cow::Owned(format!("{}…", kept.trim_end()))
        }
    }
}

/// Lays out names and values, one pair a line.
pub(super) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs
        .iter()
        .map(|(name, value)| format!("{name:width$}  {}\n", printable(value)))
        .collect()
}

/// The text with control characters made visible.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// A span of time in its two largest units: `850ms`, `4.2s`, `3m 07s`, `2h 05m`.
pub(super) fn span(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0 => format!("{ms}ms"),
        1..=59 => format!("{seconds}.{}s", ms % 1_000 / 100),
        60..=3_599 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3_600, seconds % 3_600 / 60),
    }
}

/// A number of bytes with a binary unit: `512 B`, `12.3 MiB`.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        // As it would be printed: 1023.97 KiB must not read "1024.0 KiB".
        if value < 1_023.95 {
            break;
        }
        value /= 1_024.0;
        unit = next;
    }
    match unit {
        "B" => format!("{bytes} B"),
        _ => format!("{value:.1} {unit}"),
    }
}

/// How far something is: `12.3 MiB of 30.0 MiB (41%)`, or the bytes alone.
pub(super) fn progress(bytes: u64, total: Option<u64>) -> String {
    match total {
        Some(total) if total > 0 => {
            let percent = u128::from(bytes) * 100 / u128::from(total);
            format!("{} of {} ({percent}%)", size(bytes), size(total))
        }
        _ => size(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_is_obeyed() {
        let rows = vec![
            vec!["a".to_owned(), "1".to_owned(), "x".to_owned()],
            vec!["long\x1b[2Jer".to_owned(), "1000".to_owned(), String::new()],
        ];
        let headings = [("KEY", false), ("N", true), ("END", false)];
        assert_eq!(
            table(&headings, rows.clone(), false, None),
            "KEY            N  END\na              1  x\nlong?[2Jer  1000\n"
        );
        assert!(
            table(&headings, rows, true, None).starts_with("\x1b[1mKEY            N  END\x1b[0m\n")
        );
        assert_eq!(
            pairs(&[("a", "1".to_owned()), ("long", "2\n".to_owned())]),
            "a     1\nlong  2?\n"
        );
    }

    #[test]
    fn a_last_column_ends_where_the_terminal_does() {
        let error = "upstream é failed: status 500 and more".to_owned();
        let rows = vec![
            vec!["a".to_owned(), error.clone()],
            vec!["b".to_owned(), "short".to_owned()],
        ];
        let headings = [("ID", false), ("LAST ERROR", false)];
        let lines = |width| {
            let text = table(&headings, rows.clone(), false, width);
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines(None)[1], format!("a   {error}"));
        assert_eq!(lines(Some(80))[1], format!("a   {error}"));
        assert_eq!(lines(Some(30))[1], "a   upstream é failed: status…");
        assert_eq!(lines(Some(30))[2], "b   short");
        // Too narrow for any of it.
        assert_eq!(lines(Some(5))[1], "a   upstream é failed:…");
    }

    #[test]
    fn numbers_are_short() {
        let spans = [
            (0, "0ms"),
            (999, "999ms"),
            (4_250, "4.2s"),
            (59_999, "59.9s"),
            (187_000, "3m 07s"),
            (7_500_000, "2h 05m"),
        ];
        for (ms, expected) in spans {
            assert_eq!(span(ms), expected);
        }
        let sizes = [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_048_560, "1.0 MiB"),
            (12_900_000, "12.3 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ];
        for (bytes, expected) in sizes {
            assert_eq!(size(bytes), expected);
        }
        assert_eq!(progress(1 << 20, Some(4 << 20)), "1.0 MiB of 4.0 MiB (25%)");
        assert_eq!(progress(5, Some(0)), "5 B");
        assert_eq!(progress(5, None), "5 B");
    }
}
