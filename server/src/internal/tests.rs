//! Both sides of the internal listener over real connections.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use futures::StreamExt;
use lease::{LeaseKey, LeaseToken, TokioClock};
use storage::testing::{Gate, Instance, Reply, Scene, module_zip, soon, until};
use storage::{
    AnswerBody, ArtifactKey, HttpPeers, HttpPeersConfig, PeerError, Peers, RelayAsk, RelayReply,
    Verdict, layout,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const SECRET: &[u8] = b"a secret of sixteen bytes or more";
const ZIP_PATH: &str = "example.com/m/@v/v1.0.0.zip";
const MIB: usize = 1 << 20;

fn key() -> ArtifactKey {
    layout::parse_path(ZIP_PATH).unwrap()
}

fn zip() -> bytes::Bytes {
    module_zip("example.com/m", "v1.0.0", MIB)
}

fn secret(bytes: &[u8]) -> FleetSecret {
    let secret = FleetSecret::new();
    secret.set(bytes).unwrap();
    secret
}

fn peers_with(secret: FleetSecret) -> Arc<HttpPeers> {
    let config = HttpPeersConfig::new(secret, |ip| ip.is_loopback());
    Arc::new(HttpPeers::new(config).unwrap())
}

/// A listener, its address, and the tokens that its owner knows.
struct Listening {
    listener: TcpListener,
    address: String,
    known: Arc<Mutex<Vec<LeaseToken>>>,
}

fn bound() -> Listening {
    let listener = crate::listen::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    Listening {
        listener,
        address,
        known: Arc::default(),
    }
}

/// Serves `instance` on `listening`; the server ends with the test's runtime.
fn serving(listening: Listening, instance: &Instance, secret: FleetSecret) {
    let known = listening.known;
    let internal = Internal {
        warmer: instance.warmer.clone(),
        grants: Arc::new(move |token: &LeaseToken| known.lock().unwrap().contains(token)),
        secret,
    };
    actix_web::rt::spawn(serve(internal, listening.listener).unwrap());
}

/// An instance that is reached over HTTP, and knows the tokens in the returned list.
fn reachable(scene: &Scene, name: &str) -> (Arc<Instance>, String, Arc<Mutex<Vec<LeaseToken>>>) {
    let listening = bound();
    let (address, known) = (listening.address.clone(), listening.known.clone());
    let builder = scene.instance(name).address(&address);
    let instance = Arc::new(builder.peers(peers_with(secret(SECRET))).start());
    serving(listening, &instance, secret(SECRET));
    (instance, address, known)
}

async fn token_of_zip(scene: &Scene) -> LeaseToken {
    let unit = LeaseKey::new(key().unit()).unwrap();
    scene.leases.get(&unit).await.unwrap().unwrap().token
}

// acceptance: F17
// acceptance: G1
// fault: 1
#[actix_web::test]
async fn a_follower_streams_from_the_holder_over_http() {
    for announced in [true, false] {
        let scene = Scene::new(Arc::new(TokioClock));
        let gate = Gate::new();
        let reply = Reply::body(zip()).held_at(MIB / 2, &gate).etag("\"v1\"");
        let reply = if announced {
            reply
        } else {
            reply.unannounced()
        };
        scene.upstream.serve(ZIP_PATH, reply);
        let (a, _, known) = reachable(&scene, "a");
        let (b, ..) = reachable(&scene, "b");
        drop(soon("the holder's head", a.get(&key())).await.unwrap());
        gate.reached(1).await;
        let token = token_of_zip(&scene).await;
        known.lock().unwrap().push(token);
        let answer = soon("the head", b.get(&key())).await.unwrap();
        assert_eq!(answer.cache.verdict, Verdict::Relayed);
        let AnswerBody::Arriving(arriving) = answer.body else {
            panic!("it does not arrive")
        };
        assert_eq!(arriving.announced_len().is_some(), announced);
        let mut pieces = arriving.stream(0..u64::MAX);
        let mut body = soon("a piece", pieces.next())
            .await
            .unwrap()
            .unwrap()
            .to_vec();
        gate.open();
        while let Some(piece) = soon("a piece", pieces.next()).await {
            body.extend_from_slice(&piece.unwrap());
        }
        assert!(body == zip(), "the client has other bytes");
        a.settled().await;
        b.settled().await;
        assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
    }
}

#[actix_web::test]
async fn grants_are_known_or_not_and_fills_too() {
    let scene = Scene::new(Arc::new(TokioClock));
    let (_a, address, known) = reachable(&scene, "a");
    let peers = peers_with(secret(SECRET));
    let tokens: Vec<_> = (0..1_024).map(|_| LeaseToken::random()).collect();
    known.lock().unwrap().extend(&tokens[1..]);
    let unknown = peers.unknown(&address, &tokens).await.unwrap();
    assert_eq!(unknown, [tokens[0]]);
    let ask = RelayAsk {
        unit: key().unit(),
        token: tokens[0],
        from: 0,
    };
    let reply = peers.open(&address, &ask).await.unwrap();
    assert!(matches!(reply, RelayReply::Unknown), "{reply:?}");
}

#[actix_web::test]
async fn without_the_fleets_secret_nothing_is_said() {
    let scene = Scene::new(Arc::new(TokioClock));
    let (_a, address, _) = reachable(&scene, "a");
    let stranger = peers_with(secret(b"another secret of some bytes"));
    for peers in [stranger, peers_with(FleetSecret::new())] {
        let answer = peers.unknown(&address, &[LeaseToken::random()]).await;
        assert!(
            matches!(answer, Err(PeerError::Unreachable { .. })),
            "{answer:?}"
        );
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = |path: &str| format!("http://{address}/internal/v1/{path}");
    let token = LeaseToken::random();
    let fill = url(&format!("fills?unit=u&token={token}&from=0"));
    assert_eq!(client.get(fill).send().await.unwrap().status(), 401);
    let question = client.post(url("grants")).body("{\"tokens\":[]}");
    assert_eq!(question.send().await.unwrap().status(), 401);
    let long = client.post(url("grants")).body(vec![b' '; 100_000]);
    assert_eq!(long.send().await.unwrap().status(), 413);
    for odd in [
        "fills",
        "fills?unit=u&token=t&from=0",
        "fills?unit=u&from=-1",
    ] {
        assert_eq!(
            client.get(url(odd)).send().await.unwrap().status(),
            400,
            "{odd}"
        );
    }
    assert_eq!(client.get(url("other")).send().await.unwrap().status(), 404);
}

#[actix_web::test]
async fn an_instance_without_a_secret_answers_503() {
    let scene = Scene::new(Arc::new(TokioClock));
    let listening = bound();
    let url = format!("http://{}/internal/v1/grants", listening.address);
    let instance = scene.instance("a").start();
    serving(listening, &instance, FleetSecret::new());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client
        .post(url)
        .body("{\"tokens\":[]}")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 503);
}

// acceptance: G3
// fault: 3
#[actix_web::test]
async fn only_a_refused_connection_is_refused() {
    let peers = peers_with(secret(SECRET));
    let tokens = [LeaseToken::random()];
    let closed = bound();
    let address = closed.address.clone();
    drop(closed);
    assert_eq!(
        peers.unknown(&address, &tokens).await,
        Err(PeerError::Refused)
    );
    let ask = RelayAsk {
        unit: key().unit(),
        token: tokens[0],
        from: 0,
    };
    let refused = peers.open(&address, &ask).await;
    assert!(matches!(refused, Err(PeerError::Refused)), "{refused:?}");

    // It takes the connection and says nothing: as a stopped process does.
    let silent = bound();
    let answer = peers.unknown(&silent.address, &tokens).await;
    assert!(
        matches!(answer, Err(PeerError::Unreachable { .. })),
        "{answer:?}"
    );

    // What anybody may say who is no instance of the fleet.
    for said in [
        "HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{\"unknown\":[]}",
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "",
    ] {
        let address = saying(said);
        let answer = peers.unknown(&address, &tokens).await;
        assert!(
            matches!(answer, Err(PeerError::Unreachable { .. })),
            "{said}: {answer:?}"
        );
        let answer = peers.open(&address, &ask).await;
        assert!(
            matches!(answer, Err(PeerError::Unreachable { .. })),
            "{said}: {answer:?}"
        );
    }
}

/// The address of somebody who says `said` to everybody and hangs up.
fn saying(said: &'static str) -> String {
    let listening = bound();
    let listener = tokio::net::TcpListener::from_std(listening.listener).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 2_048];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(said.as_bytes()).await;
        }
    });
    listening.address
}

#[actix_web::test]
async fn addresses_outside_the_allowed_networks_are_not_asked() {
    let config = HttpPeersConfig::new(secret(SECRET), |ip| ip.to_string() == "127.0.0.2");
    let peers = HttpPeers::new(config).unwrap();
    let listening = bound();
    let port = listening.address.rsplit(':').next().unwrap();
    listening.listener.set_nonblocking(true).unwrap();
    for host in [
        "127.0.0.1",
        "localhost",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "[::]",
    ] {
        let answer = peers.unknown(&format!("{host}:{port}"), &[]).await;
        assert!(
            matches!(answer, Err(PeerError::Unreachable { .. })),
            "{host}: {answer:?}"
        );
    }
    for odd in [
        "",
        ":",
        "127.0.0.2",
        "127.0.0.2:0",
        "a b:1",
        "127.0.0.2:99999",
        "@127.0.0.2:1/x",
    ] {
        let answer = peers.unknown(odd, &[]).await;
        assert!(
            matches!(answer, Err(PeerError::Unreachable { .. })),
            "{odd}: {answer:?}"
        );
    }
    let came = listening.listener.accept();
    assert_eq!(came.unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

// fault: 3
#[actix_web::test]
async fn a_relay_that_is_cut_on_the_way_goes_on_where_it_was() {
    let scene = Scene::new(Arc::new(TokioClock));
    let gate = Gate::new();
    let reply = Reply::body(zip()).held_at(MIB / 2, &gate);
    scene.upstream.serve(ZIP_PATH, reply);
    // Everybody reaches A through a wire that can be cut.
    let listening = bound();
    let wire = Wire::to(listening.address.clone());
    let peers = peers_with(secret(SECRET));
    let builder = scene.instance("a").address(&wire.address);
    let a = Arc::new(builder.peers(peers.clone()).start());
    listening.known.lock().unwrap().clear();
    serving(listening, &a, secret(SECRET));
    let (b, ..) = reachable(&scene, "b");
    drop(soon("the holder's head", a.get(&key())).await.unwrap());
    gate.reached(1).await;
    let answer = soon("the head", b.get(&key())).await.unwrap();
    until("half of the body", || {
        let flights = b.warmer.flights();
        flights
            .iter()
            .any(|flight| flight.bytes > (MIB / 2) as u64 - 70_000)
    })
    .await;
    wire.cut();
    let reading = tokio::spawn(storage::testing::read_answer(answer));
    until("the relay to be opened again", || wire.connections() >= 2).await;
    gate.open();
    assert!(
        soon("the end", reading).await.unwrap().unwrap() == zip(),
        "other bytes"
    );
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
}

/// A TCP forwarder whose connections can be cut, all at once.
struct Wire {
    address: String,
    cuts: Arc<tokio::sync::watch::Sender<u64>>,
    connections: Arc<std::sync::atomic::AtomicUsize>,
}

impl Wire {
    fn to(target: String) -> Self {
        let listening = bound();
        let listener = tokio::net::TcpListener::from_std(listening.listener).unwrap();
        let wire = Self {
            address: listening.address,
            cuts: Arc::new(tokio::sync::watch::Sender::new(0)),
            connections: Arc::default(),
        };
        let (cuts, connections) = (wire.cuts.clone(), wire.connections.clone());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                connections.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let (target, mut cuts) = (target.clone(), cuts.subscribe());
                tokio::spawn(async move {
                    let mut far = tokio::net::TcpStream::connect(target).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        wire
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    fn connections(&self) -> usize {
        self.connections.load(std::sync::atomic::Ordering::SeqCst)
    }
}
