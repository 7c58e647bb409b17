//! Lists of the admin API, from as many pages as they take.

use std::time::Duration;

use clap::Args;
use lease::PAGE_LIMIT_MAX;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::admin_client::{AdminClient, AdminError};
use super::session::{Console, Failure};

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// The flags of every `list`.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Only those with this text in their names
    #[arg(long, value_name = "TEXT")]
    pub(super) filter: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Look again every second until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

impl Default for ListArgs {
    fn default() -> Self {
        Self {
            filter: None,
            limit: 1_000,
            watch: false,
        }
    }
}

/// What one command shows.
pub(super) struct Listing<T> {
    /// In the order of their names.
    pub(super) items: Vec<T>,
    /// What all pages together say.
    json: Value,
}

impl<T: DeserializeOwned> Listing<T> {
    /// Reads at most `limit` items of `resource` with `filter` in their names.
    pub(super) async fn read(
        client: &AdminClient,
        resource: &str,
        filter: Option<&str>,
        limit: usize,
    ) -> Result<Self, AdminError> {
        let (mut items, mut scope) = (Vec::new(), Value::Null);
        let mut next = Value::Null;
        while items.len() < limit {
            let page_limit = (limit - items.len()).min(PAGE_LIMIT_MAX).to_string();
            let mut query = vec![("limit", page_limit.as_str())];
            query.extend(filter.map(|filter| ("filter", filter)));
            query.extend(next.as_str().map(|after| ("after", after)));
            let mut page = client.get(&[resource], &query).await?;
            scope = page["scope"].take();
            let Value::Array(page_items) = page["items"].take() else {
                return Err(client.not_understood());
            };
            items.extend(page_items);
            let before = std::mem::replace(&mut next, page["next"].take());
            // A server that repeats itself must not keep us here for ever.
            if next.is_null() || next == before {
                break;
            }
        }
        let json = json!({ "scope": scope, "items": items, "next": next });
        let items = items.into_iter().map(serde_json::from_value);
        let items = items.collect::<Result<_, _>>();
        match items {
            Ok(items) => Ok(Self { items, json }),
            Err(_) => Err(client.not_understood()),
        }
    }
}

impl<T> Listing<T> {
    /// Whom the items belong to.
    pub(super) fn of(&self) -> &'static str {
        match self.json["scope"].as_str() {
            Some("fleet") => "this fleet",
            _ => "this instance",
        }
    }

    /// The line below a table of `one` thing or `many`.
    pub(super) fn footer(&self, one: &str, many: &str) -> String {
        let (count, of) = (self.items.len(), self.of());
        let things = if count == 1 { one } else { many };
        match self.json["next"].is_null() {
            true => format!("\n{count} {things} of {of}\n"),
            false => format!("\nthe first {count} {things} of {of}; see --limit and --filter\n"),
        }
    }
}

/// Shows `resource` as JSON or as `text` has it; once, or again and again.
pub(super) async fn show<T: DeserializeOwned>(
    client: &AdminClient,
    resource: &str,
    args: &ListArgs,
    as_json: bool,
    console: &mut Console<'_>,
    text: impl Fn(&Listing<T>, &Console<'_>) -> String,
) -> Result<u8, Failure> {
    loop {
        let (filter, limit) = (args.filter.as_deref(), args.limit as usize);
        let listing = Listing::read(client, resource, filter, limit).await?;
        if as_json {
            writeln!(console.out, "{:#}", listing.json)?;
            return Ok(0);
        }
        if args.watch && console.is_rich {
            // To the upper left corner, and clear what is below.
            write!(console.out, "\x1b[H\x1b[J")?;
        }
        let shown = text(&listing, console);
        write!(console.out, "{shown}")?;
        if !args.watch {
            return Ok(0);
        }
        writeln!(console.out)?;
        console.out.flush()?;
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Reads one thing of `resource`, as it is and as it was sent.
pub(super) async fn one<T: DeserializeOwned>(
    client: &AdminClient,
    resource: &str,
    name: &str,
) -> Result<(T, Value), AdminError> {
    let json = client.get(&[resource, name], &[]).await?;
    match serde_json::from_value(json.clone()) {
        Ok(item) => Ok((item, json)),
        Err(_) => Err(client.not_understood()),
    }
}
