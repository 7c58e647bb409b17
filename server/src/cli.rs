//! The command line: what can be asked of `corral`, and how a refusal reads.

pub mod admin_client;
pub mod config_check;
pub mod dead;
pub mod jobs;
pub mod leases;
pub mod listing;
pub mod orders;
pub mod remembered;
pub mod retries;
pub mod session;
mod table;
#[cfg(test)]
pub(crate) mod testing;

use std::io::Write;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};

use crate::config::Flags;

/// Exit code: something failed while running.
pub const EXIT_FAILURE: u8 = 1;
/// Exit code: the command line or the configuration is wrong; a line says what to set.
pub const EXIT_USAGE: u8 = 2;
/// Exit code: what was asked about is not there, or is not any more what it was.
pub const EXIT_GONE: u8 = 3;

/// A Go module proxy that lets one fetch through and keeps the herd in.
#[derive(Debug, Parser)]
#[command(
    name = "corral",
    version,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server until it is told to stop
    Serve(ConfigArgs),
    /// Look at the configuration
    #[command(subcommand, arg_required_else_help = true)]
    Config(ConfigCommand),
    /// See who is fetching what, on a running server, and end what is stuck
    Leases(leases::LeasesArgs),
    /// See what failed and is tried again, on a running server; try it now, or never
    Retries(retries::RetriesArgs),
    /// See what was given up, on a running server; begin anew, or forget it
    Dead(dead::DeadArgs),
    /// See what is remembered as absent, on a running server, and forget it
    Negatives(remembered::RememberedArgs),
    /// See what failed a moment ago, on a running server, and forget it
    Failures(remembered::RememberedArgs),
}

/// What can be done with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check the configuration and show every value with its source
    Check {
        /// The flags of `serve`.
        #[command(flatten)]
        config: ConfigArgs,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
}

/// The flags that set the configuration; `serve` and `config check` share them.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// Configuration file; else /etc/corral/corral.toml if it exists [env: CORRAL_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the proxy listener [default: 127.0.0.1:8070] [env: CORRAL_LISTEN]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Address of the admin listener [default: 127.0.0.1:8071] [env: CORRAL_ADMIN_LISTEN]
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<String>,
    /// Where misses go, as in GOPROXY [default: GOPROXY, go env GOPROXY] [env: CORRAL_UPSTREAM]
    #[arg(long, value_name = "LIST")]
    upstream: Option<String>,
    /// Object storage: file://, s3://, gs://, az:// or memory:// [default: a folder in the data
    /// directory] [env: CORRAL_STORAGE]
    #[arg(long, value_name = "URL")]
    storage: Option<String>,
    /// Folder for files on their way in [default: beside the storage] [env: CORRAL_SPOOL]
    #[arg(long, value_name = "DIR")]
    spool: Option<String>,
    /// Valkey server that a fleet shares; may be repeated [env: CORRAL_VALKEY]
    #[arg(long, value_name = "URL")]
    valkey: Vec<String>,
    /// Check against the checksum database: sumdb or off [default: sumdb] [env: CORRAL_VERIFY]
    #[arg(long, value_name = "sumdb|off")]
    verify: Option<String>,
    /// Never ask an upstream, serve what is stored [env: CORRAL_OFFLINE]
    #[arg(long)]
    offline: bool,
    /// Set any key of the configuration file, such as fill.retries=0; may be repeated
    /// [env: CORRAL_FILL__RETRIES and so on]
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl From<ConfigArgs> for Flags {
    fn from(args: ConfigArgs) -> Self {
        Self {
            config: args.config,
            listen: args.listen,
            admin_listen: args.admin_listen,
            upstream: args.upstream,
            storage: args.storage,
            spool: args.spool,
            valkey: args.valkey,
            verify: args.verify,
            offline: args.offline,
            set: args.set,
        }
    }
}

/// Prints what the parser has to say instead of a command, and returns the exit code for it.
///
/// Help and version go to stdout in full; a refusal is one line on stderr.
pub fn report(error: &clap::Error) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Whoever closed the pipe has read enough.
            let _ = error.print();
            0
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            EXIT_USAGE
        }
        _ => {
            complain(&refusal(error));
            EXIT_USAGE
        }
    }
}

/// Prints lines to stderr, each with the program's name before it.
pub fn complain(lines: &str) {
    complain_to(&mut std::io::stderr().lock(), lines);
}

fn complain_to(out: &mut dyn Write, lines: &str) {
    for line in lines.lines() {
        // There is no other place left to complain.
        let _ = writeln!(out, "corral: {line}");
    }
}

/// The parser's refusal as one line.
fn refusal(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let first = text.lines().next().unwrap_or_default();
    let mut line = first
        .strip_prefix("error: ")
        .unwrap_or(first)
        .trim_end_matches(':')
        .to_owned();
    if error.kind() == ErrorKind::MissingRequiredArgument {
        let rest = text
            .lines()
            .skip(1)
            .take_while(|line| !line.is_empty())
            .map(str::trim);
        line = format!("{line}: {}", rest.collect::<Vec<_>>().join(", "));
    }
    for kind in [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg] {
        match error.get(kind) {
            Some(ContextValue::String(meant)) => line += &format!("; did you mean '{meant}'?"),
            Some(ContextValue::Strings(meant)) if !meant.is_empty() => {
                line += &format!("; did you mean '{}'?", meant.join("' or '"));
            }
            _ => {}
        }
    }
    if !line.ends_with('?') {
        line += "; see corral --help";
    }
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_refusal_is_one_line_with_a_suggestion() {
        let cases: &[(&[&str], &str)] = &[
            (
                &["server"],
                "unrecognized subcommand 'server'; did you mean 'serve'?",
            ),
            (&["serve", "--lisen", "x"], {
                "unexpected argument '--lisen' found; did you mean '--listen'?"
            }),
            (
                &["config", "chek"],
                "unrecognized subcommand 'chek'; did you mean 'check'?",
            ),
            (&["serve", "--listen"], {
                "a value is required for '--listen <ADDR>' but none was supplied; see corral --help"
            }),
            (
                &["serve", "now"],
                "unexpected argument 'now' found; see corral --help",
            ),
        ];
        for (args, expected) in cases {
            let args = std::iter::once("corral").chain(args.iter().copied());
            assert_eq!(refusal(&Cli::try_parse_from(args).unwrap_err()), *expected);
        }
    }

    #[test]
    fn every_flag_of_the_contract_is_taken() {
        let line = "corral serve --config f --listen a --admin-listen b --upstream u --storage s \
                    --spool d --valkey v --valkey w --verify off --offline --set a=1 --set b=2";
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Serve(args) = cli.command else {
            panic!("serve was asked for")
        };
        let flags = Flags::from(args);
        assert_eq!(flags.valkey, ["v", "w"]);
        assert_eq!(flags.set, ["a=1", "b=2"]);
        assert!(flags.offline);
    }

    #[test]
    fn no_subcommand_gives_help() {
        let error = Cli::try_parse_from(["corral"]).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        );
        assert!(error.to_string().contains("serve"));
    }
}
