//! How even is a load? Figures over endpoints, each load divided by its weight.

/// Figures of one distribution.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Skew {
    /// Highest share ÷ fair share; 1 is even. Capacity lost is 1 − 1/skew.
    pub skew: f64,
    /// Coefficient of variation: standard deviation ÷ mean.
    pub cv: f64,
    /// Jain's fairness index, 1/(1 + CV²): 1 is even, 1/n is all on one.
    pub jain: f64,
    /// n · Jain: "you pay for n, you use this many".
    pub effective: f64,
    /// The skew that random placement would have: 1 + √(2·ln n/µ), µ the mean load.
    pub chance: f64,
}

/// Figures of loads with weights; `None` without endpoints or without load.
pub fn skew(loads: &[(f64, f64)]) -> Option<Skew> {
    let n = loads.len() as f64;
    let x = || loads.iter().map(|&(load, weight)| load / weight);
    let mean = x().sum::<f64>() / n;
    if !(mean.is_finite() && mean > 0.0) {
        return None;
    }
    let (sum, squares) = x().fold((0.0, 0.0), |(sum, squares), v| (sum + v, squares + v * v));
    let jain = sum * sum / (n * squares);
    let cv = libm::sqrt((1.0 / jain - 1.0).max(0.0));
    let (total, weights) = loads.iter().fold((0.0, 0.0), |(t, w), &(load, weight)| (t + load, w + weight));
    Some(Skew {
        // Fair is what the weights make of the total, which is not the mean of x if weights differ.
        skew: x().fold(0.0, f64::max) * weights / total,
        cv,
        jain,
        effective: n * jain,
        chance: 1.0 + libm::sqrt(2.0 * libm::log(n) * n / total),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_all_on_one_and_weighted() {
        let even = skew(&[(3.0, 1.0); 4]).unwrap();
        assert_eq!((even.skew, even.cv, even.jain, even.effective), (1.0, 0.0, 1.0, 4.0));
        let one = skew(&[(8.0, 1.0), (0.0, 1.0), (0.0, 1.0), (0.0, 1.0)]).unwrap();
        assert_eq!((one.skew, one.jain, one.effective), (4.0, 0.25, 1.0));
        assert_eq!(skew(&[(2.0, 1.0), (4.0, 2.0)]).unwrap().skew, 1.0);
        // Half of the work against a quarter of the weight.
        assert_eq!(skew(&[(2.0, 1.0), (2.0, 3.0)]).unwrap().skew, 2.0);
        assert_eq!(skew(&[]), None);
        assert_eq!(skew(&[(0.0, 1.0)]), None);
    }
}
