//! An S3 server on loopback, and a link to it that breaks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::store::{ArtifactStore, StoreOptions};

/// A server with one bucket, `bucket`; it ends with the test's runtime.
pub(super) struct S3Server {
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl S3Server {
    pub(super) async fn start() -> Self {
        // The client is built without a default provider of cryptography, even for plain HTTP.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bucket")).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single("key", "secret"));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            while let Ok((socket, _)) = listener.accept().await {
                let connection = server
                    .serve_connection(TokioIo::new(socket), service.clone())
                    .into_owned();
                tokio::spawn(connection);
            }
        });
        Self { address, _dir: dir }
    }

    pub(super) fn store(&self, url: &str) -> ArtifactStore {
        open(self.address, url, StoreOptions::default())
    }

    /// A link that cuts `cuts` answers once their connection has carried `bytes`, or falls silent
    /// there.
    pub(super) async fn broken_link(&self, cuts: i64, bytes: usize, silent: bool) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = self.address;
        let state = Arc::new(LinkState {
            cuts: AtomicI64::new(cuts),
            bytes: AtomicUsize::new(bytes),
            connections: AtomicUsize::new(0),
            silent,
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                state.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(relay(client, server, Arc::clone(&state)));
            }
        });
        let options = StoreOptions {
            stall_timeout: Duration::from_millis(300),
            ..StoreOptions::default()
        };
        Link {
            store: open(address, "s3://bucket", options),
            state: shared,
        }
    }
}

/// A store behind a link that breaks.
pub(super) struct Link {
    pub(super) store: ArtifactStore,
    state: Arc<LinkState>,
}

struct LinkState {
    cuts: AtomicI64,
    bytes: AtomicUsize,
    connections: AtomicUsize,
    silent: bool,
}

impl Link {
    pub(super) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// From now on no answer gets through.
    pub(super) fn sever(&self) {
        self.state.bytes.store(0, Ordering::Relaxed);
        self.state.cuts.store(i64::MAX, Ordering::Relaxed);
    }
}

/// A store whose server gives one and the same answer to everything.
pub(super) async fn store_that_answers(status: &'static str, body: &'static str) -> ArtifactStore {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    if client.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let len = body.len();
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {len}\r\n");
                let answer = format!("{head}connection: close\r\n\r\n{body}");
                let _ = client.write_all(answer.as_bytes()).await;
            });
        }
    });
    open(address, "s3://bucket", StoreOptions::default())
}

fn open(address: SocketAddr, url: &str, options: StoreOptions) -> ArtifactStore {
    let settings = [
        ("AWS_ENDPOINT_URL", format!("http://{address}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "key".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ("AWS_PAGER", "less".to_owned()),
    ];
    let settings = settings
        .map(|(key, value)| (key.to_owned(), value))
        .to_vec();
    ArtifactStore::open(
        url,
        StoreOptions {
            settings,
            ..options
        },
    )
    .unwrap()
}

async fn relay(client: TcpStream, server: SocketAddr, link: Arc<LinkState>) {
    let server = TcpStream::connect(server).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    let mut passed = 0;
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
        passed += count;
        if passed > link.bytes.load(Ordering::Relaxed)
            && link.cuts.fetch_sub(1, Ordering::Relaxed) > 0
        {
            if link.silent {
                std::future::pending::<()>().await;
            }
            break;
        }
        if to_client.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    requests.abort();
}
