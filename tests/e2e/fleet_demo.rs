//! The demo, in its short form: it holds what it claims, and leaves no process behind.

use std::process::Stdio;
use std::time::Duration;

use e2e::proxy::binary;
use tokio::process::Command;

// acceptance: E25
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_shows_what_it_claims() {
    let demo = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--fast", "--clients", "10"])
        .env("CORRAL_BIN", binary())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(90), demo);
    let output = output.await.expect("the demo ends").expect("the demo runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert_eq!(text.matches('✓').count(), 9, "{text}");
    assert!(
        !text.contains('\u{1b}'),
        "no colours without a terminal: {text}"
    );
}
