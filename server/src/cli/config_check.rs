//! `corral config check`: every value in force and where it comes from.

use std::io::{self, Write};

use serde_json::json;

use crate::config::{Environment, Flags, Loaded, Mistakes};

use super::EXIT_USAGE;

/// Checks the configuration, prints it to stdout and returns the exit code.
///
/// Text is `ok`, then one row per key with value and source; mistakes go to stderr, one line
/// each. JSON is one object, `{"ok": true, "settings": {…}, "notices": […]}` or
/// `{"ok": false, "mistakes": […]}`, always on stdout. Credentials are hidden in both.
///
/// # Errors
///
/// Stdout cannot be written.
pub fn run(flags: &Flags, environment: &Environment, as_json: bool) -> io::Result<u8> {
    let read = Loaded::read(flags, environment);
    let mut stdout = io::stdout().lock();
    match (&read, as_json) {
        (Ok(loaded), false) => write_table(&mut stdout, loaded)?,
        (Ok(loaded), true) => writeln!(stdout, "{:#}", settings_json(loaded))?,
        (Err(mistakes), false) => super::complain(&mistakes.to_string()),
        (Err(mistakes), true) => writeln!(stdout, "{:#}", mistakes_json(mistakes))?,
    }
    stdout.flush()?;
    if let (Ok(loaded), false) = (&read, as_json) {
        for notice in &loaded.notices {
            let kind = if notice.is_warning { "warning" } else { "note" };
            super::complain(&format!("{kind}: {notice}"));
        }
    }
    Ok(if read.is_ok() { 0 } else { EXIT_USAGE })
}

fn write_table(out: &mut impl Write, loaded: &Loaded) -> io::Result<()> {
    let rows: Vec<[String; 3]> = loaded
        .settings()
        .map(|setting| {
            let value = setting
                .value
                .map_or_else(|| "(none)".to_owned(), |value| value.to_string());
            [setting.key.to_owned(), value, setting.origin.to_string()]
        })
        .collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let (keys, values) = (width(0), width(1));
    writeln!(out, "ok")?;
    for [key, value, origin] in &rows {
        writeln!(out, "{key:keys$}  {value:values$}  {origin}")?;
    }
    Ok(())
}

/// The settings in force as JSON, credentials hidden.
pub fn settings_json(loaded: &Loaded) -> serde_json::Value {
    let settings: serde_json::Map<_, _> = loaded
        .settings()
        .map(|setting| {
            let value = json!({ "value": setting.value, "source": setting.origin.to_string() });
            (setting.key.to_owned(), value)
        })
        .collect();
    let notices: Vec<_> = loaded
        .notices
        .iter()
        .map(|notice| json!({ "warning": notice.is_warning, "text": notice.text }))
        .collect();
    json!({ "ok": true, "settings": settings, "notices": notices })
}

fn mistakes_json(mistakes: &Mistakes) -> serde_json::Value {
    let mistakes: Vec<_> = mistakes
        .0
        .iter()
        .map(|mistake| {
            json!({
                "source": mistake.origin.as_ref().map(ToString::to_string),
                "key": mistake.key,
                "problem": mistake.problem,
            })
        })
        .collect();
    json!({ "ok": false, "mistakes": mistakes })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn loaded() -> Loaded {
        let flags = Flags {
            upstream: Some("https://user:hush@proxy.example,direct".to_owned()),
            set: vec!["fill.retries=0".to_owned()],
            ..Flags::default()
        };
        Loaded::read(&flags, &Environment::of([("HOME", "/home/gopher")])).unwrap()
    }

    #[test]
    fn the_table_is_aligned_and_hides_credentials() {
        let mut out = Vec::new();
        write_table(&mut out, &loaded()).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.starts_with("ok\nlisten "), "{out}");
        assert!(!out.contains("hush"), "{out}");
        let row = |key: &str| out.lines().find(|line| line.starts_with(key)).unwrap();
        assert_eq!(
            row("upstream ").split_whitespace().collect::<Vec<_>>(),
            [
                "upstream",
                "\"https://***@proxy.example,direct\"",
                "--upstream"
            ]
        );
        assert_eq!(
            row("fill.retries ").find("--set"),
            row("upstream ").find("--upstream")
        );
        assert!(row("storage ").contains("file:///home/gopher/.local/share/corral/store"));
        assert!(row("storage ").ends_with("default, from the data directory"));
        assert!(row("fleet.id ").contains("(none)"));
    }

    #[test]
    fn json_says_the_same() {
        let json = settings_json(&loaded());
        assert_eq!(json["ok"], true);
        let settings = &json["settings"];
        assert_eq!(
            settings["fill.retries"],
            json!({ "value": 0, "source": "--set" })
        );
        assert_eq!(
            settings["fill.wait_max"],
            json!({ "value": "1m", "source": "default" })
        );
        assert_eq!(settings["fleet.id"]["value"], json!(null));
        assert!(!json.to_string().contains("hush"));
    }
}
