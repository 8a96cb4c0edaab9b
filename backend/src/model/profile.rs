//! Where a step spends its time, part by part. Off, it costs a comparison a part.

use std::time::{Duration, Instant};

use burn::tensor::Device;

/// A part of a step of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Rows of the embedding, and what all layers need to know of them.
    Embedding,
    /// With its norm, of all layers.
    Attention,
    /// Dense or experts, with its norm, of all layers.
    FeedForward,
    /// The last norm and the logits.
    Head,
    /// Draws, where the logits are.
    Sampler,
    /// What was drawn, from the device.
    Readback,
}

impl Part {
    pub const ALL: [Self; 6] =
        [Self::Embedding, Self::Attention, Self::FeedForward, Self::Head, Self::Sampler, Self::Readback];

    /// The value of the label `part` in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Attention => "attention",
            Self::FeedForward => "feed_forward",
            Self::Head => "head",
            Self::Sampler => "sampler",
            Self::Readback => "readback",
        }
    }
}

/// Time by part, in the order of [`Part::ALL`].
pub type Spent = [Duration; Part::ALL.len()];

/// A clock that is stopped after every part, if it runs. A GPU is waited for at every stop, so that its work is counted
/// where it was asked for: a profiled step is slower there, and its parts do not overlap.
#[derive(Debug, Default)]
pub struct Profile(Option<Clock>);

#[derive(Debug)]
struct Clock {
    device: Device,
    last: Instant,
    spent: Spent,
}

impl Profile {
    pub fn on(device: Device) -> Self {
        Self(Some(Clock { device, last: Instant::now(), spent: Spent::default() }))
    }

    /// A step begins.
    pub fn start(&mut self) {
        if let Some(clock) = &mut self.0 {
            (clock.last, clock.spent) = (Instant::now(), Spent::default());
        }
    }

    /// A part ends here: it began where the last one ended.
    pub fn stop(&mut self, part: Part) {
        let Some(clock) = &mut self.0 else { return };
        // A device that fails says so to whoever reads from it next.
        let _ = clock.device.sync();
        let now = Instant::now();
        clock.spent[part as usize] += now - std::mem::replace(&mut clock.last, now);
    }

    /// What the parts of the last step took; None while the clock does not run.
    pub fn spent(&self) -> Option<Spent> {
        self.0.as_ref().map(|clock| clock.spent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_counted_for_itself_and_anew_in_each_step() {
        const PART: Duration = Duration::from_millis(50);
        let mut profile = Profile::on(Device::flex());
        let mut began = Instant::now();
        for _ in 0..2 {
            began = Instant::now();
            profile.start();
            std::thread::sleep(PART);
            profile.stop(Part::Attention);
            profile.stop(Part::Readback);
            profile.stop(Part::Attention);
        }
        let (took, spent) = (began.elapsed(), profile.spent().unwrap());
        assert!(spent[1] >= PART && spent[1] <= took, "{spent:?} in {took:?}");
        assert!(spent[0].is_zero() && spent[2].is_zero() && spent[5] < spent[1]);
        assert_eq!(Profile::default().spent(), None);
    }
}
