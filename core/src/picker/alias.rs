//! Draws by weight in constant time (Walker's alias method, built as Vose does).

use crate::rng::Rng;
use alloc::vec::Vec;

/// One slot in eight bytes: below the threshold it means itself, above it its alias.
#[derive(Clone, Copy, Debug)]
struct Slot {
    threshold: u32,
    alias: u32,
}

/// An alias table over `0..n`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alias(Vec<Slot>);

impl Alias {
    /// Draws `i` with probability `weights[i]` ÷ their sum. Weights are positive and finite.
    pub(crate) fn new(weights: impl ExactSizeIterator<Item = f64> + Clone) -> Self {
        let (n, sum) = (weights.len(), weights.clone().sum::<f64>());
        let mut scaled: Vec<f64> = weights.map(|w| w * n as f64 / sum).collect();
        let mut slots: Vec<Slot> = (0..n as u32).map(|i| Slot { threshold: u32::MAX, alias: i }).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..n).partition(|&i| scaled[i] < 1.0);
        while let (Some(less), Some(&more)) = (small.pop(), large.last()) {
            slots[less] = Slot { threshold: (scaled[less] * f64::from(u32::MAX)) as u32, alias: more as u32 };
            scaled[more] -= 1.0 - scaled[less];
            if scaled[more] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        // What is left is 1 up to rounding, and stands for itself.
        Self(slots)
    }

    /// One draw: one random number gives slot and coin. The table must not be empty.
    #[inline]
    pub(crate) fn draw(&self, rng: &mut Rng) -> usize {
        let random = rng.next_u64();
        let index = ((u128::from(random) * self.0.len() as u128) >> 64) as usize;
        let slot = self.0[index];
        if random as u32 <= slot.threshold { index } else { slot.alias as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_weights() {
        let weights = [1.0, 2.0, 0.1, 6.9];
        let (table, mut rng) = (Alias::new(weights.into_iter()), Rng::seeded(1));
        let mut counts = [0u32; 4];
        for _ in 0..100_000 {
            counts[table.draw(&mut rng)] += 1;
        }
        for (count, weight) in counts.iter().zip(weights) {
            let (mean, p) = (weight * 10_000.0, weight / 10.0);
            let sigma = libm::sqrt(mean * (1.0 - p));
            assert!((f64::from(*count) - mean).abs() < 5.0 * sigma, "{counts:?}");
        }
    }
}
