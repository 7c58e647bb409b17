//! The demo behind `scripts/demo`: three instances, one Valkey, one fetch, and a death.
//!
//! Everything runs on 127.0.0.1 and is gone afterwards. The exit code is 0 only if everything that
//! the demo claims was so.

mod acts;
mod picture;
mod screen;
mod stage;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use acts::Show;
use screen::{Paint, Screen, Style};
use stage::{Scale, Stage};

/// Shows one fetch per fleet: a herd at three instances, then the death of the one that fetches.
#[derive(Debug, Parser)]
struct Args {
    /// A few seconds instead of a minute: for tests.
    #[arg(long)]
    fast: bool,
    /// Clients at each of the three instances.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=500))]
    clients: u16,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        let demo = perform(&args);
        tokio::select! {
            code = demo => code,
            // Dropping the stage ends every process that it started.
            _ = tokio::signal::ctrl_c() => ExitCode::from(130),
        }
    })
}

async fn perform(args: &Args) -> ExitCode {
    let clients = usize::from(args.clients);
    let scale = if args.fast {
        Scale {
            clients,
            file_bytes: 3_000_000,
            bytes_per_s: 2_000_000,
            pause: Duration::ZERO,
        }
    } else {
        Scale {
            clients,
            file_bytes: 16_000_000,
            bytes_per_s: 1_000_000,
            pause: Duration::from_secs(3),
        }
    };
    let mut show = Show::new(Screen::open());
    let paint = show.screen.paint();
    show.screen.leave(&introduction(scale, paint));
    let mut stage = Stage::set(scale, &["v1.4.0", "v1.5.0"]).await;
    tokio::time::sleep(scale.pause).await;
    acts::calm_herd(&mut stage, &mut show, "v1.4.0").await;
    acts::death_of_the_holder(&mut stage, &mut show, "v1.5.0").await;
    let summary: Vec<String> = show.checks.iter().map(|check| tick(check, paint)).collect();
    show.screen.leave(&summary);
    if show.checks.iter().all(|check| check.holds) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn introduction(scale: Scale, paint: Paint) -> Vec<String> {
    vec![
        String::new(),
        paint.text(Style::Bold, " corral: one fetch per fleet"),
        format!(
            " Three instances (A, B, C) over one folder and one Valkey, {} clients at each;",
            scale.clients
        ),
        format!(
            " the file has {:.0} MB, and upstream sends {:.1} MB a second.",
            scale.file_bytes as f64 / 1e6,
            scale.bytes_per_s as f64 / 1e6
        ),
    ]
}

fn tick(check: &acts::Check, paint: Paint) -> String {
    let (style, mark) = if check.holds {
        (Style::Good, "✓")
    } else {
        (Style::Bad, "✗")
    };
    format!(" {} {}", paint.text(style, mark), check.text)
}
