//! The `corral` binary: arguments, logging, run.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use server::cli::remembered::Class;
use server::cli::{self, Cli, Command, ConfigArgs, ConfigCommand, EXIT_FAILURE, EXIT_USAGE};
use server::config::{Environment, Flags, Loaded};
use server::telemetry::Telemetry;
use server::{limits, serve};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // First of all: two providers are linked, and whoever needs one must find it chosen.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::report(&error).into(),
    };
    let ran = match cli.command {
        Command::Serve(args) => serve(args),
        Command::Leases(args) => asked(cli::leases::run(&args, &Environment::of_process())),
        Command::Retries(args) => asked(cli::retries::run(&args, &Environment::of_process())),
        Command::Dead(args) => asked(cli::dead::run(&args, &Environment::of_process())),
        Command::Negatives(args) => asked(cli::remembered::run(
            Class::Negatives,
            &args,
            &Environment::of_process(),
        )),
        Command::Failures(args) => asked(cli::remembered::run(
            Class::Failures,
            &args,
            &Environment::of_process(),
        )),
        Command::Config(ConfigCommand::Check { config, json }) => {
            cli::config_check::run(&config.into(), &Environment::of_process(), json)
                .map(ExitCode::from)
                .context("cannot print the configuration")
        }
    };
    ran.unwrap_or_else(|error| {
        // The alternate form is the whole chain of causes on one line.
        cli::complain(&format!("{error:#}").replace('\n', " "));
        EXIT_FAILURE.into()
    })
}

fn asked(ran: std::io::Result<u8>) -> anyhow::Result<ExitCode> {
    ran.map(ExitCode::from).context("cannot print the answer")
}

fn serve(args: ConfigArgs) -> anyhow::Result<ExitCode> {
    let loaded = match Loaded::read(&Flags::from(args), &Environment::of_process()) {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            cli::complain(&mistakes.to_string());
            return Ok(EXIT_USAGE.into());
        }
    };
    let config_json = cli::config_check::settings_json(&loaded);
    let Loaded {
        config, notices, ..
    } = loaded;
    let mut telemetry = Telemetry::install(&config.log, &config.otlp)?;
    for notice in notices {
        match notice.is_warning {
            true => tracing::warn!("{notice}"),
            false => tracing::info!("{notice}"),
        }
    }
    match limits::raise_open_files() {
        Ok(limit) => tracing::debug!(open_files_max = limit, "raised the limit of open files"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
    let ran = serve::run(&config, config_json);
    telemetry.shutdown();
    Ok(ran?)
}
