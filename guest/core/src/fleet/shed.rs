//! When a request is turned away because no node could begin it in time, and after how long to come back.

use super::Load;

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shed {
    /// Seconds after which a try makes sense.
    pub retry_after: u32,
}

/// Longest time to ask anyone to wait, seconds.
const MAX_RETRY_AFTER: u32 = 60;

/// Turns a request away when every node has `queue` requests more than it has slots. A node whose slots are unknown
/// takes everything; it says itself when it is full.
///
/// `mean_answer_ms` is what an answer took lately, 0 when unknown: the time in which the shortest queue moves on by one
/// is that over the node's slots.
pub fn shed(nodes: &[Load], queue: u32, mean_answer_ms: f32) -> Option<Shed> {
    let mut soonest = f32::INFINITY;
    for node in nodes {
        let room = node.slots.saturating_add(queue);
        if node.slots == 0 || node.busy < room {
            return None;
        }
        let over = (node.busy - room + 1) as f32;
        soonest = soonest.min(over * mean_answer_ms / node.slots as f32);
    }
    if nodes.is_empty() {
        return None;
    }
    let seconds = (soonest / 1000.0).ceil().clamp(1.0, MAX_RETRY_AFTER as f32);
    Some(Shed { retry_after: seconds as u32 })
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
    fn the_shortest_queue_says_when_to_come_back() {
        assert_eq!(shed(&[node(6, 4), node(26, 4)], 2, 20_000.0), Some(Shed { retry_after: 5 }));
        assert_eq!(shed(&[node(9_000, 1)], 2, 20_000.0), Some(Shed { retry_after: 60 }));
    }
}
