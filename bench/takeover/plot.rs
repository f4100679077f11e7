//! The plot: one bar chart, a group of four bars a row, in milliseconds on a logarithmic scale.

use crate::svg::Svg;

use super::report::{Row, name};

/// Pixels: of a group of bars, of a bar, of a factor of ten, and around.
const GROUP: f64 = 120.0;
const BAR: f64 = 22.0;
const DECADE: f64 = 110.0;
const MARGIN: f64 = 50.0;
/// The scale, from its lowest to its highest power of ten milliseconds.
const DECADES: std::ops::RangeInclusive<i32> = 0..=3;

/// What the bars are, and their colours.
const BARS: [(&str, &str); 4] =
    [("first, median", "#9ecae1"), ("first, p99", "#3182bd"), ("last, median", "#fdae6b"), ("last, p99", "#e6550d")];

/// The whole picture.
pub fn draw(rows: &[Row]) -> String {
    let width = 2.0 * MARGIN + GROUP * rows.len() as f64;
    let height = 2.0 * MARGIN + DECADE * f64::from(DECADES.end() - DECADES.start()) + 40.0;
    let bottom = height - MARGIN - 20.0;
    let y = |ms: f64| bottom - DECADE * ms.max(1.0).log10();
    let mut svg = Svg::new(width, height);
    for power in DECADES {
        let (at, ms) = (y(10f64.powi(power)), 10i32.pow(power.unsigned_abs()));
        svg.line((MARGIN, at), (width - MARGIN, at), "#cccccc");
        svg.text((MARGIN - 6.0, at + 4.0), "end", &format!("{ms} ms"));
    }
    for (group, row) in rows.iter().enumerate() {
        let left = MARGIN + GROUP * group as f64 + 14.0;
        let values =
            [row.first.percentile(50), row.first.percentile(99), row.last.percentile(50), row.last.percentile(99)];
        for (bar, (value, (_, colour))) in values.iter().zip(BARS).enumerate() {
            let (x, top) = (left + BAR * bar as f64, y(*value));
            svg.bar((x, top), (BAR, bottom - top), colour);
            svg.text((x + BAR / 2.0, top - 3.0), "middle", &format!("{value:.0}"));
        }
        svg.text((left + 2.0 * BAR, bottom + 16.0), "middle", &name(&row.case).replace('`', ""));
    }
    svg.legend(MARGIN, 130.0, &BARS);
    svg.text((MARGIN, height - 8.0), "start", "connections, MiB of guest memory touched");
    svg.end()
}
