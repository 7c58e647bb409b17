//! What `corral retries` and `corral dead` share: jobs as tables, and dropping them.

use std::io::Write;

use clap::Args;

use super::admin_client::AdminClient;
use super::listing::{self, ListArgs, Listing, one};
use super::orders::{Which, Words, changes, give};
use super::session::{Console, Failure};
use super::table::{pairs, printable, span, table};
use crate::admin::jobs::JobItem;

/// Most jobs that are counted before a question about all of them.
const COUNTED_MAX: usize = 100_000;

/// The flags of `drop`.
#[derive(Args, Clone, Debug)]
pub struct DropArgs {
    #[command(flatten)]
    pub(super) which: Which,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// What is said of jobs that an order was carried out on.
pub(super) fn words(done: &'static str) -> Words {
    Words {
        field: "id",
        done,
        one: "job",
        many: "jobs",
    }
}

/// Shows one of the two lists.
pub(super) async fn list(
    client: &AdminClient,
    resource: &str,
    args: &ListArgs,
    as_json: bool,
    console: &mut Console<'_>,
    text: impl Fn(&Listing<JobItem>, &Console<'_>) -> String,
) -> Result<u8, Failure> {
    let text = |listing: &Listing<JobItem>, console: &Console<'_>| match (
        listing.items.is_empty(),
        args.filter.as_deref(),
    ) {
        (true, Some(filter)) => format!("no jobs with {:?} in the id\n", printable(filter)),
        _ => text(listing, console),
    };
    listing::show(client, resource, args, as_json, console, text).await
}

/// Shows one job.
pub(super) async fn show(
    client: &AdminClient,
    resource: &str,
    id: &str,
    as_json: bool,
    console: &mut Console<'_>,
) -> Result<u8, Failure> {
    let (item, json) = one(client, resource, id).await?;
    match as_json {
        true => writeln!(console.out, "{json:#}")?,
        false => write!(console.out, "{}", details(&item))?,
    }
    Ok(0)
}

/// The table of waiting jobs.
pub(super) fn waiting(listing: &Listing<JobItem>, console: &Console<'_>) -> String {
    let headings = [
        ("ID", false),
        ("KIND", false),
        ("STATE", false),
        ("ATTEMPTS", true),
        ("AGE", true),
        ("DUE IN", true),
        ("LAST ERROR", false),
    ];
    let rows = listing.items.iter().map(|item| {
        vec![
            item.id.clone(),
            item.kind.clone(),
            item.state.clone(),
            item.attempts.to_string(),
            span(item.age_ms),
            due(item),
            last_error(item),
        ]
    });
    table(&headings, rows.collect(), console.is_rich, console.width)
}

/// The table of dead jobs.
pub(super) fn dead(listing: &Listing<JobItem>, console: &Console<'_>) -> String {
    let headings = [
        ("ID", false),
        ("KIND", false),
        ("ATTEMPTS", true),
        ("AGE", true),
        ("DEAD FOR", true),
        ("LAST ERROR", false),
    ];
    let rows = listing.items.iter().map(|item| {
        vec![
            item.id.clone(),
            item.kind.clone(),
            item.attempts.to_string(),
            span(item.age_ms),
            item.dead_for_ms.map_or_else(|| "-".to_owned(), span),
            last_error(item),
        ]
    });
    table(&headings, rows.collect(), console.is_rich, console.width)
}

fn due(item: &JobItem) -> String {
    match item.due_in_ms {
        None => "-".to_owned(),
        Some(0) => "now".to_owned(),
        Some(ms) => span(ms),
    }
}

/// The newest error alone; a table has no room for a history.
fn last_error(item: &JobItem) -> String {
    let newest = history(item).next();
    newest.unwrap_or_else(|| "-".to_owned())
}

/// The errors of the attempts, the newest first: `#2 …; #1 …`, taken apart. An error's own text may
/// have `; #` in it, so a number and a blank must follow.
fn history(item: &JobItem) -> impl Iterator<Item = String> {
    let mut rest = item.last_error.as_deref();
    std::iter::from_fn(move || {
        let text = rest?;
        let next = text.match_indices("; ").map(|(at, _)| at).find(|at| {
            let number = text[at + 2..].strip_prefix('#');
            let number = number.and_then(|behind| behind.split_once(' '));
            number.is_some_and(|(number, _)| {
                !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
            })
        });
        rest = next.map(|at| &text[at + 2..]);
        Some(text[..next.unwrap_or(text.len())].to_owned())
    })
}

fn details(item: &JobItem) -> String {
    let mut lines = vec![
        ("id", item.id.clone()),
        ("kind", item.kind.clone()),
        ("unit", item.unit.clone()),
        ("state", item.state.clone()),
        ("attempts", item.attempts.to_string()),
        ("age", span(item.age_ms)),
    ];
    if item.due_in_ms.is_some() {
        lines.push(("due in", due(item)));
    }
    if let Some(worker) = &item.worker {
        lines.push(("worker", worker.clone()));
    }
    if let Some(ms) = item.returns_in_ms {
        let returns = format!("{} unless its worker is heard of", span(ms));
        lines.push(("returns in", returns));
    }
    if let Some(ms) = item.dead_for_ms {
        lines.push(("dead for", span(ms)));
    }
    lines.push(("deadline in", span(item.deadline_in_ms)));
    let owner = item.owner.clone();
    lines.push(("owner", owner.unwrap_or_else(|| "any instance".to_owned())));
    for (i, error) in history(item).enumerate() {
        lines.push((if i == 0 { "errors" } else { "" }, error));
    }
    pairs(&lines)
}

/// Drops what `args` names, after a question: a dropped job is tried by nobody any more, and a
/// dropped upload gives up bytes that are nowhere else.
pub(super) async fn drop_jobs(
    client: &AdminClient,
    resource: &str,
    args: &DropArgs,
    as_json: bool,
    console: &mut Console<'_>,
) -> Result<u8, Failure> {
    let dropped = words("dropped");
    if !args.yes {
        let question = match &args.which.name {
            Some(id) => {
                let (item, _) = one::<JobItem>(client, resource, id).await?;
                // Programs read one object on the output; what a person decides by stands beside.
                let shown: &mut dyn Write = if as_json { console.err } else { console.out };
                write!(shown, "{}", details(&item))?;
                format!("Drop this job? {}", price(std::slice::from_ref(&item)))
            }
            None => {
                let filter = args.which.filter.as_deref();
                let found = Listing::<JobItem>::read(client, resource, filter, COUNTED_MAX).await?;
                let those = args.which.those(found.items.len() as u64, &dropped);
                if found.items.is_empty() {
                    match as_json {
                        true => changes(0, 0, console)?,
                        false => writeln!(console.out, "{those}: nothing was changed")?,
                    }
                    return Ok(0);
                }
                format!("Drop {those}? {}", price(&found.items))
            }
        };
        if let Err(code) = console.confirmed(&question, "say --yes")? {
            return Ok(code);
        }
    }
    give(
        client,
        resource,
        "drop",
        &args.which,
        &dropped,
        as_json,
        console,
    )
    .await
}

/// What is lost with these jobs.
fn price(items: &[JobItem]) -> String {
    match items.iter().filter(|item| item.kind == "upload").count() {
        0 => "Nothing is tried until a client asks again.".to_owned(),
        1 if items.len() == 1 => {
            "It has bytes that are nowhere else: they are given up.".to_owned()
        }
        1 => "One of them has bytes that are nowhere else: they are given up.".to_owned(),
        uploads => {
            format!("{uploads} of them have bytes that are nowhere else: they are given up.")
        }
    }
}
