//! Clients that go on asking while a fleet's instances are restarted one after the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use e2e::client::{self, Ending, Reply};
use e2e::upstream::{FixtureModule, file_path};
use e2e::wait::{self, PATIENCE};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::fixtures::V;
use crate::fleet_scene::Scene;

/// Adds `files` modules of 150 kB, which upstream sends at `bytes_per_second` each; returns the
/// paths of their zips.
pub(crate) fn slow_zips(scene: &Scene, files: usize, bytes_per_second: u64) -> Vec<String> {
    let zips = (0..files).map(|number| {
        let name = format!("example.com/rolling{number}");
        let module = FixtureModule::new(&name).version_sized(V, 150_000);
        scene.upstream.add(&module);
        let zip = file_path(&name, V, "zip");
        scene.upstream.path(&zip).bytes_per_second(bytes_per_second);
        zip
    });
    zips.collect()
}

/// A third of the clients at each of three instances, all asking for one file after the other.
pub(crate) struct RollingLoad {
    paths: Vec<String>,
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
    is_over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<(String, Reply)>>>,
}

impl RollingLoad {
    pub(crate) fn start(scene: &Scene, paths: &[String], clients: usize) -> Self {
        let addresses = (0..3).map(|index| scene.fleet.corral(index).addr());
        let addresses = Arc::new(Mutex::new(addresses.collect::<Vec<_>>()));
        let is_over = Arc::new(AtomicBool::new(false));
        let clients = (0..clients).map(|client| {
            let (paths, addresses) = (paths.to_vec(), Arc::clone(&addresses));
            let is_over = Arc::clone(&is_over);
            tokio::spawn(async move {
                let mut replies = Vec::new();
                for path in paths.iter().cycle().skip(client / 3) {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let addr = addresses.lock().await[client % 3];
                    replies.push((path.clone(), client::get(addr, path).await));
                }
                replies
            })
        });
        Self {
            clients: clients.collect(),
            paths: paths.to_vec(),
            addresses,
            is_over,
        }
    }

    /// Stops and starts each instance once, while files are being fetched.
    pub(crate) async fn restart_each(&self, scene: &mut Scene) {
        for index in 0..3 {
            let asked = scene.upstream.requests();
            let last = self.paths.len() as u64 - 3;
            wait::until("the load goes on", PATIENCE, async || {
                scene.upstream.requests() > asked.min(last) + 2
            })
            .await;
            let member = &mut scene.fleet.members[index];
            member.corral.terminate(PATIENCE).await;
            let setup = member.corral.setup().clone();
            member.corral = setup.start().await;
            self.addresses.lock().await[index] = member.corral.addr();
        }
    }

    /// Ends the load and checks every answer: none was cut, none had other bytes, and each file
    /// cost no more requests than one and one for each restart. Returns the path of each whole
    /// answer.
    pub(crate) async fn end(self, scene: &Scene) -> Vec<String> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut whole = Vec::new();
        for client in self.clients {
            for (path, reply) in client.await.unwrap() {
                let cut = reply.status == 200 && matches!(reply.ending, Ending::Cut(_));
                assert!(!cut, "{path}: a 200 of {} bytes was cut", reply.body_bytes);
                if reply.whole_success() {
                    let is_ours = reply.body == scene.upstream.body(&path);
                    assert!(is_ours, "{path}: other bytes");
                    whole.push(path);
                }
            }
        }
        for path in &self.paths {
            let requests = scene.upstream.path(path).requests();
            assert!(requests <= 1 + 3, "{path}: {requests} requests");
        }
        whole
    }
}
