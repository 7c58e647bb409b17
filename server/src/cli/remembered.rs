//! `corral negatives` and `corral failures`: units that something is remembered of, for an operator
//! in front of a running server.

use std::io;

use clap::{Args, Subcommand};

use super::admin_client::AdminClient;
use super::listing::{self, ListArgs, Listing, one};
use super::orders::{Which, Words, give};
use super::session::{self, Console, Failure, ServerArgs};
use super::table::{pairs, printable, size, span, table};
use crate::admin::remembered::RememberedItem;
use crate::config::{ClientSettings, Environment};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Units that do not exist, as upstream said.
    Negatives,
    /// Units that failed, or whose bytes only one instance has.
    Failures,
}

impl Class {
    /// The resource of the admin API.
    fn resource(self) -> &'static str {
        match self {
            Self::Negatives => "negatives",
            Self::Failures => "failures",
        }
    }

    /// What no unit is remembered as, in an empty list.
    fn word(self) -> &'static str {
        match self {
            Self::Negatives => "absent",
            Self::Failures => "failed",
        }
    }
}

/// The flags of both.
#[derive(Args, Clone, Debug, Default)]
pub struct RememberedArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// What to do; `list` when left out.
    #[command(subcommand)]
    command: Option<RememberedCommand>,
}

/// What can be done with what is remembered.
#[derive(Subcommand, Clone, Debug)]
pub enum RememberedCommand {
    /// List the units, and the answer that clients get (the default)
    List(ListArgs),
    /// Show one
    Show {
        /// What was asked for, as the list shows it, such as example.com/m@v1.0.0.zip
        unit: String,
    },
    /// Ask upstream again with the next request
    Forget(Which),
}

impl Default for RememberedCommand {
    fn default() -> Self {
        Self::List(ListArgs::default())
    }
}

/// Asks the server and prints what it says; returns the exit code.
///
/// 0: done. 1: no answer, or a refusal. 2: the command line or the configuration is wrong. 3:
/// nothing of the class is remembered of the unit.
///
/// # Errors
///
/// An output cannot be written.
pub fn run(class: Class, args: &RememberedArgs, environment: &Environment) -> io::Result<u8> {
    session::run(&args.server, environment, async |settings, console| {
        ask(class, args, settings, console).await
    })
}

/// As [`run`], with everything handed in.
///
/// # Errors
///
/// An output cannot be written.
pub async fn ask(
    class: Class,
    args: &RememberedArgs,
    settings: &ClientSettings,
    console: &mut Console<'_>,
) -> io::Result<u8> {
    let as_json = args.server.json;
    session::ask(settings, console, async |client, console| {
        match args.command.clone().unwrap_or_default() {
            RememberedCommand::List(args) => list(client, class, &args, as_json, console).await,
            RememberedCommand::Show { unit } => show(client, class, &unit, as_json, console).await,
            RememberedCommand::Forget(which) => {
                let resource = class.resource();
                let words = &FORGOTTEN;
                give(client, resource, "forget", &which, words, as_json, console).await
            }
        }
    })
    .await
}

/// What is said of units that were forgotten.
const FORGOTTEN: Words = Words {
    field: "unit",
    done: "forgotten",
    one: "unit",
    many: "units",
};

async fn list(
    client: &AdminClient,
    class: Class,
    args: &ListArgs,
    as_json: bool,
    console: &mut Console<'_>,
) -> Result<u8, Failure> {
    let resource = class.resource();
    let text = |listing: &Listing<RememberedItem>, console: &Console<'_>| {
        if !listing.items.is_empty() {
            return rows(listing, console) + &listing.footer("unit", "units");
        }
        match args.filter.as_deref() {
            Some(filter) => format!("no {resource} with {:?} in the unit\n", printable(filter)),
            None => format!(
                "no {resource}: {} remembers no unit as {}\n",
                listing.of(),
                class.word()
            ),
        }
    };
    listing::show(client, resource, args, as_json, console, text).await
}

fn rows(listing: &Listing<RememberedItem>, console: &Console<'_>) -> String {
    let headings = [
        ("UNIT", false),
        ("KIND", false),
        ("LEFT", true),
        ("ANSWER", false),
    ];
    let rows = listing.items.iter().map(|item| {
        vec![
            item.unit.clone(),
            item.kind.clone(),
            span(item.expires_in_ms),
            answer(item),
        ]
    });
    table(&headings, rows.collect(), console.is_rich, console.width)
}

fn answer(item: &RememberedItem) -> String {
    match (&item.address, item.bytes) {
        (Some(address), Some(bytes)) => format!("{} from {address}", size(bytes)),
        (Some(address), None) => format!("from {address}"),
        // As upstream sent it, which ends a line.
        _ => item.text.trim_end().to_owned(),
    }
}

/// Shows what is remembered of one unit.
async fn show(
    client: &AdminClient,
    class: Class,
    unit: &str,
    as_json: bool,
    console: &mut Console<'_>,
) -> Result<u8, Failure> {
    let (item, json) = one::<RememberedItem>(client, class.resource(), unit).await?;
    if as_json {
        writeln!(console.out, "{json:#}")?;
        return Ok(0);
    }
    let mut lines = vec![
        ("unit", item.unit.clone()),
        ("kind", item.kind.clone()),
        ("answer", answer(&item)),
    ];
    if let Some(ms) = item.retry_after_ms {
        lines.push(("retry after", span(ms)));
    }
    lines.push((
        "left",
        format!("{} until it is forgotten", span(item.expires_in_ms)),
    ));
    write!(console.out, "{}", pairs(&lines))?;
    Ok(0)
}

#[cfg(test)]
mod tests;
