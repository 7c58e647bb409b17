//! `corral leases`: who is fetching what, for an operator in front of a running server.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use lease::LeaseToken;
use reqwest::StatusCode;
use serde_json::json;

use super::admin_client::{AdminClient, AdminError};
use super::listing::{self, ListArgs, Listing, one};
use super::session::{self, Console, Failure, ServerArgs};
use super::table::{pairs, printable, progress, span, table};
use super::{EXIT_GONE, complain_to};
use crate::admin::leases::LeaseItem;
use crate::config::{ClientSettings, Environment};

/// The resource of the admin API.
const LEASES: &str = "leases";

/// The flags of `corral leases`.
#[derive(Args, Clone, Debug, Default)]
pub struct LeasesArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// What to do; `list` when left out.
    #[command(subcommand)]
    command: Option<LeasesCommand>,
}

/// What can be done with leases.
#[derive(Subcommand, Clone, Debug)]
pub enum LeasesCommand {
    /// List who holds what, since when and how far (the default)
    List(ListArgs),
    /// Show one lease
    Show {
        /// What is leased, as the list shows it, such as example.com/m@v1.0.0.zip
        key: String,
    },
    /// End a lease: its holder stops, and whoever waits competes for it anew
    Break(BreakArgs),
}

impl Default for LeasesCommand {
    fn default() -> Self {
        Self::List(ListArgs::default())
    }
}

/// The flags of `corral leases break`.
#[derive(Args, Clone, Debug)]
pub struct BreakArgs {
    /// What is leased, as the list shows it
    key: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Break this grant and no other, without asking
    #[arg(long, value_name = "TOKEN")]
    token: Option<LeaseToken>,
}

/// Asks the server and prints what it says; returns the exit code.
///
/// 0: done. 1: no answer, a refusal, or the question was answered with no. 2: the command line or
/// the configuration is wrong. 3: nobody holds the lease, or another grant is in force by now.
///
/// # Errors
///
/// An output cannot be written.
pub fn run(args: &LeasesArgs, environment: &Environment) -> io::Result<u8> {
    session::run(&args.server, environment, async |settings, console| {
        ask(args, settings, console).await
    })
}

/// As [`run`], with everything handed in.
///
/// # Errors
///
/// An output cannot be written.
pub async fn ask(
    args: &LeasesArgs,
    settings: &ClientSettings,
    console: &mut Console<'_>,
) -> io::Result<u8> {
    let as_json = args.server.json;
    session::ask(settings, console, async |client, console| {
        match args.command.clone().unwrap_or_default() {
            LeasesCommand::List(args) => list(client, &args, as_json, console).await,
            LeasesCommand::Show { key } => show(client, &key, as_json, console).await,
            LeasesCommand::Break(order) => break_lease(client, &order, as_json, console).await,
        }
    })
    .await
}

async fn list(
    client: &AdminClient,
    args: &ListArgs,
    as_json: bool,
    console: &mut Console<'_>,
) -> Result<u8, Failure> {
    let text = |listing: &Listing<LeaseItem>, console: &Console<'_>| -> String {
        listing_text(listing, args.filter.as_deref(), console.is_rich)
    };
    listing::show(client, LEASES, args, as_json, console, text).await
}

fn listing_text(listing: &Listing<LeaseItem>, filter: Option<&str>, is_rich: bool) -> String {
    if listing.items.is_empty() {
        return match filter {
            Some(filter) => format!("no leases with {:?} in the key\n", printable(filter)),
            None => format!("no leases: {} fetches nothing now\n", listing.of()),
        };
    }
    let headings = [
        ("KEY", false),
        ("HOLDER", false),
        ("ADDRESS", false),
        ("AGE", true),
        ("LEFT", true),
        ("WAITERS", true),
        ("BYTES", false),
    ];
    let rows = listing.items.iter().map(|item| {
        vec![
            item.key.clone(),
            item.instance.clone(),
            item.address.clone().unwrap_or_else(|| "-".to_owned()),
            span(item.age_ms),
            span(item.expires_in_ms),
            item.waiters.to_string(),
            progress(item.bytes, item.total),
        ]
    });
    let text = table(&headings, rows.collect(), is_rich, None);
    text + &listing.footer("lease", "leases")
}

async fn show(
    client: &AdminClient,
    key: &str,
    as_json: bool,
    console: &mut Console<'_>,
) -> Result<u8, Failure> {
    let (item, json) = one(client, LEASES, key).await?;
    match as_json {
        true => writeln!(console.out, "{json:#}")?,
        false => write!(console.out, "{}", details(&item))?,
    }
    Ok(0)
}

fn details(item: &LeaseItem) -> String {
    pairs(&[
        ("key", item.key.clone()),
        ("token", item.token.to_string()),
        ("holder", item.instance.clone()),
        (
            "address",
            item.address.clone().unwrap_or_else(|| "-".to_owned()),
        ),
        ("age", span(item.age_ms)),
        (
            "left",
            format!("{} unless renewed", span(item.expires_in_ms)),
        ),
        ("bytes", progress(item.bytes, item.total)),
        ("waiters", item.waiters.to_string()),
    ])
}

async fn break_lease(
    client: &AdminClient,
    order: &BreakArgs,
    as_json: bool,
    console: &mut Console<'_>,
) -> Result<u8, Failure> {
    let token = match order.token {
        Some(token) => token,
        None => {
            let (item, _) = one(client, LEASES, &order.key).await?;
            // Programs read one object on the output; what a person decides by stands beside it.
            let shown: &mut dyn Write = if as_json { console.err } else { console.out };
            write!(shown, "{}", details(&item))?;
            if !order.yes {
                let question = "Break this lease? Its holder stops, and whoever waits starts over.";
                let instead = "say --yes, or which grant with --token TOKEN";
                if let Err(code) = console.confirmed(question, instead)? {
                    return Ok(code);
                }
            }
            item.token
        }
    };
    let body = json!({ "key": order.key, "token": token });
    let broken = client.act(&[LEASES, "break"], &body).await;
    if let Err(AdminError::Refused { status, body, .. }) = &broken
        && *status == StatusCode::CONFLICT
    {
        let in_force = body["token"].as_str().unwrap_or("none any more");
        let line = format!(
            "{} has moved on, so nothing was changed: you showed {token}, in force is {}; look \
             again with: corral leases show {0}",
            printable(&order.key),
            printable(in_force)
        );
        complain_to(console.err, &line);
        return Ok(EXIT_GONE);
    }
    let answer = broken?;
    match as_json {
        true => writeln!(console.out, "{answer:#}")?,
        false => writeln!(
            console.out,
            "broken: {} (token {token})",
            printable(&order.key)
        )?,
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
