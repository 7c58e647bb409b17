//! Where the demo is seen: one picture that is redrawn in place, or plain lines.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Without a terminal the picture is reduced to its headline, this often.
const HEADLINE_EVERY: Duration = Duration::from_secs(2);

/// How a text stands out on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Bold,
    Dim,
    Good,
    Bad,
    Busy,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Busy => "33",
        }
    }
}

/// Paints texts, or leaves them as they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint(bool);

impl Paint {
    /// Leaves every text as it is.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self(false);

    pub(crate) fn text(self, style: Style, text: &str) -> String {
        if self.0 {
            format!("\x1b[{}m{text}\x1b[0m", style.code())
        } else {
            text.to_owned()
        }
    }
}

/// Standard output.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: bool,
    /// Lines of the picture that stands on the terminal now.
    height: usize,
    headline_at: Option<Instant>,
}

impl Screen {
    pub(crate) fn open() -> Self {
        let terminal = std::io::stdout().is_terminal()
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let screen = Self {
            terminal,
            height: 0,
            headline_at: None,
        };
        if terminal {
            // A cursor that jumps over the picture would be all that one sees.
            write("\x1b[?25l");
        }
        screen
    }

    pub(crate) fn paint(&self) -> Paint {
        Paint(self.terminal && std::env::var_os("NO_COLOR").is_none())
    }

    /// Shows the picture in place of the one before; `headline` is what remains of it without a
    /// terminal.
    pub(crate) fn show(&mut self, picture: &[String], headline: &str) {
        if !self.terminal {
            if self
                .headline_at
                .is_none_or(|at| at.elapsed() >= HEADLINE_EVERY)
            {
                self.headline_at = Some(Instant::now());
                write(&format!("{headline}\n"));
            }
            return;
        }
        // One write, so that no half of a picture is ever seen.
        let mut text = String::new();
        if self.height > 0 {
            text.push_str(&format!("\x1b[{}A", self.height));
        }
        for line in picture {
            text.push_str(&format!("\r\x1b[2K{line}\n"));
        }
        text.push_str("\x1b[J");
        write(&text);
        self.height = picture.len();
    }

    /// Tells what happened, where no picture shows it.
    pub(crate) fn tell(&mut self, event: &str) {
        if !self.terminal {
            write(&format!("{event}\n"));
        }
    }

    /// Writes lines that stay, below the picture.
    pub(crate) fn leave(&mut self, lines: &[String]) {
        self.height = 0;
        for line in lines {
            write(&format!("{line}\n"));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal {
            write("\x1b[?25h");
        }
    }
}

/// A closed standard output must not end the demo before it has cleared up.
fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
