//! Real servers are reached as the configuration says, and what is in the way is said in one line.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::net::{Shutdown, TcpListener};
use std::time::Duration;

use redis::{RedisError, Value, cmd};
use tokio::time::timeout;

use super::{Layout, Server};
use crate::testing::{ServerKind, TestServer};
use crate::valkey::endpoint::{CommandConnection, Endpoint, PoolSizes, SingleEndpoint};
use crate::valkey::{Secret, ValkeyConfig};
use crate::{Clock, TokioClock};

pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects as a node would, to the first server of `config`.
pub(crate) async fn connect(config: &ValkeyConfig) -> Result<CommandConnection, RedisError> {
    let Layout::Servers(mut servers) = config.layout().unwrap() else {
        panic!("no servers");
    };
    let Server { name, info, .. } = servers.remove(0);
    let sizes = PoolSizes {
        max: 2,
        idle_max: 1,
        idle_min: 0,
    };
    let endpoint = SingleEndpoint::new(name, info, sizes, CONNECT_TIMEOUT).unwrap();
    let began = TokioClock.now();
    let connected = timeout(CONNECT_TIMEOUT * 2, endpoint.connect()).await;
    let took = TokioClock.now() - began;
    assert!(took < CONNECT_TIMEOUT + Duration::from_secs(1), "{took:?}");
    connected.expect("an attempt to connect ends by itself")
}

pub(crate) fn config(url: &str) -> ValkeyConfig {
    ValkeyConfig::from_urls([url]).unwrap()
}

/// The line that says why there is no connection.
pub(crate) async fn refusal(config: &ValkeyConfig) -> String {
    let line = connect(config).await.unwrap_err().to_string();
    assert!(!line.contains('\n') && line.len() < 250, "{line:?}");
    assert!(!line.contains("HUSH"), "{line}");
    line
}

async fn ask(connection: &mut CommandConnection, question: &[&str]) -> String {
    let mut command = cmd(question[0]);
    for argument in &question[1..] {
        command.arg(argument);
    }
    match connection.send(&command).await.unwrap() {
        Value::BulkString(text) => String::from_utf8(text).unwrap(),
        Value::SimpleString(text) => text,
        Value::VerbatimString { text, .. } => text,
        Value::Okay => "OK".to_owned(),
        other => format!("{other:?}"),
    }
}

// acceptance: E18
// acceptance: E5
#[tokio::test]
async fn a_url_alone_reaches_either_server() {
    for kind in [ServerKind::Valkey, ServerKind::Redis] {
        let server = TestServer::start(kind).await;
        for scheme in ["redis", "valkey"] {
            let url = server.url().replace("redis", scheme);
            let mut connection = connect(&config(&url)).await.unwrap();
            assert_eq!(ask(&mut connection, &["PING"]).await, "PONG");
            let about = ask(&mut connection, &["CLIENT", "INFO"]).await;
            assert!(
                about.contains(" db=0 ") && about.contains("resp=3"),
                "{about}"
            );
        }
        let localhost = server.url().replace("127.0.0.1", "localhost");
        assert!(connect(&config(&localhost)).await.is_ok());
    }
}

// acceptance: E4
// acceptance: E15
#[tokio::test]
async fn the_database_is_honoured_with_and_without_a_password() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let with_db = format!("{}/5", server.url());
    let mut connection = connect(&config(&with_db)).await.unwrap();
    assert!(
        ask(&mut connection, &["CLIENT", "INFO"])
            .await
            .contains(" db=5 ")
    );
    server.command("CONFIG SET requirepass s3cret");
    let secure = ValkeyConfig {
        password: Some(Secret::new("s3cret")),
        database: Some(6),
        ..config(&server.url())
    };
    let mut connection = connect(&secure).await.unwrap();
    assert!(
        ask(&mut connection, &["CLIENT", "INFO"])
            .await
            .contains(" db=6 ")
    );
    let beyond = format!("redis://:s3cret@127.0.0.1:{}/16", server.port());
    let said = refusal(&config(&beyond)).await;
    assert!(
        said.contains("switch database") && said.contains("out of range"),
        "{said}"
    );
}

// acceptance: E15
#[tokio::test]
async fn users_log_in_and_wrong_ones_are_told() {
    for kind in [ServerKind::Valkey, ServerKind::Redis] {
        let server = TestServer::start(kind).await;
        server.command("ACL SETUSER app on >p@ss/w ~* &* +@all");
        let url = format!("redis://app:p%40ss%2Fw@127.0.0.1:{}", server.port());
        let mut connection = connect(&config(&url)).await.unwrap();
        assert_eq!(ask(&mut connection, &["ACL", "WHOAMI"]).await, "app");
        server.command("ACL SETUSER default off");
        for login in ["app:HUSH@", "nobody:HUSH@", ":HUSH@"] {
            let said = refusal(&config(&format!(
                "redis://{login}127.0.0.1:{}",
                server.port()
            )))
            .await;
            assert!(
                said.to_lowercase().contains("auth") || said.contains("WRONGPASS"),
                "{login}: {said}"
            );
        }
        let said = refusal(&config(&server.url())).await;
        assert!(
            said.contains("NOAUTH") || said.to_lowercase().contains("auth"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_socket_leads_there_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my server.sock");
    let option = format!("--unixsocket {}", folder.path().join("s").display());
    let server =
        TestServer::start_with(ServerKind::Valkey, &[&option, "--requirepass HU=SH"]).await;
    std::fs::rename(folder.path().join("s"), &path).unwrap();
    let path = path.display().to_string().replace(' ', "%20");
    let url = format!("unix://{path}?db=3&pass=HU%3DSH");
    let mut connection = connect(&config(&url)).await.unwrap();
    let about = ask(&mut connection, &["CLIENT", "INFO"]).await;
    assert!(about.contains(" db=3 "), "{about}");
    drop(server);
    assert!(!refusal(&config(&url)).await.is_empty());
}

/// A listener that is no Valkey: says `greeting` to everybody, and then hangs up, or does not.
fn stranger(greeting: &'static [u8], hangs_up: bool) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        // Ends with the test's process.
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(greeting);
            if hangs_up {
                let _ = stream.shutdown(Shutdown::Both);
            } else {
                open.push(stream);
            }
        }
    });
    format!("redis://:HUSH@127.0.0.1:{port}")
}

// acceptance: E15
// fault: 10
#[tokio::test]
async fn what_is_no_valkey_is_told_and_not_waited_for() {
    let http = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    let (protocol, silence) = ("does not speak Valkey's protocol", "in time");
    for (greeting, hangs_up, expected) in [
        (&http[..], true, protocol),
        (&http[..], false, protocol),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", false, protocol),
        (b"\x15\x03\x01\x00\x02\x02\x0a", true, protocol),
        (b"+OK\r\n", false, silence),
        (b"$9999999999999\r\n", false, silence),
        (b"", true, "does it expect TLS?"),
        (b"", false, silence),
    ] {
        let url = stranger(greeting, hangs_up);
        let said = refusal(&config(&url)).await;
        let greeting = String::from_utf8_lossy(greeting);
        assert!(said.contains(expected), "{greeting:?}: {said}");
    }
}

#[tokio::test]
async fn nobody_there_is_told_at_once() {
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let said = refusal(&config(&format!("redis://127.0.0.1:{port}"))).await;
    assert!(said.to_lowercase().contains("refused"), "{said}");
    let said = refusal(&config("redis://no-such-host.invalid")).await;
    assert!(said.contains("lookup"), "{said}");
    let said = refusal(&config("unix:///no/such/socket")).await;
    assert!(
        said.contains("No such file") && !said.contains("TLS"),
        "{said}"
    );
}
