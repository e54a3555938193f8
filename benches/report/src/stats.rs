//! Means, intervals and paired differences. An interval is a 95 % one by
//! Student's t: of independent samples of about normal distribution.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// Upper quantile of a two-sided 95 % interval.
const QUANTILE: f64 = 0.975;

/// A mean with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The samples' standard deviation; none of fewer than two samples.
    pub deviation: Option<f64>,
    /// Half the width of the 95 % interval; none of fewer than two samples.
    pub half_width: Option<f64>,
}

impl Estimate {
    /// Of samples; none of no samples.
    pub fn of(samples: &[f64]) -> Option<Self> {
        if samples.is_empty() {
            return None;
        }
        let n = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / n;
        let deviation = (samples.len() > 1).then(|| {
            let squares: f64 = samples.iter().map(|s| (s - mean).powi(2)).sum();
            (squares / (n - 1.0)).sqrt()
        });
        Some(Self {
            mean,
            deviation,
            half_width: deviation.map(|d| t_quantile(n - 1.0) * d / n.sqrt()),
        })
    }

    /// The mean in deviations: of paired differences, Cohen's d for pairs. None
    /// without a deviation.
    pub fn effect_size(&self) -> Option<f64> {
        let deviation = self.deviation.filter(|d| *d > 0.0)?;
        Some(self.mean / deviation)
    }

    /// Whether the interval excludes 0; unknown without an interval.
    pub fn excludes_zero(&self) -> Option<bool> {
        self.half_width.map(|half| self.mean.abs() > half)
    }
}

fn t_quantile(freedom: f64) -> f64 {
    // Fails for a freedom that is not positive, which `Estimate::of` excludes.
    StudentsT::new(0.0, 1.0, freedom).map_or(f64::NAN, |t| t.inverse_cdf(QUANTILE))
}

/// Relative differences in percent of pairs (base, other): 100 (other / base - 1).
/// None without pairs, or where a base is 0.
pub fn paired_percent(pairs: &[(f64, f64)]) -> Option<Estimate> {
    let relative =
        |(base, other): &(f64, f64)| (*base != 0.0).then(|| 100.0 * (other / base - 1.0));
    let differences: Option<Vec<f64>> = pairs.iter().map(relative).collect();
    Estimate::of(&differences?)
}

/// Differences of pairs (base, other), in their unit: other - base. None without pairs.
pub fn paired_difference(pairs: &[(f64, f64)]) -> Option<Estimate> {
    let differences: Vec<f64> = pairs.iter().map(|(base, other)| other - base).collect();
    Estimate::of(&differences)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-3 * b.abs().max(1.0)
    }

    #[test]
    fn an_interval_is_that_of_the_textbook() {
        // Deviation 1.5811, t(0.975, 4) = 2.7764, so 2.7764 * 1.5811 / sqrt(5).
        let estimate = Estimate::of(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert!(close(estimate.mean, 3.0));
        assert!(close(estimate.deviation.unwrap(), 1.5811));
        assert!(close(estimate.half_width.unwrap(), 1.9632));
        assert_eq!(estimate.excludes_zero(), Some(true));
    }

    #[test]
    fn one_sample_has_no_interval() {
        let estimate = Estimate::of(&[7.0]).unwrap();
        assert_eq!((estimate.mean, estimate.half_width), (7.0, None));
        assert_eq!(estimate.excludes_zero(), None);
        assert_eq!(Estimate::of(&[]), None);
    }

    #[test]
    fn pairs_are_compared_one_by_one() {
        let estimate = paired_percent(&[(100.0, 110.0), (200.0, 210.0)]).unwrap();
        // +10 % and +5 %: mean 7.5, deviation 3.5355, t(0.975, 1) = 12.7062.
        assert!(close(estimate.mean, 7.5));
        assert!(close(estimate.half_width.unwrap(), 31.7655));
        assert_eq!(estimate.excludes_zero(), Some(false));
        assert!(close(estimate.effect_size().unwrap(), 2.1213));
        let estimate = paired_difference(&[(1.0, 3.0), (2.0, 5.0)]).unwrap();
        // +2 and +3: deviation 0.7071, interval 12.7062 * 0.5.
        assert!(close(estimate.mean, 2.5));
        assert!(close(estimate.half_width.unwrap(), 6.3531));
    }

    #[test]
    fn nothing_is_a_percentage_of_zero() {
        assert_eq!(paired_percent(&[(0.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(paired_percent(&[]), None);
    }
}
