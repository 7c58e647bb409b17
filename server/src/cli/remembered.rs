//! What `corral negatives` and `corral failures` share: units that something is remembered of.

use super::admin_client::AdminClient;
use super::listing::{self, ListArgs, Listing, one};
use super::orders::{Which, Words, give};
use super::session::{Console, Failure};
use super::table::{pairs, printable, size, span, table};
use crate::admin::remembered::RememberedItem;

/// What is said of units that were forgotten.
const FORGOTTEN: Words = Words {
    field: "unit",
    done: "forgotten",
    one: "unit",
    many: "units",
};

/// Shows one of the two lists; `empty` is what there is nothing of.
pub(super) async fn list(
    client: &AdminClient,
    resource: &str,
    empty: &str,
    args: &ListArgs,
    as_json: bool,
    console: &mut Console<'_>,
) -> Result<u8, Failure> {
    let text = |listing: &Listing<RememberedItem>, console: &Console<'_>| {
        if !listing.items.is_empty() {
            return rows(listing, console) + &listing.footer("unit", "units");
        }
        match args.filter.as_deref() {
            Some(filter) => format!("no {resource} with {:?} in the unit\n", printable(filter)),
            None => format!(
                "no {resource}: {} remembers no unit {empty}\n",
                listing.of()
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
pub(super) async fn show(
    client: &AdminClient,
    resource: &str,
    unit: &str,
    as_json: bool,
    console: &mut Console<'_>,
) -> Result<u8, Failure> {
    let (item, json) = one::<RememberedItem>(client, resource, unit).await?;
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

/// Forgets what `which` says.
pub(super) async fn forget(
    client: &AdminClient,
    resource: &str,
    which: &Which,
    as_json: bool,
    console: &mut Console<'_>,
) -> Result<u8, Failure> {
    give(
        client, resource, "forget", which, &FORGOTTEN, as_json, console,
    )
    .await
}

#[cfg(test)]
mod tests;
