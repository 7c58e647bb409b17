//! `corral failures`: units that failed a moment ago, for an operator in front of a running
//! server.

use std::io;

use clap::{Args, Subcommand};

use super::listing::ListArgs;
use super::orders::Which;
use super::remembered;
use super::session::{self, Console, ServerArgs};
use crate::config::{ClientSettings, Environment};

/// The resource of the admin API.
const FAILURES: &str = "failures";

/// The flags of `corral failures`.
#[derive(Args, Clone, Debug, Default)]
pub struct FailuresArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// What to do; `list` when left out.
    #[command(subcommand)]
    command: Option<FailuresCommand>,
}

/// What can be done with them.
#[derive(Subcommand, Clone, Debug)]
pub enum FailuresCommand {
    /// List what failed a moment ago, and the answer that clients get (the default)
    List(ListArgs),
    /// Show one
    Show {
        /// What was asked for, as the list shows it, such as example.com/m@v1.0.0.zip
        unit: String,
    },
    /// Try again with the next request
    Forget(Which),
}

impl Default for FailuresCommand {
    fn default() -> Self {
        Self::List(ListArgs::default())
    }
}

/// Asks the server and prints what it says; returns the exit code.
///
/// 0: done. 1: no answer, or a refusal. 2: the command line or the configuration is wrong. 3:
/// nothing of the kind is remembered of the unit.
///
/// # Errors
///
/// An output cannot be written.
pub fn run(args: &FailuresArgs, environment: &Environment) -> io::Result<u8> {
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
    args: &FailuresArgs,
    settings: &ClientSettings,
    console: &mut Console<'_>,
) -> io::Result<u8> {
    let as_json = args.server.json;
    session::ask(settings, console, async |client, console| {
        match args.command.clone().unwrap_or_default() {
            FailuresCommand::List(args) => {
                let empty = "as failed";
                remembered::list(client, FAILURES, empty, &args, as_json, console).await
            }
            FailuresCommand::Show { unit } => {
                remembered::show(client, FAILURES, &unit, as_json, console).await
            }
            FailuresCommand::Forget(which) => {
                remembered::forget(client, FAILURES, &which, as_json, console).await
            }
        }
    })
    .await
}
