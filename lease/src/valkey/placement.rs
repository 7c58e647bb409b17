//! `Placement`: which of several independent servers has a key.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): every server has a score for every key, and
//! the key lives where the score is highest. There is no shared table and nothing to agree on but
//! the servers' names, and taking a server away moves the keys it had and no others.

use sha2::{Digest, Sha256};

/// Which server of a ring has which key.
///
/// Depends on the set of names alone: not on their order, the instance, or the build.
///
/// | number | computed as |
/// |---|---|
/// | `h(text)` | the first 8 bytes of SHA-256 of the text, big-endian |
/// | score of a server for a key | `mix(h(key) xor h(name))`, `mix` being the finalizer of SplitMix64 |
///
/// This is a wire format: instances that compute it differently ask different servers for the same
/// lease and fetch twice.
#[derive(Debug, Clone)]
pub(crate) struct Placement {
    /// `h(name)` of each server, in the order of the configuration.
    names: Vec<u64>,
}

impl Placement {
    /// Makes the placement over the servers `names`, which are distinct.
    ///
    /// The same server must have the same name on every instance of the fleet.
    pub(crate) fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names = names.into_iter().map(hash).collect();
        Self { names }
    }

    /// Returns the place in the list of the server that has `key`; 0 for an empty list.
    pub(crate) fn node_of(&self, key: &str) -> usize {
        if self.names.len() < 2 {
            return 0;
        }
        let key = hash(key);
        let scores = self.names.iter().map(|name| mix(key ^ name)).enumerate();
        // `mix` is a bijection, so two servers score alike for one key only if their names hash
        // alike; `max_by_key` then takes the later one, whatever its name.
        scores
            .max_by_key(|(_, score)| *score)
            .map_or(0, |(at, _)| at)
    }
}

fn hash(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014; constants by Stafford).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: usize = 6_000;

    fn names(count: usize) -> Vec<String> {
        (0..count)
            .map(|i| format!("cache-{i}.internal:6379"))
            .collect()
    }

    fn placement(names: &[String]) -> Placement {
        Placement::new(names.iter().map(String::as_str))
    }

    fn keys() -> impl Iterator<Item = String> {
        (0..KEYS).map(|i| format!("example.com/m{i}@v1.{i}.0.zip"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        // acceptance: A2
        #[test]
        fn the_order_of_the_list_does_not_matter(
            (sorted, shuffled) in (1..=64_usize).prop_map(names)
                .prop_flat_map(|names| (Just(names.clone()), Just(names).prop_shuffle())),
            key in ".{1,80}",
        ) {
            let at = placement(&sorted).node_of(&key);
            prop_assert_eq!(&sorted[at], &shuffled[placement(&shuffled).node_of(&key)]);
        }

        // acceptance: A2
        #[test]
        fn a_removed_server_moves_its_own_keys_and_no_others(
            count in 2..=12_usize,
            removed in any::<prop::sample::Index>(),
        ) {
            let (all, gone) = (names(count), removed.index(count));
            let mut rest = all.clone();
            rest.remove(gone);
            let (before, after) = (placement(&all), placement(&rest));
            let mut moved = 0;
            for key in keys() {
                let old = before.node_of(&key);
                if old == gone {
                    moved += 1;
                } else {
                    prop_assert_eq!(&all[old], &rest[after.node_of(&key)]);
                }
            }
            let share = KEYS / count;
            prop_assert!((share * 8 / 10..=share * 12 / 10).contains(&moved), "{} of {}", moved, share);
        }
    }

    // acceptance: A2
    #[test]
    fn servers_get_equal_shares() {
        for count in [2, 3, 5, 10] {
            let placement = placement(&names(count));
            let mut shares = vec![0; count];
            for key in keys() {
                shares[placement.node_of(&key)] += 1;
            }
            let fair = KEYS / count;
            let fine = (fair * 8 / 10)..=(fair * 12 / 10);
            assert!(
                shares.iter().all(|share| fine.contains(share)),
                "{shares:?}"
            );
        }
    }

    // acceptance: A2
    #[test]
    fn the_wire_format_stays() {
        let placement = placement(&names(3));
        let places: Vec<_> = keys().take(12).map(|key| placement.node_of(&key)).collect();
        // Computed by an independent program from the table above.
        assert_eq!(places, [2, 0, 2, 2, 1, 1, 0, 1, 1, 0, 1, 1]);
        assert_eq!(hash("k"), 0x8254_c329_a928_50f6);
        assert_eq!(mix(1), 0x5692_161d_100b_05e5);
    }

    #[test]
    fn one_server_or_none_has_everything() {
        assert_eq!(placement(&names(1)).node_of("k"), 0);
        assert_eq!(placement(&[]).node_of("k"), 0);
    }
}
