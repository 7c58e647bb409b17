//! Orders about one thing by its name, or about all that match, as the command line gives them.

use clap::Args;
use serde_json::{Value, json};

use super::admin_client::{AdminClient, AdminError};
use super::session::{Console, Failure};
use super::table::printable;

/// Which things an order is about.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = true)]
pub struct Which {
    /// This one, named as the list shows it
    #[arg(conflicts_with_all = ["filter", "all"])]
    pub(super) name: Option<String>,
    /// All with this text in their names
    #[arg(long, value_name = "TEXT")]
    pub(super) filter: Option<String>,
    /// All of them, or with --filter all of those
    #[arg(long)]
    pub(super) all: bool,
}

impl Which {
    /// How many an order is about, in words: `3 jobs with "x" in the name`.
    pub(super) fn those(&self, count: u64, words: &Words) -> String {
        let things = if count == 1 { words.one } else { words.many };
        match self.filter.as_deref() {
            Some(filter) => format!("{count} {things} with {:?} in the name", printable(filter)),
            None => format!("{count} {things}"),
        }
    }
}

/// What to say of an order that was carried out.
pub(super) struct Words {
    /// The field that names one: `id` or `unit`.
    pub(super) field: &'static str,
    /// What became of it, such as `dropped`.
    pub(super) done: &'static str,
    /// What one is called.
    pub(super) one: &'static str,
    /// What any other number is called.
    pub(super) many: &'static str,
}

/// Gives `verb` of `resource` about what `which` says, and prints what came of it.
///
/// Many take as many requests as it needs; what was done when one fails is said on the way out.
pub(super) async fn give(
    client: &AdminClient,
    resource: &str,
    verb: &str,
    which: &Which,
    words: &Words,
    as_json: bool,
    console: &mut Console<'_>,
) -> Result<u8, Failure> {
    let segments = [resource, verb];
    if let Some(name) = &which.name {
        let answer = client.act(&segments, &json!({ words.field: name })).await?;
        match as_json {
            true => writeln!(console.out, "{answer:#}")?,
            false => writeln!(console.out, "{}: {}", words.done, printable(name))?,
        }
        return Ok(0);
    }
    let (mut changed, mut skipped, mut after) = (0_u64, 0_u64, Value::Null);
    loop {
        let body = match &which.filter {
            Some(filter) => json!({ "filter": filter, "after": after }),
            None => json!({ "all": true, "after": after }),
        };
        let tally = match client.act(&segments, &body).await {
            Ok(tally) => tally,
            Err(AdminError::Refused {
                status,
                message,
                body,
            }) if body["changed"].is_u64() => {
                changed += body["changed"].as_u64().unwrap_or_default();
                return Err(Failure::Admin(AdminError::Refused {
                    status,
                    message: format!("{changed} {} before this: {message}", words.done),
                    body,
                }));
            }
            Err(error) => return Err(error.into()),
        };
        changed += tally["changed"].as_u64().unwrap_or_default();
        skipped += tally["skipped"].as_u64().unwrap_or_default();
        let next = tally["next"].clone();
        // A server that repeats itself must not keep us here for ever.
        if next.is_null() || next == after {
            break;
        }
        after = next;
    }
    match as_json {
        true => changes(changed, skipped, console)?,
        false => {
            let those = which.those(changed, words);
            write!(console.out, "{}: {those}", words.done)?;
            match skipped {
                0 => writeln!(console.out)?,
                _ => writeln!(console.out, "; left as they are: {skipped}")?,
            }
        }
    }
    Ok(0)
}

/// Prints for a program what came of an order about many.
pub(super) fn changes(
    changed: u64,
    skipped: u64,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let answer = json!({ "changed": changed, "skipped": skipped });
    writeln!(console.out, "{answer:#}")?;
    Ok(())
}
