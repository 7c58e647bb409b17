//! The benchmark program behind `scripts/bench`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use e2e::bench::content::Content;
use e2e::bench::load::raise_file_limit;
use e2e::bench::machine::{Machine, workspace_root};
use e2e::bench::maps;
use e2e::bench::maps::run::Plan;
use e2e::bench::origin::Origin;
use e2e::bench::parts::{Bench, build, cold, failures, fleet, herd, serve};
use e2e::bench::progress::say;
use e2e::bench::report;
use e2e::bench::results::Results;
use e2e::bench::servers::{Site, find};

/// Open files for 10,000 clients and a server's own.
const FILES_WANTED: u64 = 40_000;

/// Benchmarks corral beside nginx and Varnish, and concurrent maps beside each other.
#[derive(Debug, Parser)]
struct Args {
    /// What to measure; without it everything but maps.
    part: Option<Part>,
    /// A few seconds a part: shows that everything works, measures nothing.
    #[arg(long)]
    quick: bool,
    /// Print the results as JSON instead of tables.
    #[arg(long, conflicts_with = "runs")]
    json: bool,
    /// maps: repetitions of every measurement [default: 10].
    #[arg(long)]
    runs: Option<usize>,
    /// Directory for report, values and plots [default: bench-results/DATE].
    #[arg(long)]
    out: Option<PathBuf>,
    /// The corral binary; without one only its peers are measured.
    #[arg(long, env = "CORRAL_BIN")]
    corral: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Everything but maps.
    All,
    /// Warm files: requests, bytes, latency, CPU time.
    Serve,
    /// Start, idle memory, one client on a cold file.
    Cold,
    /// Many clients on the same cold files.
    Herd,
    /// A build farm's downloads.
    Build,
    /// Three instances over one Valkey.
    Fleet,
    /// What fails, is told once, and is mended in the background.
    Failures,
    /// Concurrent maps.
    Maps,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let mut machine = Machine::read();
    let out = args.out.clone().unwrap_or_else(|| {
        workspace_root()
            .join("bench-results")
            .join(machine.directory_name())
    });
    if args.part == Some(Part::Maps) {
        compare_maps(&args, machine, &out.join("maps"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let corral = args.corral.clone().filter(|file| file.is_file());
    if let Some(binary) = &corral {
        machine.add_program("corral", &binary.display().to_string(), &["--version"]);
    }
    for (name, program, version) in [("nginx", "nginx", "-v"), ("Varnish", "varnishd", "-V")] {
        let file = find(program).unwrap_or_default();
        machine.add_program(name, &file.display().to_string(), &[version]);
    }
    let results = measure(&args, machine, corral, &out)?;
    let (text, json) = report::write(&out, &results)
        .with_context(|| format!("write the report into {}", out.display()))?;
    print(if args.json { &json } else { &text });
    say(&format!("report, values and plots: {}", out.display()));
    Ok(exit_code(&results))
}

/// What failures owe is owed on every machine, unlike what is measured beside others.
fn exit_code(results: &Results) -> ExitCode {
    let Some(measured) = &results.failures else {
        return ExitCode::SUCCESS;
    };
    let kept = failures::judge(measured)
        .iter()
        .all(|target| target.pass == Some(true));
    if kept {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn compare_maps(args: &Args, mut machine: Machine, out: &Path) -> anyhow::Result<()> {
    machine.add_crates(&[
        "dashmap",
        "papaya",
        "scc",
        "moka",
        "quick_cache",
        "parking_lot",
    ]);
    let mut plan = if args.quick {
        Plan::quick()
    } else {
        Plan::full()
    };
    plan.runs = args.runs.unwrap_or(plan.runs).max(1);
    let results = maps::run::run(plan);
    let text = maps::report::write(out, &machine, &results)
        .with_context(|| format!("write the report into {}", out.display()))?;
    print(&text);
    say(&format!("report, times and plots: {}", out.display()));
    Ok(())
}

/// Measures one part.
type Run = fn(&Bench, &mut Results) -> anyhow::Result<()>;

fn measure(
    args: &Args,
    machine: Machine,
    corral: Option<PathBuf>,
    out: &Path,
) -> anyhow::Result<Results> {
    let files_max = raise_file_limit(FILES_WANTED);
    ensure!(
        args.quick || files_max >= 11_000,
        "10,000 clients need more than the {files_max} files that may be open: raise `ulimit -n`"
    );
    // Caches are kept beside the results: /tmp may be in memory, and then no disk is measured.
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let scratch = tempfile::Builder::new()
        .prefix("scratch-")
        .tempdir_in(out)?;
    let tree = scratch.path().join("tree");
    let content = Content::new()?;
    content.write_tree(&tree)?;
    let origin = Origin::start(content.by_path()).context("start the upstream")?;
    let site = Site {
        corral,
        origin: origin.address(),
        tree,
        files_max,
        scratch: scratch.path().to_owned(),
    };
    if site.corral.is_none() {
        say("no corral binary (CORRAL_BIN): only its peers are measured");
    }
    let bench = Bench {
        content,
        origin,
        site,
        quick: args.quick,
    };
    let mut results = Results {
        machine,
        files_max,
        serve: Vec::new(),
        starts: Vec::new(),
        cold: Vec::new(),
        herd: Vec::new(),
        build: Vec::new(),
        fleet: None,
        failures: None,
        troubles: Vec::new(),
    };
    let wanted = args.part.unwrap_or(Part::All);
    let parts: [(Part, Run); 6] = [
        (Part::Serve, serve::run),
        (Part::Cold, cold::run),
        (Part::Herd, herd::run),
        (Part::Build, build::run),
        (Part::Fleet, fleet::run),
        (Part::Failures, failures::run),
    ];
    for (part, run) in parts {
        if wanted == part || wanted == Part::All {
            // A part that fails is reported; the others are still worth their time.
            if let Err(error) = run(&bench, &mut results) {
                results
                    .troubles
                    .push(format!("{part:?} was ended: {error:#}"));
            }
        }
    }
    Ok(results)
}

/// The report is what the program is for, so it goes to standard output.
#[expect(
    clippy::print_stdout,
    reason = "a report is printed, nothing is logged"
)]
fn print(text: &str) {
    print!("{text}");
}
