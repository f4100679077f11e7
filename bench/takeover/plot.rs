//! The plot: one bar chart, a group of four bars a row, in milliseconds on a logarithmic scale.

use std::fmt::Write;

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
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for power in DECADES {
        let (at, ms) = (y(10f64.powi(power)), 10i32.pow(power.unsigned_abs()));
        line(&mut svg, (MARGIN, at), (width - MARGIN, at), "#cccccc");
        text(&mut svg, (MARGIN - 6.0, at + 4.0), "end", &format!("{ms} ms"));
    }
    for (group, row) in rows.iter().enumerate() {
        let left = MARGIN + GROUP * group as f64 + 14.0;
        let values =
            [row.first.percentile(50), row.first.percentile(99), row.last.percentile(50), row.last.percentile(99)];
        for (bar, (value, (_, colour))) in values.iter().zip(BARS).enumerate() {
            let (x, top) = (left + BAR * bar as f64, y(*value));
            let tall = bottom - top;
            // Writing to a text cannot fail.
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{top:.1}\" width=\"{BAR}\" height=\"{tall:.1}\" fill=\"{colour}\"/>"
            );
            text(&mut svg, (x + BAR / 2.0, top - 3.0), "middle", &format!("{value:.0}"));
        }
        text(&mut svg, (left + 2.0 * BAR, bottom + 16.0), "middle", &name(&row.case).replace('`', ""));
    }
    for (place, (what, colour)) in BARS.iter().enumerate() {
        let x = MARGIN + 130.0 * place as f64;
        let _ = writeln!(svg, "<rect x=\"{x}\" y=\"14\" width=\"12\" height=\"12\" fill=\"{colour}\"/>");
        text(&mut svg, (x + 18.0, 24.0), "start", what);
    }
    text(&mut svg, (MARGIN, height - 8.0), "start", "connections, MiB of guest memory touched");
    svg + "</svg>\n"
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(svg, "<line x1=\"{x1}\" y1=\"{y1:.1}\" x2=\"{x2}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>");
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, words: &str) {
    let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{words}</text>", at.0, at.1);
}
