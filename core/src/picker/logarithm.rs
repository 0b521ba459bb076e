//! Logarithm and exponential for the averages: some nanoseconds, no call, and an error that tests know.
//!
//! Both look the leading bits up in a table and leave the rest to a few terms of the series.

/// Steps of the tables, a power of two.
const STEPS: usize = 64;
const LN_2: f64 = core::f64::consts::LN_2;

/// For the middle c of each step of 1 … 2: 1/c, and ln c.
const LN: [(f64, f64); STEPS] = {
    let mut table = [(0.0, 0.0); STEPS];
    let mut i = 0;
    while i < STEPS {
        let c = 1.0 + (i as f64 + 0.5) / STEPS as f64;
        table[i] = (1.0 / c, series_ln(c));
        i += 1;
    }
    table
};

/// 2 to the power of i ÷ steps.
const EXP: [f64; STEPS] = {
    let mut table = [0.0; STEPS];
    let mut i = 0;
    while i < STEPS {
        let x = LN_2 * i as f64 / STEPS as f64;
        let (mut term, mut k) = (1.0, 1.0);
        while k < 30.0 {
            table[i] += term;
            term *= x / k;
            k += 1.0;
        }
        i += 1;
    }
    table
};

/// ln x for 1 ≤ x, to the last bits, for tables: ln x = 2·artanh((x−1)/(x+1)) for x in 1 … 2, and ln 2 for
/// every halving.
pub(super) const fn series_ln(mut x: f64) -> f64 {
    let mut halvings = 0.0;
    while x > 2.0 {
        x /= 2.0;
        halvings += 1.0;
    }
    let y = (x - 1.0) / (x + 1.0);
    let (mut power, mut sum, mut k) = (y, 0.0, 1.0);
    while k < 60.0 {
        sum += power / k;
        power *= y * y;
        k += 2.0;
    }
    2.0 * sum + halvings * LN_2
}

/// ln x for a normal x > 0, within 10⁻¹¹.
#[inline]
pub(super) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    let (inverse, ln) = LN[(bits >> 46) as usize % STEPS];
    // x without its exponent is c·(1 + t), |t| ≤ 1/128: what is left out is below t⁵/5.
    let t = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52)) * inverse - 1.0;
    f64::from(exponent) * LN_2 + ln + t * (1.0 - t * (1.0 / 2.0 - t * (1.0 / 3.0 - t * (1.0 / 4.0))))
}

/// eˣ within 10⁻¹⁰ of itself; beyond ±700 as there.
#[inline]
pub(super) fn exp(x: f64) -> f64 {
    let x = x.clamp(-700.0, 700.0);
    let steps = x * (STEPS as f64 / LN_2);
    // To the nearest: half more, away from zero, and cut.
    let steps = (steps + if steps < 0.0 { -0.5 } else { 0.5 }) as i32;
    // |r| ≤ ln 2 ÷ 128: what is left out is below r⁴/24.
    let r = x - f64::from(steps) * (LN_2 / STEPS as f64);
    let series = 1.0 + r * (1.0 + r * (1.0 / 2.0 + r * (1.0 / 6.0)));
    let power = f64::from_bits(((steps.div_euclid(STEPS as i32) + 1023) as u64) << 52);
    power * EXP[steps.rem_euclid(STEPS as i32) as usize] * series
}

/// ln(1 + x) for x ≥ 0, within 2·10⁻⁶ of itself.
#[inline]
pub(super) fn ln_1p(x: f64) -> f64 {
    if x < 1.0 / 64.0 { x * (1.0 - x * (1.0 / 2.0 - x * (1.0 / 3.0))) } else { ln(1.0 + x) }
}

/// 1 − e⁻ˣ for x ≥ 0, within 2·10⁻⁶ of itself.
#[inline]
pub(super) fn decayed(x: f64) -> f64 {
    if x < 1.0 / 64.0 { x * (1.0 - x * (1.0 / 2.0 - x * (1.0 / 6.0))) } else { 1.0 - exp(-x) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `low` to `high` by equal factors that meet the tables' steps everywhere.
    fn sweep(low: f64, high: f64) -> impl Iterator<Item = f64> {
        core::iter::successors(Some(low), |x| Some(x * 1.000_173)).take_while(move |x| *x < high)
    }

    #[test]
    fn logarithms_are_within_their_bound() {
        for x in sweep(1e-9, 1e15).chain([1.0, 2.0, 2.0 - 1e-15, 1.0 + 1e-15]) {
            assert!((ln(x) - libm::log(x)).abs() < 1e-11, "{x}");
        }
        for x in sweep(1e-12, 1e6) {
            assert!((ln_1p(x) / libm::log1p(x) - 1.0).abs() < 2e-6, "{x}");
        }
        assert_eq!(ln_1p(0.0), 0.0);
    }

    #[test]
    fn exponentials_are_within_their_bound() {
        for x in sweep(1e-9, 700.0).flat_map(|x| [x, -x]).chain([0.0]) {
            assert!((exp(x) / libm::exp(x) - 1.0).abs() < 1e-10, "{x}");
        }
        assert_eq!((exp(1e9), exp(-1e9)), (exp(700.0), exp(-700.0)));
        for x in sweep(1e-12, 1e6) {
            assert!((decayed(x) / -libm::expm1(-x) - 1.0).abs() < 2e-6, "{x}");
        }
        assert_eq!(decayed(0.0), 0.0);
    }
}
