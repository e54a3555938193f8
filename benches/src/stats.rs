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
        let half_width = (samples.len() > 1).then(|| {
            let squares: f64 = samples.iter().map(|s| (s - mean).powi(2)).sum();
            let deviation = (squares / (n - 1.0)).sqrt();
            t_quantile(n - 1.0) * deviation / n.sqrt()
        });
        Some(Self { mean, half_width })
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
pub fn paired_percent(pairs: &[(f64, f64)]) -> Option<Estimate> {
    let differences: Vec<f64> = pairs
        .iter()
        .filter(|(base, _)| *base != 0.0)
        .map(|(base, other)| 100.0 * (other / base - 1.0))
        .collect();
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
    }
}
