//! RESULTS.md.

use std::collections::BTreeSet;

use crate::row::{Figures, Row, Target, number};

use super::Results;
use super::table::Table;

/// The whole document; everything else lies where `folder` leads, which ends in a slash or is empty.
pub fn document(results: &Results, folder: &str) -> String {
    let Results { machine, versions, rows } = results;
    let versions: Vec<String> = versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    format!(
        "# vonic beside its peers

Written by `make bench`: do not edit. {} Machine: {machine}. One vonic worker.
Versions: {}.

{}
A side of a pair is measured right after the other (A B A B …). *ratio*: the median of the pairs' ratios, and in brackets the least and the most of
them. Sides: medians. Everybody sees the same machine, guests and traffic tools; what each row does is in `bench/`, by its stage.

![ratios]({folder}ratios.svg)

![latency]({folder}latency.svg)

![scale]({folder}scale.svg)

All figures: [bench.json]({folder}bench.json). Instructions: [micro.md](bench/results/micro.md). Deaths of engines:
[takeover.md](bench/results/takeover.md).
",
        stamps(rows),
        versions.join(", "),
        tables(rows),
    )
}

/// When, and with how many rounds; several if rows were measured one by one.
fn stamps(rows: &[Row]) -> String {
    let stamp = |row: &Row| {
        let stamp = &row.stamp;
        format!(
            "{} at commit {}, {} rounds of {} s, load average {:.1} before",
            stamp.date, stamp.commit, stamp.rounds, stamp.seconds, stamp.load_average
        )
    };
    let all: BTreeSet<String> = rows.iter().map(stamp).collect();
    if all.len() < 2 {
        return format!("Measured {}.", all.into_iter().next().unwrap_or_else(|| "nothing yet".into()));
    }
    let of = |wanted: &String| {
        let ids: Vec<String> =
            rows.iter().filter(|row| stamp(row) == *wanted).map(|row| format!("`{}`", row.id)).collect();
        format!("\n* {wanted}: {}", ids.join(", "))
    };
    format!("Rows were measured one by one:\n{}\n\n", all.iter().map(of).collect::<String>())
}

/// All tables.
pub fn tables(rows: &[Row]) -> String {
    let parts = [compared(rows), bounded(rows), polling(rows), latencies(rows), beside(rows), failures(rows)];
    parts.iter().filter(|part| !part.is_empty()).fold(String::new(), |all, part| all + part + "\n")
}

fn compared(rows: &[Row]) -> String {
    let mut table = Table::new(&["row", "load", "vonic", "peer", "", "ratio", "floor", "aim", "verdict"]);
    let rows: Vec<&Row> = rows.iter().filter(|row| !row.peer.is_empty()).collect();
    for row in &rows {
        let figures = row.figures();
        let side = |of: fn(&Figures) -> f64| figures.map_or("–".into(), |figures| number(of(figures)));
        let ratio = figures.and_then(Figures::ratio);
        let ratio = ratio.map_or("–".into(), |[least, ratio, most]| format!("**{ratio:.2}** ({least:.2}–{most:.2})"));
        let [floor, aim] = match row.target {
            Target::Ratio { floor, aim } => [floor, aim].map(|target| format!("{target:.1}")),
            _ => ["–", "–"].map(String::from),
        };
        let ours = format!("{} {}", side(Figures::vonic), row.unit);
        table.row(vec![
            format!("`{}`", row.id),
            row.load.clone(),
            ours,
            side(Figures::peer),
            row.peer.clone(),
            ratio,
            floor,
            aim,
            row.verdict(),
        ]);
    }
    if rows.is_empty() { String::new() } else { table.text() }
}

fn bounded(rows: &[Row]) -> String {
    let mut table = Table::new(&["row", "load", "vonic", "at most", "verdict"]);
    let mut any = false;
    for row in rows {
        let Target::AtMost(most) = row.target else { continue };
        any = true;
        let ours = row.figures().map_or("–".into(), |figures| format!("{} {}", number(figures.vonic()), row.unit));
        table.row(vec![format!("`{}`", row.id), row.load.clone(), ours, number(most), row.verdict()]);
    }
    if any { table.text() } else { String::new() }
}

/// Rows without peer and target are settings of one thing, beside each other.
fn is_setting(row: &&Row) -> bool {
    row.peer.is_empty() && row.target == Target::Beside
}

fn polling(rows: &[Row]) -> String {
    let settings: Vec<(&Row, &Figures)> =
        rows.iter().filter(is_setting).filter_map(|row| Some((row, row.figures()?))).collect();
    let Some((first, figures)) = settings.first() else { return String::new() };
    let names = figures.beside.iter().map(|(name, _)| name.as_str());
    let head: Vec<&str> = ["setting", &first.unit, "p50 / p90 / p99, µs"].into_iter().chain(names).collect();
    let mut table = Table::new(&head);
    for (row, figures) in settings {
        let percentiles = figures.latencies.first().map_or("–".into(), |latency| slashes(&latency.percentiles));
        let cells = [row.load.clone(), number(figures.vonic()), percentiles];
        table.row(cells.into_iter().chain(figures.beside.iter().map(|(_, value)| number(*value))).collect());
    }
    table.text()
}

fn slashes(values: &[f64]) -> String {
    values.iter().map(|value| number(*value)).collect::<Vec<_>>().join(" / ")
}

fn latencies(rows: &[Row]) -> String {
    let mut table = Table::new(&["round trips", "of", "p50 / p90 / p99, µs"]);
    let mut any = false;
    for row in rows.iter().filter(|row| !is_setting(row)) {
        for latency in row.figures().iter().flat_map(|figures| &figures.latencies) {
            any = true;
            table.row(vec![format!("`{}`", row.id), latency.who.clone(), slashes(&latency.percentiles)]);
        }
    }
    if any { table.text() } else { String::new() }
}

fn beside(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let figures = row.figures().filter(|figures| !figures.beside.is_empty())?;
        let each: Vec<String> =
            figures.beside.iter().map(|(name, value)| format!("{name} {}", number(*value))).collect();
        Some(format!("* `{}`: {}.\n", row.id, each.join("; ")))
    };
    rows.iter().filter(|row| !is_setting(row)).filter_map(line).collect()
}

fn failures(rows: &[Row]) -> String {
    let line = |row: &Row| match &row.outcome {
        crate::row::Outcome::Failed(why) => Some(format!("`{}` FAILED:\n\n```\n{}\n```\n", row.id, why.trim())),
        crate::row::Outcome::Measured(_) => None,
    };
    rows.iter().filter_map(line).collect()
}
