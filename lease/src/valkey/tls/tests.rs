//! TLS with a real server, and what is told about certificates that cannot work.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::testing::{ServerKind, TestServer};
use crate::valkey::ValkeyConfig;
use crate::valkey::layout::connections::{config, connect, refusal};

/// An authority with a server's and a client's certificate, made by `openssl`.
struct Authority {
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Self { folder };
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
             -keyout ca.key -out ca.pem -subj /CN=authority -addext basicConstraints=critical,CA:TRUE",
        );
        authority.sign("server", "subjectAltName=IP:127.0.0.1,DNS:cache.test");
        authority.sign("client", "extendedKeyUsage=clientAuth");
        authority
    }

    fn sign(&self, name: &str, extension: &str) {
        std::fs::write(self.folder.path().join("extension"), extension).unwrap();
        self.openssl(&format!(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
             -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile extension -out {name}.pem"
        ));
    }

    fn openssl(&self, arguments: &str) {
        let mut openssl = Command::new("openssl");
        openssl.args(arguments.split_whitespace());
        let output = openssl.current_dir(self.folder.path()).output();
        let output = output.expect("openssl runs; these tests make certificates with it");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn pem(&self, name: &str) -> String {
        std::fs::read_to_string(Path::new(&self.path(name))).unwrap()
    }

    fn trusted(&self) -> ValkeyTls {
        ValkeyTls {
            ca_pem: Some(self.pem("ca.pem")),
            ..ValkeyTls::default()
        }
    }

    fn with_client(&self) -> ValkeyTls {
        ValkeyTls {
            cert_pem: Some(self.pem("client.pem")),
            key_pem: Some(Secret::new(self.pem("client.key"))),
            ..self.trusted()
        }
    }

    /// A Redis that speaks TLS on the port of the URL.
    async fn server(&self, options: &str) -> (TestServer, String) {
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let tls = format!(
            "--tls-port {port} --tls-cert-file {} --tls-key-file {} --tls-ca-cert-file {} {options}",
            self.path("server.pem"),
            self.path("server.key"),
            self.path("ca.pem"),
        );
        let server = TestServer::start_with(ServerKind::Redis, &[&tls]).await;
        (server, format!("rediss://127.0.0.1:{port}"))
    }
}

fn with(url: &str, tls: ValkeyTls) -> ValkeyConfig {
    ValkeyConfig { tls, ..config(url) }
}

// acceptance: E20
#[tokio::test]
async fn a_server_is_trusted_by_its_authority_alone() {
    let authority = Authority::new();
    let (server, url) = authority.server("--tls-auth-clients no").await;
    assert!(connect(&with(&url, authority.trusted())).await.is_ok());
    let said = refusal(&with(&url, ValkeyTls::default())).await;
    assert!(said.contains("UnknownIssuer"), "{said}");
    let said = refusal(&with(&url, Authority::new().trusted())).await;
    assert!(said.contains("is its authority in tls.ca_file?"), "{said}");
    let other_name = url.replace("127.0.0.1", "localhost");
    let said = refusal(&with(&other_name, authority.trusted())).await;
    assert!(said.contains("not valid for"), "{said}");
    // Speaking TLS to a port that does not, and the other way round.
    let plain = server.url().replace("redis://", "rediss://");
    let said = refusal(&with(&plain, authority.trusted())).await;
    assert!(said.contains("in time"), "{said}");
    let said = refusal(&config(&url.replace("rediss://", "redis://"))).await;
    assert!(said.contains("does it expect TLS?"), "{said}");
}

// acceptance: E20
#[tokio::test]
async fn a_server_may_ask_who_we_are() {
    let authority = Authority::new();
    let (_server, url) = authority.server("--tls-auth-clients yes").await;
    assert!(connect(&with(&url, authority.with_client())).await.is_ok());
    let said = refusal(&with(&url, authority.trusted())).await;
    assert!(said.contains("wants tls.cert_file"), "{said}");
    let stranger = Authority::new().with_client();
    let tls = ValkeyTls {
        ca_pem: authority.trusted().ca_pem,
        ..stranger
    };
    let said = refusal(&with(&url, tls)).await;
    assert!(said.contains("UnknownCA"), "{said}");
}

// acceptance: E20
#[test]
fn unusable_material_is_told_before_any_connection() {
    let authority = Authority::new();
    let mistake = |tls: ValkeyTls| {
        let found = with("rediss://h", tls).mistakes();
        let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert!(
            lines
                .iter()
                .all(|line| !line.contains('\n') && !line.contains("PRIVATE"))
        );
        lines.join("; ")
    };
    let good = authority.with_client();
    assert_eq!(mistake(good.clone()), "");
    let change = |change: fn(&mut ValkeyTls, &Authority)| {
        let mut tls = good.clone();
        change(&mut tls, &authority);
        mistake(tls)
    };
    let said = change(|tls, _| tls.ca_pem = Some(String::new()));
    assert!(
        said.starts_with("tls.ca_file: it has no certificate"),
        "{said}"
    );
    let said =
        change(|tls, _| tls.ca_pem = tls.key_pem.as_ref().map(|key| key.expose().to_owned()));
    assert!(
        said.starts_with("tls.ca_file: it has no certificate"),
        "{said}"
    );
    let said = change(|tls, _| {
        let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        tls.ca_pem = Some(broken.to_owned());
    });
    assert!(
        said.starts_with("tls.ca_file: it is no readable PEM"),
        "{said}"
    );
    let said = change(|tls, _| {
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        tls.ca_pem = Some(broken.to_owned());
    });
    assert!(
        said.starts_with("tls.ca_file: a certificate in it"),
        "{said}"
    );
    let said = change(|tls, _| tls.key_pem = None);
    assert!(
        said.starts_with("tls.key_file: a client certificate needs"),
        "{said}"
    );
    let said = change(|tls, _| tls.cert_pem = None);
    assert!(
        said.starts_with("tls.cert_file: a client key needs"),
        "{said}"
    );
    let said = change(|tls, _| tls.key_pem = Some(Secret::new("x")));
    assert!(
        said.starts_with("tls.key_file: it has no readable private key"),
        "{said}"
    );
    let said = change(|tls, at| tls.key_pem = Some(Secret::new(at.pem("server.key"))));
    assert!(
        said.starts_with("tls.key_file: it is not the key of"),
        "{said}"
    );
    let said = change(|tls, at| tls.cert_pem = Some(at.pem("client.key")));
    assert!(
        said.starts_with("tls.cert_file: it has no certificate"),
        "{said}"
    );
    assert!(!format!("{good:?}").contains("BEGIN"));
}
