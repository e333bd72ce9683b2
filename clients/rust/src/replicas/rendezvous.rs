//! Which replica a consumer belongs to: rendezvous hashing. Pure, and the same in every process that
//! knows the same replicas; it knows nothing of who is there.
//!
//! Each replica has a score for each consumer, and the consumer belongs to the highest. A replica
//! that leaves gives its consumers to the next in each one's own order, and moves nobody else; one
//! that comes takes its share, and moves nobody between the others. (Thaler and Ravishankar, "Using
//! name-based mappings to increase hit rates", 1998.)
//!
//! The score of replica `r` for consumer `c`, all in 64 bits, wrapping:
//! `mix(fnv1a(c) ^ mix(fnv1a(r)))`, where `fnv1a` is FNV-1a over the UTF-8 bytes of the consumer id
//! or of the address (`10.0.0.7:50051`, `[::1]:50051`), and `mix` is the finalizer of MurmurHash3
//! (`fmix64`). It is written down because clients in other languages must agree; the tests hold a
//! few values.

use std::{cmp::Reverse, net::SocketAddr};

/// What scores need of a consumer.
pub fn consumer_hash(consumer_id: &str) -> u64 {
    fnv1a(consumer_id.as_bytes())
}

/// What scores need of a replica.
pub fn replica_hash(address: SocketAddr) -> u64 {
    mix(fnv1a(address.to_string().as_bytes()))
}

/// How much a consumer belongs to a replica: the highest has them.
pub fn score(consumer_hash: u64, replica_hash: u64) -> u64 {
    mix(consumer_hash ^ replica_hash)
}

/// The places of the replicas in a consumer's order: the one that they belong to first.
pub fn order(consumer_hash: u64, replica_hashes: &[u64]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..replica_hashes.len()).collect();
    // Two hashes are equal by chance once in 2^64; then whoever stands first is first.
    places.sort_by_key(|place| Reverse(score(consumer_hash, replica_hashes[*place])));
    places
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn replicas(count: u8) -> Vec<u64> {
        let address = |last| SocketAddr::from(([10, 0, 0, last], 50_051));
        (1..=count)
            .map(|last| replica_hash(address(last)))
            .collect()
    }

    #[test]
    fn hashes_are_those_that_are_written_down() {
        // The first two are of FNV's own test vectors.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(mix(0), 0);
        // These were computed apart from this code, by the words above.
        assert_eq!(consumer_hash("diego"), 0xa3b4_b199_6e6d_8717);
        let address = "10.0.0.7:50051".parse().unwrap();
        assert_eq!(replica_hash(address), 0xf494_742e_df5b_efb6);
        assert_eq!(order(consumer_hash("diego"), &replicas(5)), [1, 0, 3, 2, 4]);
    }

    #[test]
    fn replicas_have_about_equal_shares_even_of_consumers_with_like_names() {
        let replicas = replicas(5);
        let mut shares = [0_u32; 5];
        for number in 0..50_000 {
            let consumer = consumer_hash(&format!("fan-{number}"));
            shares[order(consumer, &replicas)[0]] += 1;
        }
        assert!(
            shares.iter().all(|share| share.abs_diff(10_000) < 400),
            "{shares:?}"
        );
    }

    proptest! {
        #[test]
        fn a_replica_that_leaves_moves_its_own_consumers_only_and_each_to_its_next(
            consumer in ".{1,40}", count in 2u8..9, leaving in 0usize..9,
        ) {
            let all = replicas(count);
            let leaving = leaving % all.len();
            let consumer = consumer_hash(&consumer);
            let hashes = |places: Vec<usize>, replicas: &[u64]| -> Vec<u64> {
                places.into_iter().map(|place| replicas[place]).collect()
            };
            let mut rest = all.clone();
            rest.remove(leaving);
            let mut before = hashes(order(consumer, &all), &all);
            before.retain(|hash| *hash != all[leaving]);
            // The order of the others is what it was, so a replica that comes back takes its own.
            prop_assert_eq!(before, hashes(order(consumer, &rest), &rest));
        }

        #[test]
        fn the_order_does_not_depend_on_how_replicas_are_listed(
            consumer in ".{1,40}", shuffled in Just(replicas(6)).prop_shuffle(),
        ) {
            let all = replicas(6);
            let consumer = consumer_hash(&consumer);
            let best = |replicas: &[u64]| replicas[order(consumer, replicas)[0]];
            prop_assert_eq!(best(&all), best(&shuffled));
        }
    }
}
