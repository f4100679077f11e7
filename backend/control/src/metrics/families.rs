//! Families of metrics: a name, what it means, and a value for each set of labels.
use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, NoLabelSet,
};
use prometheus_client::metrics::MetricType;

use crate::api::types::{Bucket, Histogram};

/// Where they are written.
pub(super) struct Families<'a>(pub(super) DescriptorEncoder<'a>);

impl Families<'_> {
    /// What only grows; the text has `_total` behind the name.
    pub fn counter<S, V>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (S, V)>) -> fmt::Result
    where
        S: EncodeLabelSet,
        V: EncodeCounterValue,
    {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    /// What is so now.
    pub fn gauge<S, V>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (S, V)>) -> fmt::Result
    where
        S: EncodeLabelSet,
        V: EncodeGaugeValue,
    {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// How values are distributed. Bounds below `first` are left out; values and bounds are told times `unit`.
    pub fn histogram<'h, S>(
        &mut self,
        (name, help): (&str, &str),
        (first, unit): (u64, f64),
        values: impl IntoIterator<Item = (S, &'h Histogram)>,
    ) -> fmt::Result
    where
        S: EncodeLabelSet,
    {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, histogram) in values {
            let mut small = 0;
            let mut buckets = Vec::with_capacity(histogram.buckets.len());
            for Bucket { le, count } in &histogram.buckets {
                small += count;
                if le.is_none_or(|le| le >= first) {
                    buckets.push((le.map_or(f64::INFINITY, |le| le as f64 * unit), std::mem::take(&mut small)));
                }
            }
            if buckets.is_empty() {
                buckets.push((f64::INFINITY, 0));
            }
            let sum = histogram.sum as f64 * unit;
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, histogram.count, &buckets, None)?;
        }
        Ok(())
    }

    /// A counter without labels.
    pub fn plain_counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// A gauge without labels.
    pub fn plain_gauge<V: EncodeGaugeValue>(&mut self, name: &str, help: &str, value: V) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }
}
