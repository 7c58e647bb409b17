//! What lines and spans look like when they leave the process.

#![allow(clippy::unwrap_used)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use opentelemetry_sdk::trace::InMemorySpanExporter;
use tracing::subscriber::with_default;

use super::*;
use crate::config::SecretUrl;

/// A shared output to look into.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Output {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn json_lines_have_time_level_message_and_fields() {
    let output = Output::default();
    let lines = LineWriter::start(output.clone(), true);
    let filter = EnvFilter::builder().parse("info").unwrap();
    let subscriber =
        tracing_subscriber::registry().with(line_layer(lines.clone(), true).with_filter(filter));
    with_default(subscriber, || {
        tracing::info!(fill.bytes = 7, "stored\nit");
        tracing::debug!("not at this level");
    });
    lines.flush(Duration::from_secs(10));
    let text = output.text();
    assert_eq!(text.lines().count(), 1, "{text}");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["message"], "stored\nit");
    assert_eq!(line["fill.bytes"], 7);
    let time = line["timestamp"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
}

#[test]
fn a_stuck_output_stops_nobody_and_lost_lines_are_counted() {
    /// An output that takes nothing until it is let go.
    struct Stuck(mpsc::Receiver<()>, Output);
    impl Write for Stuck {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            // Closed means let go.
            let _ = self.0.recv();
            self.1.write(text)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (hold, gate) = mpsc::channel::<()>();
    let output = Output::default();
    let lines = LineWriter::start(Stuck(gate, output.clone()), true);
    let subscriber = tracing_subscriber::registry().with(line_layer(lines.clone(), true));
    with_default(subscriber, || {
        (0..20_000).for_each(|n| tracing::info!(n, "line"))
    });
    lines.flush(Duration::from_millis(1));
    drop(hold);
    lines.flush(Duration::from_secs(30));
    assert!(output.text().contains("log lines dropped"));
}

#[test]
fn spans_carry_the_cache_fields() {
    let exporter = InMemorySpanExporter::default();
    let (layer, provider) = tracer_layer(exporter.clone());
    with_default(tracing_subscriber::registry().with(layer), || {
        tracing::info_span!(
            target: "server",
            "request",
            cache_status = "hit",
            cache_key = "example.com/m@v1.0.0.mod",
            cache_ttl_remaining_ms = 250
        )
        .in_scope(|| {
            // A client's own spans must not come back as new ones.
            tracing::info_span!(target: "hyper", "connection").in_scope(|| {});
        });
    });
    provider.force_flush().unwrap();
    let spans = exporter.get_finished_spans().unwrap();
    assert_eq!(spans.len(), 1);
    let value = |name: &str| {
        let pair = spans[0]
            .attributes
            .iter()
            .find(|pair| pair.key.as_str() == name);
        pair.unwrap_or_else(|| panic!("{name} is missing"))
            .value
            .to_string()
    };
    assert_eq!(value(CACHE_STATUS), "hit");
    assert_eq!(value(CACHE_KEY), "example.com/m@v1.0.0.mod");
    assert_eq!(value(CACHE_TTL_REMAINING_MS), "250");
}

#[test]
fn traces_reach_a_collector_before_shutdown_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = SecretUrl::new(format!("http://{}", listener.local_addr().unwrap()));
    let (sender, received) = mpsc::channel();
    let collector = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        let head = head.to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let mut body = vec![0; length.split("\r\n").next().unwrap().parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        let answer =
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        stream.write_all(answer.as_bytes()).unwrap();
        sender.send((head, body)).unwrap();
    });
    // Another test may have installed it already; either will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let traces = export::Traces::start(&endpoint).unwrap();
    let layer = trace_layer(traces.provider());
    with_default(tracing_subscriber::registry().with(layer), || {
        tracing::info_span!(target: "server", "request", cache_status = "hit").in_scope(|| {});
    });
    traces.shutdown(Duration::from_secs(10));
    let (head, body) = received.recv_timeout(Duration::from_secs(10)).unwrap();
    collector.join().unwrap();
    assert!(head.starts_with("post /v1/traces "), "{head}");
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let span = &body["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!(span["name"], "request");
    assert!(
        span["attributes"].to_string().contains("cache_status"),
        "{span}"
    );
}
