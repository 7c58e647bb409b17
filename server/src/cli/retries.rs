//! `corral retries`: what failed and is tried again, for an operator in front of a running server.

use std::io;

use clap::{Args, Subcommand};

use super::jobs::{self, DropArgs};
use super::listing::{ListArgs, Listing};
use super::orders::{Which, give};
use super::session::{self, Console, ServerArgs};
use crate::admin::jobs::JobItem;
use crate::config::{ClientSettings, Environment};

/// The resource of the admin API.
const RETRIES: &str = "retries";

/// The flags of `corral retries`.
#[derive(Args, Clone, Debug, Default)]
pub struct RetriesArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// What to do; `list` when left out.
    #[command(subcommand)]
    command: Option<RetriesCommand>,
}

/// What can be done with jobs that wait.
#[derive(Subcommand, Clone, Debug)]
pub enum RetriesCommand {
    /// List what is tried again, when, and why it failed (the default)
    List(ListArgs),
    /// Show one job with the errors of its attempts
    Show {
        /// The job, as the list shows it, such as example.com/m@v1.0.0.zip
        id: String,
    },
    /// Try now what is not due yet
    Run(Which),
    /// Do not try it any more
    Drop(DropArgs),
}

impl Default for RetriesCommand {
    fn default() -> Self {
        Self::List(ListArgs::default())
    }
}

/// Asks the server and prints what it says; returns the exit code.
///
/// 0: done. 1: no answer, a refusal, or the question was answered with no. 2: the command line or
/// the configuration is wrong. 3: there is no such job, or it is being worked on.
///
/// # Errors
///
/// An output cannot be written.
pub fn run(args: &RetriesArgs, environment: &Environment) -> io::Result<u8> {
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
    args: &RetriesArgs,
    settings: &ClientSettings,
    console: &mut Console<'_>,
) -> io::Result<u8> {
    let as_json = args.server.json;
    session::ask(settings, console, async |client, console| {
        match args.command.clone().unwrap_or_default() {
            RetriesCommand::List(args) => {
                jobs::list(client, RETRIES, &args, as_json, console, text).await
            }
            RetriesCommand::Show { id } => jobs::show(client, RETRIES, &id, as_json, console).await,
            RetriesCommand::Run(which) => {
                let words = jobs::words("due now");
                give(client, RETRIES, "run", &which, &words, as_json, console).await
            }
            RetriesCommand::Drop(args) => {
                jobs::drop_jobs(client, RETRIES, &args, as_json, console).await
            }
        }
    })
    .await
}

fn text(listing: &Listing<JobItem>, console: &Console<'_>) -> String {
    match listing.items.is_empty() {
        true => format!(
            "no jobs: nothing of {} waits to be tried again\n",
            listing.of()
        ),
        false => jobs::waiting(listing, console) + &listing.footer("job", "jobs"),
    }
}

#[cfg(test)]
mod tests;
