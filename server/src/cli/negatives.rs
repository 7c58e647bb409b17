//! `corral negatives`: units that are remembered as absent, for an operator in front of a running
//! server.

use std::io;

use clap::{Args, Subcommand};

use super::listing::ListArgs;
use super::orders::Which;
use super::remembered;
use super::session::{self, Console, ServerArgs};
use crate::config::{ClientSettings, Environment};

/// The resource of the admin API.
const NEGATIVES: &str = "negatives";

/// The flags of `corral negatives`.
#[derive(Args, Clone, Debug, Default)]
pub struct NegativesArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// What to do; `list` when left out.
    #[command(subcommand)]
    command: Option<NegativesCommand>,
}

/// What can be done with them.
#[derive(Subcommand, Clone, Debug)]
pub enum NegativesCommand {
    /// List what upstream said does not exist, a moment ago (the default)
    List(ListArgs),
    /// Show one
    Show {
        /// What was asked for, as the list shows it, such as example.com/m@v1.0.0.zip
        unit: String,
    },
    /// Ask upstream again with the next request
    Forget(Which),
}

impl Default for NegativesCommand {
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
pub fn run(args: &NegativesArgs, environment: &Environment) -> io::Result<u8> {
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
    args: &NegativesArgs,
    settings: &ClientSettings,
    console: &mut Console<'_>,
) -> io::Result<u8> {
    let as_json = args.server.json;
    session::ask(settings, console, async |client, console| {
        match args.command.clone().unwrap_or_default() {
            NegativesCommand::List(args) => {
                let empty = "as absent";
                remembered::list(client, NEGATIVES, empty, &args, as_json, console).await
            }
            NegativesCommand::Show { unit } => {
                remembered::show(client, NEGATIVES, &unit, as_json, console).await
            }
            NegativesCommand::Forget(which) => {
                remembered::forget(client, NEGATIVES, &which, as_json, console).await
            }
        }
    })
    .await
}
