//! The figures: how evenly requests are spread, how long they take, and what chance alone does.

use serde::Serialize;

/// How evenly a total is spread over Pods.
#[derive(Clone, PartialEq, Debug)]
pub struct Spread {
    /// Each Pod's part of the total, 0 to 1; all 0 if there is no total.
    pub shares: Vec<f64>,
    /// What each Pod would have if all had the same, 0 to 1.
    pub fair_share: f64,
    /// Highest share ÷ fair share: 1 is even, the number of Pods is the worst. `None` without a total.
    pub skew: Option<f64>,
    /// Jain's index (Σx)² ÷ (n·Σx²): 1 is even, 1/n is the worst. `None` without a total.
    pub jain: Option<f64>,
    /// n × Jain's index: "you pay for 5, you use 1.8". `None` without a total.
    pub effective_pods: Option<f64>,
    /// Pods that got nothing.
    pub idle_pods: usize,
}

impl Spread {
    /// Of what each Pod counted.
    pub fn of(counts: &[u64]) -> Self {
        let n = counts.len() as f64;
        let total = counts.iter().sum::<u64>() as f64;
        let some = |figure: f64| (total > 0.0).then_some(figure);
        let squares: f64 = counts.iter().map(|&count| (count as f64).powi(2)).sum();
        let highest = counts.iter().copied().max().unwrap_or(0) as f64;
        let jain = total * total / (n * squares);
        Self {
            shares: counts.iter().map(|&count| some(count as f64 / total).unwrap_or(0.0)).collect(),
            fair_share: if counts.is_empty() { 0.0 } else { 1.0 / n },
            skew: some(highest * n / total),
            jain: some(jain),
            effective_pods: some(n * jain),
            idle_pods: counts.iter().filter(|&&count| count == 0).count(),
        }
    }
}

/// The nearest-rank percentile (`q` in 0 to 1) of unsorted values, which it sorts.
pub fn percentile(values: &mut [f64], q: f64) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let rank = (q * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
}

/// What placing connections at random does on average: the occupancy problem, exactly.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Chance {
    /// Connections placed.
    pub connections: u64,
    /// Pods they are placed on.
    pub pods: u64,
    /// Expected highest number of connections of a Pod ÷ the mean.
    pub expected_skew: f64,
    /// Expected number of Pods without a connection.
    pub expected_idle_pods: f64,
    /// Probability that one Pod gets all connections.
    pub all_on_one: f64,
}

impl Chance {
    /// Of `connections` thrown independently and uniformly on `pods` (both at least 1).
    pub fn of(connections: u64, pods: u64) -> Self {
        let n = pods as f64;
        // E[max] = Σ P(max > k), and max is at least the mean, rounded up.
        let least = connections.div_ceil(pods);
        let beyond = (least..connections).map(|k| 1.0 - at_most(connections, pods, k));
        let expected_max = least as f64 + beyond.take_while(|&p| p > NEGLIGIBLE).sum::<f64>();
        Self {
            connections,
            pods,
            expected_skew: expected_max * n / connections as f64,
            expected_idle_pods: n * (1.0 - 1.0 / n).powf(connections as f64),
            all_on_one: n.powf(1.0 - connections as f64),
        }
    }

    /// Probability that the fullest Pod has at least `highest` connections.
    pub fn at_least(&self, highest: u64) -> f64 {
        if highest == 0 { 1.0 } else { 1.0 - at_most(self.connections, self.pods, highest - 1) }
    }
}

/// Tail of a distribution below which further terms change no digit that is shown.
const NEGLIGIBLE: f64 = 1e-9;

/// P(no Pod has more than `k` of `connections`).
///
/// Given the total, occupancies are independent Poisson variables conditioned on their sum; working
/// with those keeps every number in range where factorials would not stay so.
fn at_most(connections: u64, pods: u64, k: u64) -> f64 {
    if k >= connections {
        return 1.0;
    }
    let total = connections as usize;
    let poisson = |mean: f64| {
        let mut terms = vec![(-mean).exp()];
        for j in 1..=total {
            terms.push(terms[j - 1] * mean / j as f64);
        }
        terms
    };
    let mut bin = poisson(connections as f64 / pods as f64);
    bin.truncate(k as usize + 1);
    let mut sums = vec![0.0; total + 1];
    sums[0] = 1.0;
    for _ in 0..pods {
        sums =
            (0..=total).map(|sum| bin.iter().take(sum + 1).enumerate().map(|(j, p)| p * sums[sum - j]).sum()).collect();
    }
    (sums[total] / poisson(connections as f64)[total]).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64, tolerance: f64) -> bool {
        (a - b).abs() <= tolerance
    }

    #[test]
    fn spread_of_known_counts() {
        let even = Spread::of(&[7, 7, 7]);
        assert_eq!((even.skew, even.idle_pods), (Some(1.0), 0));
        assert!(near(even.jain.unwrap(), 1.0, 1e-12) && near(even.effective_pods.unwrap(), 3.0, 1e-12));

        let one = Spread::of(&[12, 0, 0, 0]);
        assert_eq!((one.skew, one.jain, one.effective_pods, one.idle_pods), (Some(4.0), Some(0.25), Some(1.0), 3));

        // (4+1)² / (2·(16+1)) = 25/34.
        let four_to_one = Spread::of(&[4, 1]);
        assert_eq!(four_to_one.shares, [0.8, 0.2]);
        assert!(near(four_to_one.skew.unwrap(), 1.6, 1e-12));
        assert!(near(four_to_one.jain.unwrap(), 25.0 / 34.0, 1e-12));
    }

    #[test]
    fn nothing_counted_has_no_skew() {
        let nothing = Spread::of(&[0, 0]);
        assert_eq!((nothing.skew, nothing.jain, nothing.effective_pods), (None, None, None));
        assert_eq!((nothing.shares, nothing.idle_pods), (vec![0.0, 0.0], 2));
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut values, 0.50), Some(50.0));
        assert_eq!(percentile(&mut values, 0.99), Some(99.0));
        assert_eq!(percentile(&mut [3.0], 0.99), Some(3.0));
        assert_eq!(percentile(&mut [], 0.5), None);
    }

    /// Closed forms: 5 on 2 is 3:2 with 62.5 %, 4:1 with 31.25 %, 5:0 with 6.25 %; 2 on 5 share a
    /// Pod with 20 %; E[max] of 20 on 5 is 6.44 and of 10 on 10 is 2.749.
    #[test]
    fn chance_agrees_with_closed_forms() {
        let five_on_two = Chance::of(5, 2);
        assert!(near(five_on_two.all_on_one, 0.0625, 1e-12));
        assert!(near(five_on_two.at_least(4), 0.375, 1e-9));
        assert!(near(five_on_two.at_least(3), 1.0, 1e-9));
        assert!(near(five_on_two.expected_skew, 1.375, 1e-9));
        let two_on_five = Chance::of(2, 5);
        assert!(near(two_on_five.expected_idle_pods, 3.2, 1e-12));
        assert!(near(two_on_five.expected_skew, 3.0, 1e-9));
        assert!(near(two_on_five.at_least(2), 0.2, 1e-9));
        assert!(near(Chance::of(20, 5).expected_skew, 6.44 / 4.0, 0.002));
        assert!(near(Chance::of(10, 10).expected_skew, 2.749, 0.001));
        assert!(near(Chance::of(256, 64).expected_idle_pods, 1.136, 0.001));
    }
}
