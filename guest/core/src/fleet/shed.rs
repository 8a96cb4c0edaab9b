//! When a request is turned away because no node could begin it in time, and after how long to come back.

use super::Load;

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shed {
    /// Seconds after which a try makes sense.
    pub retry_after: u32,
}

/// Longest time to ask anyone to wait for a queue to move on, seconds.
const MAX_RETRY_AFTER: u32 = 60;
/// Longest time for which a node is left alone at its own word, seconds. After that it is asked whether it means it.
pub const MAX_REST: u32 = 600;

/// Turns a request away when every node has `queue` requests more than it has slots, or asked to be left alone for a
/// while. A node whose slots are unknown takes everything; it says itself when it is full.
///
/// `mean_answer_ms` is what an answer took lately, 0 when unknown: the time in which the shortest queue moves on by one
/// is that over the node's slots.
pub fn shed(nodes: &[Load], queue: u32, mean_answer_ms: f32) -> Option<Shed> {
    let mut soonest: Option<u32> = None;
    for node in nodes {
        let room = node.slots.saturating_add(queue);
        let mut wait = node.rest_s.min(MAX_REST);
        if node.slots != 0 && node.busy >= room {
            let over = (node.busy - room + 1) as f32;
            let seconds = (over * mean_answer_ms / node.slots as f32 / 1000.0).ceil();
            // What it says itself and what its queue says hold both.
            wait = wait.max(seconds.clamp(1.0, MAX_RETRY_AFTER as f32) as u32);
        }
        if wait == 0 {
            return None;
        }
        soonest = Some(soonest.map_or(wait, |other| other.min(wait)));
    }
    soonest.map(|retry_after| Shed { retry_after })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(busy: u32, slots: u32) -> Load {
        Load { busy, slots, ..Load::default() }
    }

    #[test]
    fn only_a_fleet_without_room_turns_away() {
        assert_eq!(shed(&[node(6, 4), node(5, 4)], 2, 0.0), None);
        assert_eq!(shed(&[node(6, 4), node(6, 4)], 2, 0.0), Some(Shed { retry_after: 1 }));
        assert_eq!(shed(&[node(6, 4), node(1000, 0)], 2, 0.0), None);
        assert_eq!(shed(&[], 2, 0.0), None);
        assert_eq!(shed(&[node(u32::MAX, u32::MAX)], 2, 0.0), Some(Shed { retry_after: 1 }));
    }

    #[test]
    fn a_node_that_is_to_be_left_alone_has_no_room() {
        let resting = |rest_s| Load { rest_s, ..node(0, 4) };
        assert_eq!(shed(&[resting(7), node(0, 4)], 2, 0.0), None);
        assert_eq!(shed(&[resting(7), resting(3)], 2, 0.0), Some(Shed { retry_after: 3 }));
        assert_eq!(shed(&[resting(7), node(26, 4)], 2, 4_000.0), Some(Shed { retry_after: 7 }), "sooner than 21 s");
        assert_eq!(shed(&[Load { rest_s: 7, ..Load::default() }], 2, 0.0), Some(Shed { retry_after: 7 }));
        assert_eq!(shed(&[resting(u32::MAX)], 2, 0.0), Some(Shed { retry_after: MAX_REST }));
        assert_eq!(shed(&[Load { rest_s: 2, ..node(26, 4) }], 2, 4_000.0), Some(Shed { retry_after: 21 }));
    }

    #[test]
    fn the_shortest_queue_says_when_to_come_back() {
        assert_eq!(shed(&[node(6, 4), node(26, 4)], 2, 20_000.0), Some(Shed { retry_after: 5 }));
        assert_eq!(shed(&[node(9_000, 1)], 2, 20_000.0), Some(Shed { retry_after: 60 }));
    }
}
