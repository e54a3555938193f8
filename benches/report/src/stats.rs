//! Means, differences and their intervals. An interval is a 95 % one by Student's t: of
//! independent samples of about normal distribution.
//!
//! Ratios are compared as differences of logarithms: their mean is that of geometric means,
//! which an outlier that is twice as much moves as far up as one that is half as much moves
//! it down. The interval is of the same estimator, so the other way round it is the inverse.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// Upper quantile of a two-sided 95 % interval.
const QUANTILE: f64 = 0.975;
/// Differences count whose p, corrected by [`holm`], is less.
pub const SURE: f64 = 0.05;

/// A mean or a difference, with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The ends of the 95 % interval; none of fewer than two samples.
    pub interval: Option<(f64, f64)>,
    /// Of a difference: how probable one as far from none is by chance, if there is none.
    pub p: Option<f64>,
}

impl Estimate {
    /// A mean of samples; none of no samples.
    pub fn of(samples: &[f64]) -> Option<Self> {
        Some(Line::of(samples)?.estimate(|x| x))
    }

    /// The same in another unit.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        let ends = |(low, high)| (factor * low, factor * high);
        Self {
            mean: factor * self.mean,
            interval: self.interval.map(ends),
            ..self
        }
    }

    /// Whether the interval excludes 0; unknown without an interval.
    pub fn excludes_zero(&self) -> Option<bool> {
        self.interval.map(|(low, high)| low > 0.0 || high < 0.0)
    }
}

/// How samples of a base and of another variant belong together.
#[derive(Debug, Clone, PartialEq)]
pub enum Samples {
    /// Base and other, each pair from one beginning: whatever both had in common cancels out.
    Pairs(Vec<(f64, f64)>),
    /// Both by themselves: Welch's test, which takes other numbers and other spreads.
    Apart(Vec<f64>, Vec<f64>),
}

impl Samples {
    /// By how many percent the other is more: of the ratio of geometric means. None without
    /// samples, or with one that is not positive.
    pub fn percent(&self) -> Option<Estimate> {
        let line = self.map(|x| (x > 0.0).then(|| x.ln()))?.line()?;
        Some(line.difference(|log| 100.0 * (log.exp() - 1.0)))
    }

    /// By how much the other is more, in the samples' unit. None without samples.
    pub fn difference(&self) -> Option<Estimate> {
        Some(self.line()?.difference(|x| x))
    }

    /// How probable samples as low as these, or lower, are by chance if the other is
    /// `percent` more. None without an interval.
    pub fn p_of_less_than(&self, percent: f64) -> Option<f64> {
        let line = self.map(|x| (x > 0.0).then(|| x.ln()))?.line()?;
        line.p_below((1.0 + percent / 100.0).ln())
    }

    fn map(&self, of: impl Fn(f64) -> Option<f64>) -> Option<Self> {
        Some(match self {
            Self::Pairs(pairs) => {
                let both = pairs.iter().map(|(a, b)| Some((of(*a)?, of(*b)?)));
                Self::Pairs(both.collect::<Option<_>>()?)
            }
            Self::Apart(base, other) => {
                let all = |list: &[f64]| list.iter().map(|x| of(*x)).collect::<Option<_>>();
                Self::Apart(all(base)?, all(other)?)
            }
        })
    }

    fn line(&self) -> Option<Line> {
        match self {
            Self::Pairs(pairs) => {
                let differences: Vec<f64> = pairs.iter().map(|(a, b)| b - a).collect();
                Line::of(&differences)
            }
            Self::Apart(base, other) => Some(Line::of(base)?.to(&Line::of(other)?)),
        }
    }
}

/// A mean on a scale where differences make sense, with its standard error and that error's
/// degrees of freedom, if there are any.
#[derive(Debug, Clone, Copy)]
struct Line {
    mean: f64,
    error: Option<(f64, f64)>,
}

impl Line {
    fn of(samples: &[f64]) -> Option<Self> {
        if samples.is_empty() {
            return None;
        }
        let n = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / n;
        let error = (samples.len() > 1).then(|| {
            let squares: f64 = samples.iter().map(|s| (s - mean).powi(2)).sum();
            ((squares / (n - 1.0) / n).sqrt(), n - 1.0)
        });
        Some(Self { mean, error })
    }

    /// How much more `other` is; degrees of freedom by Welch and Satterthwaite.
    fn to(self, other: &Self) -> Self {
        let error = self.error.zip(other.error).map(|((a, of_a), (b, of_b))| {
            let (a, b) = (a * a, b * b);
            let freedom = match a + b > 0.0 {
                true => (a + b).powi(2) / (a * a / of_a + b * b / of_b),
                false => of_a + of_b,
            };
            ((a + b).sqrt(), freedom)
        });
        Self {
            mean: other.mean - self.mean,
            error,
        }
    }

    fn estimate(self, show: impl Fn(f64) -> f64) -> Estimate {
        let half = self.error.map(|(error, freedom)| quantile(freedom) * error);
        Estimate {
            mean: show(self.mean),
            interval: half.map(|half| (show(self.mean - half), show(self.mean + half))),
            p: None,
        }
    }

    fn difference(self, show: impl Fn(f64) -> f64) -> Estimate {
        let below = self.p_below(0.0);
        Estimate {
            p: below.map(|p| 2.0 * p.min(1.0 - p)),
            ..self.estimate(show)
        }
    }

    /// How probable a mean as low as this one, or lower, is if the true one is `limit`.
    fn p_below(self, limit: f64) -> Option<f64> {
        let (error, freedom) = self.error?;
        let off = self.mean - limit;
        if error == 0.0 {
            return Some(match off.total_cmp(&0.0) {
                std::cmp::Ordering::Less => 0.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Greater => 1.0,
            });
        }
        Some(student(freedom).map_or(f64::NAN, |t| t.cdf(off / error)))
    }
}

fn quantile(freedom: f64) -> f64 {
    student(freedom).map_or(f64::NAN, |t| t.inverse_cdf(QUANTILE))
}

/// Fails for a freedom that is not positive, which fewer than two samples would have.
fn student(freedom: f64) -> Option<StudentsT> {
    StudentsT::new(0.0, 1.0, freedom).ok()
}

/// The p of several tests, each made greater (Holm 1979) so that with the chance of [`SURE`]
/// none of those below it is there by chance. Unknown ones stay so, and are not counted.
pub fn holm(all: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut order: Vec<usize> = (0..all.len()).filter(|i| all[*i].is_some()).collect();
    order.sort_by(|a, b| all[*a].unwrap_or(1.0).total_cmp(&all[*b].unwrap_or(1.0)));
    let mut corrected = vec![None; all.len()];
    let mut least = 0.0_f64;
    for (rank, &index) in order.iter().enumerate() {
        let left = (order.len() - rank) as f64;
        least = least.max((left * all[index].unwrap_or(1.0)).min(1.0));
        corrected[index] = Some(least);
    }
    corrected
}

/// Which of several differences count, with all of them taken together.
pub fn sure(all: &[Option<Estimate>]) -> Vec<bool> {
    let p: Vec<Option<f64>> = all.iter().map(|e| e.and_then(|e| e.p)).collect();
    let corrected = holm(&p).into_iter();
    corrected.map(|p| p.is_some_and(|p| p < SURE)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "{a}, not {b}");
    }

    fn apart(base: &[f64], other: &[f64]) -> Samples {
        Samples::Apart(base.into(), other.into())
    }

    #[test]
    fn an_interval_is_that_of_the_textbook() {
        // Deviation 1.5811, t(0.975, 4) = 2.7764, so 2.7764 * 1.5811 / sqrt(5).
        let estimate = Estimate::of(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        close(estimate.mean, 3.0);
        let (low, high) = estimate.interval.unwrap();
        close(low, 3.0 - 1.963_24);
        close(high, 3.0 + 1.963_24);
        assert_eq!(estimate.excludes_zero(), Some(true));
        assert_eq!(estimate.p, None);
        let around = Estimate::of(&[-1.0, 2.0]).unwrap();
        assert_eq!(around.excludes_zero(), Some(false));
        let below = Estimate::of(&[-1.0, -1.1]).unwrap();
        assert_eq!(below.excludes_zero(), Some(true));
    }

    #[test]
    fn one_sample_has_no_interval() {
        let estimate = Estimate::of(&[7.0]).unwrap();
        assert_eq!((estimate.mean, estimate.interval), (7.0, None));
        assert_eq!(estimate.excludes_zero(), None);
        assert_eq!(Estimate::of(&[]), None);
        let one = apart(&[1.0], &[2.0]).percent().unwrap();
        close(one.mean, 100.0);
        assert_eq!((one.interval, one.p), (None, None));
        assert_eq!(apart(&[1.0, 2.0], &[2.0]).percent().unwrap().interval, None);
        assert_eq!(apart(&[], &[2.0]).percent(), None);
        assert_eq!(apart(&[2.0], &[]).percent(), None);
    }

    /// Reckoned by hand, the distribution by Simpson's rule: the logarithms' means differ by
    /// 0.424870, t = 3.97070 of 3.52092 degrees of freedom.
    #[test]
    fn samples_apart_are_compared_as_welch_does() {
        let samples = apart(&[10.0, 12.0, 14.0, 11.0], &[15.0, 21.0, 18.0]);
        let percent = samples.percent().unwrap();
        close(percent.mean, 100.0 * (0.424_870_f64.exp() - 1.0));
        let (low, high) = percent.interval.unwrap();
        close(low, 100.0 * (0.088_858_7_f64.exp() - 1.0));
        close(high, 100.0 * (0.760_882_1_f64.exp() - 1.0));
        close(percent.p.unwrap(), 0.024_726_2);
    }

    #[test]
    fn a_ratio_and_its_inverse_say_the_same() {
        let (a, b) = ([1.0, 2.0, 1.5], [4.0, 3.0, 3.5]);
        let there = apart(&a, &b).percent().unwrap();
        let back = apart(&b, &a).percent().unwrap();
        let inverse = |percent: f64| 100.0 * (1.0 / (1.0 + percent / 100.0) - 1.0);
        close(back.mean, inverse(there.mean));
        let ((low, high), (from, to)) = (there.interval.unwrap(), back.interval.unwrap());
        close(from, inverse(high));
        close(to, inverse(low));
        close(there.p.unwrap(), back.p.unwrap());
    }

    #[test]
    fn pairs_are_compared_one_by_one() {
        // Twice and half as much: no difference, however much the pairs differ.
        let pairs = Samples::Pairs(vec![(100.0, 200.0), (10.0, 5.0)]);
        let percent = pairs.percent().unwrap();
        close(percent.mean, 0.0);
        close(percent.p.unwrap(), 1.0);
        // What pairs have in common cancels out.
        let pairs = Samples::Pairs(vec![(1.0, 1.1), (100.0, 110.0), (7.0, 7.7)]);
        let percent = pairs.percent().unwrap();
        close(percent.mean, 10.0);
        close(percent.interval.unwrap().1, 10.0);
        let points = Samples::Pairs(vec![(1.0, 3.0), (2.0, 5.0)])
            .difference()
            .unwrap();
        // +2 and +3: deviation 0.7071, t(0.975, 1) = 12.7062, so 12.7062 * 0.5.
        close(points.mean, 2.5);
        close(points.interval.unwrap().0, 2.5 - 6.353_1);
    }

    #[test]
    fn nothing_is_a_percentage_of_nothing() {
        assert_eq!(apart(&[0.0, 1.0], &[1.0, 2.0]).percent(), None);
        assert_eq!(apart(&[1.0], &[-1.0]).percent(), None);
        assert_eq!(Samples::Pairs(vec![]).percent(), None);
        assert_eq!(Samples::Pairs(vec![(0.0, 1.0)]).percent(), None);
    }

    #[test]
    fn equal_samples_are_sure() {
        let same = apart(&[2.0, 2.0], &[2.0, 2.0]);
        assert_eq!(same.percent().unwrap().p, Some(1.0));
        let twice = apart(&[2.0, 2.0], &[4.0, 4.0]);
        assert_eq!(twice.percent().unwrap().p, Some(0.0));
        let half = apart(&[2.0, 2.0], &[1.0, 1.0]);
        assert_eq!(half.percent().unwrap().p, Some(0.0));
        assert_eq!(half.p_of_less_than(-10.0), Some(0.0));
        assert_eq!(twice.p_of_less_than(-10.0), Some(1.0));
        assert_eq!(same.p_of_less_than(0.0), Some(0.5));
        assert_eq!(apart(&[2.0], &[1.0]).p_of_less_than(0.0), None);
    }

    #[test]
    fn less_than_is_a_test_of_one_side() {
        let samples = apart(&[100.0, 101.0, 99.0], &[95.0, 96.0, 94.0]);
        let two_sided = samples.percent().unwrap().p.unwrap();
        close(samples.p_of_less_than(0.0).unwrap(), two_sided / 2.0);
        assert!(samples.p_of_less_than(-2.0).unwrap() < 0.05);
        assert!(samples.p_of_less_than(-8.0).unwrap() > 0.95);
    }

    #[test]
    fn many_tests_are_corrected_step_by_step() {
        let corrected = holm(&[Some(0.01), Some(0.04), None, Some(0.03), Some(0.005)]);
        let expected = [0.03, 0.06, f64::NAN, 0.06, 0.02];
        for (found, expected) in corrected.iter().zip(expected) {
            match found {
                Some(found) => close(*found, expected),
                None => assert!(expected.is_nan()),
            }
        }
        assert_eq!(holm(&[Some(0.9), Some(0.8)]), [Some(1.0), Some(1.0)]);
        let difference = |p| {
            Some(Estimate {
                mean: 1.0,
                interval: None,
                p,
            })
        };
        let all = [
            difference(Some(0.01)),
            difference(Some(0.04)),
            difference(None),
            None,
        ];
        assert_eq!(sure(&all), [true, true, false, false]);
        let all = [difference(Some(0.03)), difference(Some(0.04))];
        assert_eq!(sure(&all), [false, false]);
    }
}
