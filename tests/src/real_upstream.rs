//! The upstream that this machine is configured to use, for the few tests with real modules.

use std::process::Command;

/// The first HTTP entry of `GOPROXY` or `go env GOPROXY`; `None`, with the reason printed, when
/// none is configured (`GOPROXY=off`, or only `direct`).
pub fn real_upstream() -> Option<String> {
    let list = std::env::var("GOPROXY")
        .ok()
        .filter(|list| !list.is_empty());
    let list = list.or_else(go_env_goproxy).unwrap_or_default();
    let found = first_http(&list);
    if found.is_none() {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("skipped: this machine has no upstream module proxy (GOPROXY={list:?})");
        }
    }
    found
}

fn go_env_goproxy() -> Option<String> {
    let output = Command::new("go").args(["env", "GOPROXY"]).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn first_http(list: &str) -> Option<String> {
    let mut entries = list.split([',', '|']).map(str::trim);
    entries
        .find(|entry| entry.starts_with("http://") || entry.starts_with("https://"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::first_http;

    #[test]
    fn takes_the_first_http_entry() {
        let list = "direct|https://proxy.example.com/x,http://b.example.com";
        assert_eq!(
            first_http(list).as_deref(),
            Some("https://proxy.example.com/x")
        );
        assert_eq!(first_http("off"), None);
        assert_eq!(first_http("direct"), None);
    }
}
