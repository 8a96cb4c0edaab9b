//! The way to a node as a cost: moving averages of round-trip time and loss, in milliseconds a request would wait.

/// Time in which an old sample loses most of its say, milliseconds.
const MEMORY_MS: f32 = 10_000.0;
/// What one lost packet costs at least: Linux's smallest retransmission timeout, milliseconds.
const RETRANSMIT_MS: f32 = 200.0;
/// Loss above this is a node that cannot be reached, which is not this module's to say.
const MAX_LOSS: f32 = 0.9;

/// What was measured of the way to one node.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Network {
    /// Round-trip time, milliseconds; 0 before the first sample.
    rtt_ms: f32,
    /// Share of probes that were lost.
    loss: f32,
    sampled_ms: Option<u64>,
}

impl Network {
    /// A probe came back after `rtt_ms`.
    pub fn answered(&mut self, now_ms: u64, rtt_ms: f32) {
        let weight = self.weight(now_ms);
        let sample = if rtt_ms.is_finite() { rtt_ms.max(0.0) } else { return };
        self.rtt_ms = if self.rtt_ms == 0.0 { sample } else { self.rtt_ms + weight * (sample - self.rtt_ms) };
        self.loss -= weight * self.loss;
        self.sampled_ms = Some(now_ms);
    }

    /// A probe did not come back.
    pub fn lost(&mut self, now_ms: u64) {
        self.loss += self.weight(now_ms) * (1.0 - self.loss);
        self.sampled_ms = Some(now_ms);
    }

    pub fn rtt_ms(&self) -> f32 {
        self.rtt_ms
    }

    pub fn loss(&self) -> f32 {
        self.loss
    }

    /// Expected wait for one round trip, retransmissions included: each of the expected loss / (1 - loss) repeats costs
    /// a timeout.
    pub fn cost_ms(&self) -> f32 {
        let loss = self.loss.min(MAX_LOSS);
        self.rtt_ms + loss / (1.0 - loss) * (self.rtt_ms + RETRANSMIT_MS)
    }

    /// How much a sample counts: the more, the longer none came (an exponential average over time, not over samples).
    fn weight(&self, now_ms: u64) -> f32 {
        match self.sampled_ms {
            None => 1.0,
            Some(last) => (1.0 - (-(now_ms.saturating_sub(last) as f32) / MEMORY_MS).exp()).max(0.05),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_and_forgets() {
        let mut network = Network::default();
        assert_eq!(network.cost_ms(), 0.0);
        network.answered(0, 10.0);
        assert_eq!((network.rtt_ms(), network.cost_ms()), (10.0, 10.0));
        (1..=5).for_each(|second| network.answered(second * 1000, 110.0));
        assert!((40.0..60.0).contains(&network.rtt_ms()), "{network:?}");
        (6..=60).for_each(|second| network.answered(second * 1000, 10.0));
        assert!(network.rtt_ms() < 11.0, "{network:?}");
        network.answered(61_000, f32::NAN);
        assert!(network.rtt_ms() < 11.0);
    }

    #[test]
    fn loss_costs_timeouts_and_heals() {
        let mut network = Network::default();
        network.answered(0, 10.0);
        (1..=3).for_each(|second| network.lost(second * 1000));
        assert!((0.2..0.3).contains(&network.loss()), "{network:?}");
        assert!((60.0..100.0).contains(&network.cost_ms()), "{}", network.cost_ms());
        (4..=60).for_each(|second| network.answered(second * 1000, 10.0));
        assert!(network.cost_ms() < 12.0, "{network:?}");
        (61..=400).for_each(|second| network.lost(second * 1000));
        assert!(network.cost_ms().is_finite());
    }
}
