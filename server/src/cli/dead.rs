//! `corral dead`: what failed for so long that it was given up, for an operator in front of a
//! running server.

use std::io;

use clap::{Args, Subcommand};

use super::jobs::{self, DropArgs};
use super::listing::{ListArgs, Listing};
use super::orders::{Which, give};
use super::session::{self, Console, ServerArgs};
use crate::admin::jobs::JobItem;
use crate::config::{ClientSettings, Environment};

/// The resource of the admin API.
const DEAD: &str = "dead";

/// The flags of `corral dead`.
#[derive(Args, Clone, Debug, Default)]
pub struct DeadArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// What to do; `list` when left out.
    #[command(subcommand)]
    command: Option<DeadCommand>,
}

/// What can be done with dead jobs.
#[derive(Subcommand, Clone, Debug)]
pub enum DeadCommand {
    /// List what was given up, since when, and why (the default)
    List(ListArgs),
    /// Show one dead job with the errors of its attempts
    Show {
        /// The job, as the list shows it, such as example.com/m@v1.0.0.zip
        id: String,
    },
    /// Give it another life: due now, with all its attempts
    Requeue(Which),
    /// Forget it
    Drop(DropArgs),
}

impl Default for DeadCommand {
    fn default() -> Self {
        Self::List(ListArgs::default())
    }
}

/// Asks the server and prints what it says; returns the exit code.
///
/// 0: done. 1: no answer, a refusal, or the question was answered with no. 2: the command line or
/// the configuration is wrong. 3: there is no such dead job.
///
/// # Errors
///
/// An output cannot be written.
pub fn run(args: &DeadArgs, environment: &Environment) -> io::Result<u8> {
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
    args: &DeadArgs,
    settings: &ClientSettings,
    console: &mut Console<'_>,
) -> io::Result<u8> {
    let as_json = args.server.json;
    session::ask(settings, console, async |client, console| {
        match args.command.clone().unwrap_or_default() {
            DeadCommand::List(args) => {
                jobs::list(client, DEAD, &args, as_json, console, text).await
            }
            DeadCommand::Show { id } => jobs::show(client, DEAD, &id, as_json, console).await,
            DeadCommand::Requeue(which) => {
                let words = jobs::words("requeued");
                give(client, DEAD, "requeue", &which, &words, as_json, console).await
            }
            DeadCommand::Drop(args) => jobs::drop_jobs(client, DEAD, &args, as_json, console).await,
        }
    })
    .await
}

fn text(listing: &Listing<JobItem>, console: &Console<'_>) -> String {
    match listing.items.is_empty() {
        true => format!("no dead jobs: nothing of {} was given up\n", listing.of()),
        false => jobs::dead(listing, console) + &listing.footer("dead job", "dead jobs"),
    }
}
