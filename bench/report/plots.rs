//! The plots: ratios by load, percentiles of latency, and what grows with the number of connections.

use crate::row::{Figures, Latency, Row, Series, Target, number};
use crate::svg::Svg;

const WIDTH: f64 = 900.0;
/// Pixels above and below.
const MARGIN: f64 = 50.0;
/// Of a line of the charts that lie on their side, with room for its words on the left.
const LINE: f64 = 24.0;
const WORDS: f64 = 260.0;
const OURS: &str = "#3182bd";
const BAND: &str = "#08306b";
const FLOOR: &str = "#e6550d";
const AIM: &str = "#31a354";
const GRID: &str = "#cccccc";
const PERCENTILES: [(&str, &str); 3] = [("p50", "#9ecae1"), ("p90", "#3182bd"), ("p99", "#08306b")];

/// A bar for each row with a peer: the median of its pairs' ratios, over it their least and most, with its floor and aim.
pub fn ratios(rows: &[Row]) -> String {
    let bars: Vec<(&Row, [f64; 3])> =
        rows.iter().filter_map(|row| Some((row, row.figures().and_then(Figures::ratio)?))).collect();
    let targets = |row: &Row| match row.target {
        Target::Ratio { floor, aim } => vec![(floor, FLOOR), (aim, AIM)],
        _ => Vec::new(),
    };
    let highest = bars.iter().flat_map(|(row, ratio)| targets(row).into_iter().map(|t| t.0).chain(*ratio));
    let highest = highest.fold(1.0, f64::max).ceil();
    let height = 2.0 * MARGIN + LINE * bars.len() as f64;
    let x = |ratio: f64| WORDS + (WIDTH - WORDS - MARGIN) * ratio / highest;
    let mut svg = Svg::new(WIDTH, height);
    svg.legend(WORDS, 150.0, &[("ratio to the peer", OURS), ("least to most", BAND), ("floor", FLOOR), ("aim", AIM)]);
    for whole in 0..=highest as u32 {
        let at = x(f64::from(whole));
        svg.line((at, MARGIN), (at, height - MARGIN), GRID);
        svg.text((at, height - MARGIN + 16.0), "middle", &format!("{whole}×"));
    }
    for (place, (row, [least, ratio, most])) in bars.iter().enumerate() {
        let top = MARGIN + LINE * place as f64 + 4.0;
        let middle = top + (LINE - 8.0) / 2.0;
        svg.text((WORDS - 8.0, middle + 4.0), "end", &row.id);
        svg.bar((x(0.0), top), (x(*ratio) - x(0.0), LINE - 8.0), OURS);
        svg.line((x(*least), middle), (x(*most), middle), BAND);
        for end in [least, most] {
            svg.line((x(*end), middle - 3.0), (x(*end), middle + 3.0), BAND);
        }
        for (target, colour) in targets(row) {
            svg.bar((x(target) - 1.0, top - 2.0), (2.0, LINE - 4.0), colour);
        }
        svg.text((x(most.max(*ratio)) + 6.0, middle + 4.0), "start", &format!("{ratio:.2}"));
    }
    svg.end()
}

/// Three bars for everybody whose round trips were measured, in microseconds on a logarithmic scale.
pub fn latencies(rows: &[Row]) -> String {
    let each: Vec<(&Row, &Latency)> = rows
        .iter()
        .flat_map(|row| row.figures().into_iter().flat_map(move |f| f.latencies.iter().map(move |l| (row, l))))
        .collect();
    const GROUP: f64 = 3.0 * LINE / 2.0 + 8.0;
    let height = 2.0 * MARGIN + GROUP * each.len() as f64;
    let most = each.iter().flat_map(|(_, latency)| latency.percentiles).fold(10.0, f64::max);
    let decades = most.log10().ceil();
    let x = |us: f64| WORDS + (WIDTH - WORDS - MARGIN) * us.max(1.0).log10() / decades;
    let mut svg = Svg::new(WIDTH, height);
    svg.legend(WORDS, 150.0, &PERCENTILES);
    for power in 0..=decades as i32 {
        let at = x(10f64.powi(power));
        svg.line((at, MARGIN), (at, height - MARGIN), GRID);
        svg.text((at, height - MARGIN + 16.0), "middle", &format!("{} µs", 10u64.pow(power.unsigned_abs())));
    }
    for (place, (row, latency)) in each.iter().enumerate() {
        let top = MARGIN + GROUP * place as f64;
        svg.text((WORDS - 8.0, top + GROUP / 2.0), "end", &format!("{}, {}", row.id, latency.who));
        for (bar, (us, (_, colour))) in latency.percentiles.iter().zip(PERCENTILES).enumerate() {
            let y = top + LINE / 2.0 * bar as f64;
            svg.bar((x(1.0), y), (x(*us) - x(1.0), LINE / 2.0 - 1.0), colour);
            svg.text((x(*us) + 4.0, y + 9.0), "start", &number(*us));
        }
    }
    svg.end()
}

/// A panel for each row that has lines.
pub fn scale(rows: &[Row]) -> String {
    let panels: Vec<(&Row, &[Series])> = rows
        .iter()
        .filter_map(|row| Some((row, row.figures()?.series.as_slice())))
        .filter(|(_, series)| !series.is_empty())
        .collect();
    const PANEL: f64 = 220.0;
    let mut svg = Svg::new(WIDTH, MARGIN + (PANEL + MARGIN) * panels.len() as f64);
    for (place, (row, series)) in panels.iter().enumerate() {
        let top = MARGIN + (PANEL + MARGIN) * place as f64;
        svg.text((MARGIN, top - 10.0), "start", &row.load);
        panel(&mut svg, (top, PANEL), series);
    }
    svg.end()
}

fn panel(svg: &mut Svg, (top, height): (f64, f64), series: &[Series]) {
    let points = || series.iter().flat_map(|line| &line.points);
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::MIN_POSITIVE, f64::max);
    let (right, high) = (most(|point| point.0), most(|point| point.1));
    let x = |value: f64| 2.0 * MARGIN + (WIDTH - 5.0 * MARGIN) * value / right;
    let y = |value: f64| top + height * (1.0 - value / high);
    for part in 0..=4 {
        let (across, up) = (right * f64::from(part) / 4.0, high * f64::from(part) / 4.0);
        svg.line((x(0.0), y(up)), (x(right), y(up)), GRID);
        svg.text((x(0.0) - 6.0, y(up) + 4.0), "end", &number(up));
        svg.text((x(across), top + height + 16.0), "middle", &format!("{across:.0}"));
    }
    for (line, (_, colour)) in series.iter().zip(PERCENTILES) {
        let drawn: Vec<(f64, f64)> = line.points.iter().map(|(a, b)| (x(*a), y(*b))).collect();
        svg.path(&drawn, colour);
        if let Some(last) = drawn.last() {
            svg.text((last.0 + 6.0, last.1 + 4.0), "start", &line.name);
        }
    }
}
