//! One command against a running server: the flags that say which, what the command talks to, and
//! how its end becomes an exit code.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use reqwest::StatusCode;

use super::admin_client::{AdminClient, AdminError};
use super::{EXIT_FAILURE, EXIT_GONE, EXIT_USAGE, complain, complain_to};
use crate::config::{ClientFlags, ClientSettings, Environment};

/// The flags of every command that asks a running server.
#[derive(Args, Clone, Debug, Default)]
pub struct ServerArgs {
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
    pub(super) json: bool,
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
    /// How many characters a line of that terminal has; `None` where results go elsewhere.
    pub width: Option<usize>,
    /// Whether there is somebody to ask.
    pub can_ask: bool,
}

impl Console<'_> {
    /// Asks the person `question`; only a clear yes is one. The code to end with otherwise.
    ///
    /// `instead` says how to give the order where nobody can be asked.
    pub(super) fn confirmed(
        &mut self,
        question: &str,
        instead: &str,
    ) -> io::Result<Result<(), u8>> {
        if !self.can_ask {
            let line = format!("nobody to ask here, so nothing was changed: {instead}");
            complain_to(self.err, &line);
            return Ok(Err(EXIT_USAGE));
        }
        self.out.flush()?;
        write!(self.err, "{question} [y/N] ")?;
        self.err.flush()?;
        let mut answer = String::new();
        self.input.read_line(&mut answer)?;
        if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            return Ok(Ok(()));
        }
        complain_to(self.err, "nothing was changed");
        Ok(Err(EXIT_FAILURE))
    }
}

/// Why a command ended without doing what it was asked.
pub(super) enum Failure {
    /// The server did not do it.
    Admin(AdminError),
    /// The output cannot be written.
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

/// Runs a command on this process's terminal; returns the exit code.
///
/// # Errors
///
/// An output cannot be written.
pub(super) fn run(
    server: &ServerArgs,
    environment: &Environment,
    command: impl AsyncFnOnce(&ClientSettings, &mut Console<'_>) -> io::Result<u8>,
) -> io::Result<u8> {
    let flags = ClientFlags {
        admin: server.admin.clone(),
        token_file: server.token_file.clone(),
        config: server.config.clone(),
    };
    let settings = match ClientSettings::read(&flags, environment) {
        Ok(settings) => settings,
        Err(mistakes) => {
            complain(&mistakes.to_string());
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
    let size = rustix::termios::tcgetwinsize(&out).ok();
    let width = size.map(|size| usize::from(size.ws_col));
    let mut console = Console {
        out: &mut out,
        err: &mut err,
        input: &mut io::stdin().lock(),
        is_rich,
        width: width.filter(|width| *width > 0),
        can_ask,
    };
    let ran = runtime.block_on(command(&settings, &mut console));
    match ran {
        // Whoever closed the pipe has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        other => other,
    }
}

/// Runs a command with everything handed in; complains about what keeps it from its work.
///
/// # Errors
///
/// An output cannot be written.
pub(super) async fn ask(
    settings: &ClientSettings,
    console: &mut Console<'_>,
    command: impl AsyncFnOnce(&AdminClient, &mut Console<'_>) -> Result<u8, Failure>,
) -> io::Result<u8> {
    let ended = match AdminClient::new(settings) {
        Ok(client) => command(&client, console).await,
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
