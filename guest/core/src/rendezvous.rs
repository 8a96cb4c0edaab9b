//! Rendezvous hashing: each session has its own order of preference over the nodes, and a node that comes or goes
//! moves only the sessions it wins or had.
//!
//! Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998.

/// How much `session` prefers `node`: the largest score is the first choice. The same on every machine and in every
/// release, so that edges agree without talking.
pub fn score(session: &str, node: &str) -> u64 {
    combine(hash(session), hash(node))
}

/// A name as a number: FNV-1a, then [`mix`], because the last bytes of FNV-1a reach only some of its bits.
pub fn hash(name: &str) -> u64 {
    mix(name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)))
}

/// The [`score`] of two hashed names.
pub fn combine(session: u64, node: u64) -> u64 {
    mix(session ^ node.rotate_left(32))
}

/// MurmurHash3's finaliser: every bit of the input reaches every bit of the output.
pub fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The at most `k` nodes that `session` prefers, first choice first.
pub fn order<'a>(session: &str, nodes: impl IntoIterator<Item = &'a str>, k: usize) -> Vec<&'a str> {
    let session = hash(session);
    let mut scored: Vec<_> = nodes.into_iter().map(|node| (combine(session, hash(node)), node)).collect();
    scored.sort_unstable_by(|a, b| b.cmp(a));
    scored.truncate(k);
    scored.into_iter().map(|(_, node)| node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];

    #[test]
    fn sessions_spread_evenly_and_move_only_with_their_node() {
        let mut first = [0; 4];
        for i in 0..4000 {
            let session = format!("session {i}");
            let whole = order(&session, NODES, 4);
            first[NODES.iter().position(|n| *n == whole[0]).unwrap()] += 1;
            let without = order(&session, NODES.into_iter().filter(|n| *n != "n3"), 4);
            assert_eq!(without, whole.into_iter().filter(|n| *n != "n3").collect::<Vec<_>>());
        }
        assert!(first.iter().all(|n| (850..1150).contains(n)), "{first:?}");
    }

    #[test]
    fn names_do_not_run_into_each_other() {
        assert_ne!(score("ab", "c"), score("a", "bc"));
        assert_ne!(score("a", "b"), score("b", "a"));
        assert_ne!(score("a", "a"), score("b", "b"));
    }

    #[test]
    fn the_scores_stay_as_they_are() {
        assert_eq!([score("s", "n1"), score("s", "n2")], [0x0e91_2c6c_5571_7f50, 0x34b1_7a01_8e70_9668]);
    }
}
