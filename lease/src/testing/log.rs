//! What was said to operators, kept so that a test can ask for it.

use std::fmt::{self, Write as _};
use std::sync::{Mutex, OnceLock};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::sync::lock;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
static STARTED: OnceLock<()> = OnceLock::new();

/// Keeps what all threads say from now on.
///
/// One log for all tests of the program, since what runs on threads of its own has no other: a test
/// asks for what only its own lines say, such as a path or a port.
pub(crate) fn keep() {
    STARTED.get_or_init(|| {
        tracing::subscriber::set_global_default(Keeper).expect("no other test sets one");
    });
}

/// Returns the warnings and errors that have all of `texts` in them.
pub(crate) fn warnings_with(texts: &[&str]) -> Vec<String> {
    let lines = lock(&LINES);
    let wanted = |line: &&String| texts.iter().all(|text| line.contains(text));
    lines.iter().filter(wanted).cloned().collect()
}

#[derive(Debug)]
struct Keeper;

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.is_event()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        lock(&LINES).push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).expect("a text can always be written to");
    }
}
