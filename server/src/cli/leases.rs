//! `corral leases`: who is fetching what, for an operator in front of a running server.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use lease::{LeaseToken, PAGE_LIMIT_MAX};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::admin_client::{AdminClient, AdminError};
use super::table::{pairs, printable, progress, span, table};
use super::{EXIT_FAILURE, EXIT_GONE, EXIT_USAGE, complain_to};
use crate::admin::leases::LeaseItem;
use crate::config::{ClientFlags, ClientSettings, Environment};

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// The flags of `corral leases`.
#[derive(Args, Clone, Debug, Default)]
pub struct LeasesArgs {
    /// The admin listener to ask [default: from admin_listen] [env: CORRAL_ADMIN]
    #[arg(long, value_name = "URL", global = true)]
    admin: Option<String>,
    /// File with its token [default: admin.token_file] [env: CORRAL_ADMIN__TOKEN_FILE]
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// The server's configuration file, where the two above come from [env: CORRAL_CONFIG]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    json: bool,
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

/// The flags of `corral leases list`.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Only keys with this text in them
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
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

/// What a command talks to: two outputs, an input, and whether a person is there.
pub struct Console<'a> {
    /// Results.
    pub out: &'a mut dyn Write,
    /// Questions and complaints.
    pub err: &'a mut dyn Write,
    /// Answers to questions.
    pub input: &'a mut dyn BufRead,
    /// Whether results go to a terminal that shows colours.
    pub is_rich: bool,
    /// Whether there is somebody to ask.
    pub can_ask: bool,
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
    let flags = ClientFlags {
        admin: args.admin.clone(),
        token_file: args.token_file.clone(),
        config: args.config.clone(),
    };
    let settings = match ClientSettings::read(&flags, environment) {
        Ok(settings) => settings,
        Err(mistakes) => {
            super::complain(&mistakes.to_string());
            return Ok(EXIT_USAGE);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    let (is_rich, can_ask) = (
        settings.colours && out.is_terminal(),
        io::stdin().is_terminal() && err.is_terminal(),
    );
    let mut console = Console {
        out: &mut out,
        err: &mut err,
        input: &mut io::stdin().lock(),
        is_rich,
        can_ask,
    };
    let ran = runtime.block_on(ask(args, &settings, &mut console));
    match ran {
        // Whoever closed the pipe has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        other => other,
    }
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
    let ended = match AdminClient::new(settings) {
        Ok(client) => match args.command.clone() {
            None => list(&client, &ListArgs::default(), args.json, console).await,
            Some(LeasesCommand::List(list_args)) => {
                list(&client, &list_args, args.json, console).await
            }
            Some(LeasesCommand::Show { key }) => show(&client, &key, args.json, console).await,
            Some(LeasesCommand::Break(order)) => {
                break_lease(&client, &order, args.json, console).await
            }
        },
        Err(error) => Err(error.into()),
    };
    let code = match ended {
        Ok(code) => code,
        Err(Failure::Output(error)) => return Err(error),
        Err(Failure::Admin(error)) => {
            complain_to(console.err, &error.to_string());
            exit_code_of(&error)
        }
    };
    console.out.flush()?;
    Ok(code)
}

/// Why a command ended without doing what it was asked.
enum Failure {
    Admin(AdminError),
    Output(io::Error),
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        Self::Admin(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn exit_code_of(error: &AdminError) -> u8 {
    match error {
        AdminError::Url(_) => EXIT_USAGE,
        AdminError::Refused { status, body, .. } if !body.is_null() => match *status {
            StatusCode::BAD_REQUEST => EXIT_USAGE,
            StatusCode::NOT_FOUND | StatusCode::CONFLICT => EXIT_GONE,
            _ => EXIT_FAILURE,
        },
        _ => EXIT_FAILURE,
    }
}

async fn list(
    client: &AdminClient,
    args: &ListArgs,
    as_json: bool,
    console: &mut Console<'_>,
) -> Result<u8, Failure> {
    loop {
        let listing = Listing::read(client, args).await?;
        if as_json {
            writeln!(console.out, "{:#}", listing.json)?;
            return Ok(0);
        }
        if args.watch && console.is_rich {
            // To the upper left corner, and clear what is below.
            write!(console.out, "\x1b[H\x1b[J")?;
        }
        write!(console.out, "{}", listing.text(args, console.is_rich))?;
        if !args.watch {
            return Ok(0);
        }
        writeln!(console.out)?;
        console.out.flush()?;
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// The leases that one command shows, from as many pages as that takes.
struct Listing {
    items: Vec<LeaseItem>,
    /// What all pages together say.
    json: Value,
}

impl Listing {
    async fn read(client: &AdminClient, args: &ListArgs) -> Result<Self, AdminError> {
        let limit = args.limit as usize;
        let (mut items, mut scope) = (Vec::new(), Value::Null);
        let mut next = Value::Null;
        while items.len() < limit {
            let page_limit = (limit - items.len()).min(PAGE_LIMIT_MAX).to_string();
            let mut query = vec![("limit", page_limit.as_str())];
            query.extend(args.filter.as_deref().map(|filter| ("filter", filter)));
            query.extend(next.as_str().map(|after| ("after", after)));
            let mut page = client.get(&["leases"], &query).await?;
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

    fn text(&self, args: &ListArgs, is_rich: bool) -> String {
        let of = match self.json["scope"].as_str() {
            Some("fleet") => "this fleet",
            _ => "this instance",
        };
        if self.items.is_empty() {
            return match args.filter.as_deref() {
                Some(filter) => format!("no leases with {:?} in the key\n", printable(filter)),
                None => format!("no leases: {of} fetches nothing now\n"),
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
        let rows = self.items.iter().map(|item| {
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
        let mut text = table(&headings, rows.collect(), is_rich);
        let count = self.items.len();
        let leases = if count == 1 { "lease" } else { "leases" };
        text += &match self.json["next"].is_null() {
            true => format!("\n{count} {leases} of {of}\n"),
            false => format!("\nthe first {count} {leases} of {of}; see --limit and --filter\n"),
        };
        text
    }
}

async fn show(
    client: &AdminClient,
    key: &str,
    as_json: bool,
    console: &mut Console<'_>,
) -> Result<u8, Failure> {
    let (item, json) = one(client, key).await?;
    match as_json {
        true => writeln!(console.out, "{json:#}")?,
        false => write!(console.out, "{}", details(&item))?,
    }
    Ok(0)
}

async fn one(client: &AdminClient, key: &str) -> Result<(LeaseItem, Value), AdminError> {
    let json = client.get(&["leases", key], &[]).await?;
    match serde_json::from_value(json.clone()) {
        Ok(item) => Ok((item, json)),
        Err(_) => Err(client.not_understood()),
    }
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
            let (item, _) = one(client, &order.key).await?;
            // Programs read one object on the output; what a person decides by stands beside it.
            let shown: &mut dyn Write = if as_json { console.err } else { console.out };
            write!(shown, "{}", details(&item))?;
            if !order.yes {
                if !console.can_ask {
                    let line = "nobody to ask here, so nothing was changed: say --yes, or which \
                                grant with --token TOKEN";
                    complain_to(console.err, line);
                    return Ok(EXIT_USAGE);
                }
                if !confirmed(console)? {
                    complain_to(console.err, "nothing was changed");
                    return Ok(EXIT_FAILURE);
                }
            }
            item.token
        }
    };
    let body = json!({ "key": order.key, "token": token });
    let broken = client.act(&["leases", "break"], &body).await;
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

/// Asks the person; only a clear yes is one.
fn confirmed(console: &mut Console<'_>) -> io::Result<bool> {
    console.out.flush()?;
    write!(
        console.err,
        "Break this lease? Its holder stops, and whoever waits starts over. [y/N] "
    )?;
    console.err.flush()?;
    let mut answer = String::new();
    console.input.read_line(&mut answer)?;
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}

#[cfg(test)]
mod tests;
