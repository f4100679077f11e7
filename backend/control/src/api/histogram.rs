//! How values are distributed, as answers tell it.
use serde::{Deserialize, Serialize};

/// How values are distributed over powers of two; from when the VM was added, over engines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Histogram {
    /// How many values there were.
    pub count: u64,
    /// All of them together.
    pub sum: u64,
    /// Half of them are at most this; absent without values, or where that many are beyond the last bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50: Option<u64>,
    /// 99 % of them are at most this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<u64>,
    /// Up to each bound, and beyond the one before.
    #[serde(default)]
    pub buckets: Vec<Bucket>,
}

/// One of a histogram's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Bucket {
    /// The largest value that belongs here; absent: there is no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub le: Option<u64>,
    /// How many there were.
    pub count: u64,
}

impl Histogram {
    /// Of these buckets, in the order of their bounds.
    pub fn new(buckets: impl IntoIterator<Item = (Option<u64>, u64)>, sum: u64) -> Histogram {
        let buckets: Vec<Bucket> = buckets.into_iter().map(|(le, count)| Bucket { le, count }).collect();
        let count = buckets.iter().map(|bucket| bucket.count).sum();
        let mut histogram = Histogram { count, sum, p50: None, p99: None, buckets };
        (histogram.p50, histogram.p99) = (histogram.percentile(50), histogram.percentile(99));
        histogram
    }

    /// The least bound that so many hundredths of the values do not exceed, if there is one.
    fn percentile(&self, percent: u64) -> Option<u64> {
        let wanted = u128::from(self.count) * u128::from(percent);
        let mut count = 0;
        let enough = |bucket: &&Bucket| {
            count += u128::from(bucket.count) * 100;
            count >= wanted
        };
        self.buckets.iter().find(enough).filter(|_| self.count > 0).and_then(|bucket| bucket.le)
    }
}
