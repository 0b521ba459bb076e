//! Static stride: smooth weighted turns from one counter (gRPC A58 describes the scheme).

use super::Counter;
use alloc::vec::Vec;

/// The largest weight, after scaling.
const MAX: u64 = 65_535;
/// Spreads the turns of endpoints of equal weight over the generations.
const OFFSET: u64 = 32_767;

/// Weighted turns over `0..n`.
#[derive(Debug, Default)]
pub(crate) struct Stride {
    weights: Vec<u16>,
    next: Counter,
}

impl Stride {
    /// Weights are clamped to 1 % … 1,000 % of their mean and scaled to 16 bits; `start` is where
    /// the sequence begins, different in every picker.
    pub(crate) fn new(weights: impl ExactSizeIterator<Item = f64> + Clone, start: u64) -> Self {
        let mean = weights.clone().sum::<f64>() / weights.len().max(1) as f64;
        let clamped = weights.map(|w| w.clamp(mean * 0.01, mean * 10.0));
        let largest = clamped.clone().fold(f64::MIN_POSITIVE, f64::max);
        let scale = |w: f64| ((w / largest * MAX as f64) as u16).max(1);
        Self { weights: clamped.map(scale).collect(), next: Counter::new(start) }
    }

    /// The next in turn. The sequence must not be empty.
    ///
    /// Within any stretch of m picks, |count_i − m·w_i/W| < 1 + n·w_i/W.
    #[inline]
    pub(crate) fn next(&self) -> usize {
        let n = self.weights.len() as u64;
        loop {
            let sequence = self.next.next();
            let (i, generation) = (sequence % n, sequence / n);
            let weight = u64::from(self.weights[i as usize]);
            // An endpoint of the largest weight is taken in every generation.
            if (weight * generation + i * OFFSET) % MAX >= MAX - weight {
                return i as usize;
            }
        }
    }
}
