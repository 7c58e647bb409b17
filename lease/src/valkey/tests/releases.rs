//! Releases that come twice, late and out of order.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::{LeaseToken, Outcome, Released};

// fault: 19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_old_release_ever_frees_a_newer_lease() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let instances = [connect(&server).await, connect(&server).await];
    for seed in 0..5_u64 {
        let mut random = StdRng::seed_from_u64(seed);
        let name = format!("k{seed}");
        let mut in_force: Option<LeaseToken> = None;
        let mut grants = Vec::new();
        for step in 0..200 {
            let at = format!("seed {seed} step {step}");
            let instance = &instances[random.random_range(0..2)];
            if grants.is_empty() || random.random_bool(0.4) {
                match acquire(instance, &name).await.unwrap() {
                    Acquire::Granted(grant) => {
                        assert_eq!(in_force, None, "{at}");
                        in_force = Some(grant.token);
                        grants.push(grant);
                    }
                    Acquire::Held(held) => assert_eq!(in_force, Some(held.token), "{at}"),
                }
                continue;
            }
            // Any grant there ever was, again and again, and at times twice at once.
            let grant: &Grant = &grants[random.random_range(0..grants.len())];
            let leases = instance.leases();
            let mine = in_force == Some(grant.token);
            let (first, second) = match random.random_bool(0.3) {
                true => tokio::join!(
                    leases.release(grant, Outcome::Stored),
                    leases.release(grant, Outcome::Failed)
                ),
                false => (
                    leases.release(grant, Outcome::Stored).await,
                    Ok(Released::NotOwner),
                ),
            };
            let released = [first.unwrap(), second.unwrap()];
            let took_effect = released
                .iter()
                .filter(|r| **r == Released::Released)
                .count();
            assert_eq!(took_effect, usize::from(mine), "{at}");
            if mine {
                in_force = None;
            }
        }
    }
}
