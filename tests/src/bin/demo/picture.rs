//! What is seen at one moment, as lines of text.

use std::time::Duration;

use super::screen::{Paint, Style};

/// Events that the picture shows, the latest last.
const EVENTS_SHOWN: usize = 8;

/// Cells of a progress bar.
const BAR_CELLS: usize = 24;

/// What an instance does with the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Idle,
    Holds,
    Follows,
    Serves,
    Dead,
}

impl Role {
    fn words(self) -> (&'static str, Style) {
        match self {
            Self::Idle => ("idle", Style::Dim),
            Self::Holds => ("fetches", Style::Busy),
            Self::Follows => ("reads along", Style::Bold),
            Self::Serves => ("has it stored", Style::Good),
            Self::Dead => ("killed", Style::Bad),
        }
    }
}

/// One instance at one moment.
#[derive(Debug, Clone)]
pub(crate) struct InstanceNow {
    pub(crate) name: char,
    pub(crate) role: Role,
    /// Clients that wait or read.
    pub(crate) clients: usize,
    /// Of them, those that have the whole file.
    pub(crate) finished: usize,
    /// The slowest client's first byte, once all have theirs.
    pub(crate) first_byte: Option<Duration>,
    /// Share of the file that its clients have, 0 to 1.
    pub(crate) share: f64,
}

/// A lease at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseNow {
    pub(crate) key: String,
    pub(crate) holder: Option<char>,
    pub(crate) age: Duration,
    pub(crate) expires_in: Duration,
}

/// Everything at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Now {
    pub(crate) title: &'static str,
    pub(crate) elapsed: Duration,
    pub(crate) file_bytes: u64,
    pub(crate) upstream_requests: u64,
    /// Bytes that upstream has sent for its latest request.
    pub(crate) upstream_bytes: u64,
    pub(crate) instances: Vec<InstanceNow>,
    pub(crate) lease: Option<LeaseNow>,
}

impl Now {
    /// All lines, always as many.
    pub(crate) fn lines(&self, events: &[String], paint: Paint) -> Vec<String> {
        let clock = format!("{:>5.1} s", self.elapsed.as_secs_f64());
        let mut lines = vec![
            String::new(),
            format!(
                " {}{clock}",
                paint.text(Style::Bold, &format!("{:<66}", self.title))
            ),
            String::new(),
        ];
        let times = if self.upstream_requests == 1 {
            "request "
        } else {
            "requests"
        };
        let sent = self.upstream_bytes as f64 / self.file_bytes.max(1) as f64;
        lines.push(format!(
            " upstream   {} {times}     {}  {}",
            paint.text(Style::Bold, &self.upstream_requests.to_string()),
            bar(sent),
            megabytes(self.upstream_bytes, self.file_bytes),
        ));
        lines.push(String::new());
        let head = format!(
            " {:<10} {:<14} {:<25}  {:<11} {:>10}",
            "instance", "does", "what its clients have", "first byte", "finished"
        );
        lines.push(paint.text(Style::Dim, head.trim_end()));
        lines.extend(self.instances.iter().map(|instance| instance.line(paint)));
        lines.push(String::new());
        lines.push(self.lease_line(paint));
        lines.push(String::new());
        let skipped = events.len().saturating_sub(EVENTS_SHOWN);
        lines.extend(events[skipped..].iter().map(|event| format!(" {event}")));
        lines.resize(
            lines.len() + EVENTS_SHOWN - (events.len() - skipped),
            String::new(),
        );
        lines
    }

    fn lease_line(&self, paint: Paint) -> String {
        let Some(lease) = &self.lease else {
            return format!(" lease      {}", paint.text(Style::Dim, "none"));
        };
        let holder = lease.holder.map_or_else(|| "?".to_owned(), String::from);
        format!(
            " lease      {}  held by {} for {:.1} s, ends in {:.1} s",
            lease.key,
            paint.text(Style::Busy, &holder),
            lease.age.as_secs_f64(),
            lease.expires_in.as_secs_f64(),
        )
    }

    /// The same in one line.
    pub(crate) fn headline(&self) -> String {
        let shares: Vec<String> = self
            .instances
            .iter()
            .map(|instance| {
                let (does, _) = instance.role.words();
                format!("{} {does} {:.0} %", instance.name, 100.0 * instance.share)
            })
            .collect();
        format!(
            "{:>5.1} s  upstream requests: {}; {}",
            self.elapsed.as_secs_f64(),
            self.upstream_requests,
            shares.join(", ")
        )
    }
}

impl InstanceNow {
    fn line(&self, paint: Paint) -> String {
        let (does, style) = self.role.words();
        let first = self
            .first_byte
            .map_or_else(|| "-".to_owned(), |at| format!("{:.2} s", at.as_secs_f64()));
        format!(
            " {:<10} {}  {}  {first:<11} {:>10}",
            self.name,
            paint.text(style, &format!("{does:<13}")),
            bar(self.share),
            format!("{} of {}", self.finished, self.clients),
        )
    }
}

/// A bar that is full at 1.
pub(crate) fn bar(share: f64) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (BAR_CELLS * 8) as f64).round() as usize;
    let parts = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let mut text: String = "█".repeat(eighths / 8);
    let mut cells = eighths / 8;
    if !eighths.is_multiple_of(8) {
        text.push(parts[eighths % 8]);
        cells += 1;
    }
    text.push_str(&"·".repeat(BAR_CELLS - cells));
    text
}

fn megabytes(part: u64, whole: u64) -> String {
    format!("{:.1} of {:.1} MB", part as f64 / 1e6, whole as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_always_as_wide() {
        for percent in 0..=110 {
            let bar = bar(f64::from(percent) / 100.0);
            assert_eq!(bar.chars().count(), BAR_CELLS, "{percent}: {bar}");
        }
        assert_eq!(bar(0.0), "·".repeat(BAR_CELLS));
        assert_eq!(bar(1.0), "█".repeat(BAR_CELLS));
    }

    #[test]
    fn the_picture_is_always_as_high_and_fits_a_terminal() {
        let instance = |name, role| InstanceNow {
            name,
            role,
            clients: 30,
            finished: 7,
            first_byte: Some(Duration::from_millis(412)),
            share: 0.4,
        };
        let mut now = Now {
            title: "A herd on a cold file",
            elapsed: Duration::from_secs(12),
            file_bytes: 16_000_000,
            upstream_requests: 1,
            upstream_bytes: 6_400_000,
            instances: vec![
                instance('A', Role::Holds),
                instance('B', Role::Follows),
                instance('C', Role::Dead),
            ],
            lease: None,
        };
        let without = now.lines(&[], Paint::PLAIN);
        now.lease = Some(LeaseNow {
            key: "example.com/engine@v1.4.0.zip".to_owned(),
            holder: Some('A'),
            age: Duration::from_secs(12),
            expires_in: Duration::from_secs(5),
        });
        let events = vec!["an event".to_owned(); 50];
        let with = now.lines(&events, Paint::PLAIN);
        assert_eq!(without.len(), with.len());
        let widest = with.iter().map(|line| line.chars().count()).max();
        assert!(widest.is_some_and(|widest| widest <= 80), "{with:#?}");
        assert!(
            now.headline().contains("A fetches 40 %"),
            "{}",
            now.headline()
        );
    }
}
