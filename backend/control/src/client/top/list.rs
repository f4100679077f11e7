//! The VMs, one in each line.
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::app::{App, Sort};
use super::model::Vm;
use super::paint::{alarm, cell, notice};
use super::rate::{bars, short_or_dash};
use crate::client::view::state;

/// One column.
struct Column {
    heading: &'static str,
    width: usize,
    right: bool,
    /// The column goes when the screen is too narrow: the smallest first.
    worth: u8,
    sort: Option<Sort>,
    cell: fn(&Vm, usize) -> String,
}

const fn column(
    heading: &'static str,
    (width, right): (usize, bool),
    worth: u8,
    sort: Option<Sort>,
    cell: fn(&Vm, usize) -> String,
) -> Column {
    Column { heading, width, right, worth, sort, cell }
}

/// All of them: 80 characters with one between each two.
static COLUMNS: [Column; 10] = [
    column("NAME", (10, false), 9, Some(Sort::Name), |vm, _| vm.row.name.clone()),
    column("STATE", (11, false), 8, None, |vm, _| state(&vm.row).to_string()),
    column("SENDS", (6, true), 7, Some(Sort::Sends), |vm, _| short_or_dash(vm.rates.map(|r| r.guest_to_host.bits))),
    column("f/s", (5, true), 3, None, |vm, _| short_or_dash(vm.rates.map(|r| r.guest_to_host.frames))),
    column("RECEIVES", (8, true), 6, Some(Sort::Receives), |vm, _| {
        short_or_dash(vm.rates.map(|r| r.host_to_guest.bits))
    }),
    column("f/s", (5, true), 2, None, |vm, _| short_or_dash(vm.rates.map(|r| r.host_to_guest.frames))),
    column("DROPS/s", (7, true), 5, Some(Sort::Drops), |vm, _| short_or_dash(vm.rates.map(|r| r.drops))),
    column("CONNS", (5, true), 4, Some(Sort::Connections), |vm, _| vm.row.connections.to_string()),
    column("AGENT", (6, false), 1, None, |vm, _| agent(vm)),
    column("HISTORY", (8, false), 0, Some(Sort::Traffic), |vm, width| bars(&vm.history.values(), width)),
];

/// The narrowest list: names, states, and what guests send.
pub(super) const NARROWEST: usize = 10 + 1 + 11 + 1 + 6;
/// The widest name's column and history.
const NAME: usize = 32;
const HISTORY: usize = 60;

/// The guest's agent: its version, by its own word.
fn agent(vm: &Vm) -> String {
    match &vm.row.agent {
        None => "-".to_string(),
        Some(agent) if agent.silent => "silent".to_string(),
        Some(agent) => agent.version.clone(),
    }
}

/// The columns that there is room for, with their widths.
fn fit(width: usize, longest: usize) -> Vec<(&'static Column, usize)> {
    let mut columns: Vec<(&Column, usize)> = COLUMNS.iter().map(|column| (column, column.width)).collect();
    let sum = |columns: &[(&Column, usize)]| columns.iter().map(|(_, width)| width + 1).sum::<usize>() - 1;
    while sum(&columns) > width && columns.len() > 1 {
        let least = columns.iter().map(|(column, _)| column.worth).min();
        columns.retain(|(column, _)| Some(column.worth) != least);
    }
    let mut left = width.saturating_sub(sum(&columns));
    for (column, wide) in &mut columns {
        let most = match column.heading {
            "NAME" => longest.min(NAME),
            "HISTORY" => HISTORY,
            _ => continue,
        };
        let more = most.saturating_sub(*wide).min(left);
        *wide += more;
        left -= more;
    }
    columns
}

/// The headings, that of the order marked.
pub(super) fn headings(app: &App, width: usize) -> Line<'static> {
    let mut spans = Vec::new();
    for (column, width) in fit(width, longest(app)) {
        let marked = column.sort == Some(app.sort);
        let style = if marked { Style::new().bold().underlined() } else { Style::new().bold() };
        spans.push(Span::styled(cell(column.heading, width, column.right), style));
        spans.push(Span::raw(" "));
    }
    spans.pop();
    Line::from(spans)
}

/// The rows that are shown, from the `first` on.
pub(super) fn rows(app: &App, rows: &[&Vm], width: usize, lines: usize) -> Vec<Line<'static>> {
    let columns = fit(width, longest(app));
    let cursor = app.cursor(rows);
    let shown = rows.iter().enumerate().skip(app.first).take(lines);
    shown.map(|(at, vm)| row(vm, &columns, at == cursor)).collect()
}

fn row(vm: &Vm, columns: &[(&'static Column, usize)], selected: bool) -> Line<'static> {
    let mut spans = Vec::new();
    for (column, width) in columns {
        let style = match column.heading {
            _ if selected => Style::new(),
            "STATE" if vm.row.quarantined => alarm(),
            "DROPS/s" if vm.rates.is_some_and(|rates| rates.drops > 0.0) => notice(),
            _ => Style::new(),
        };
        spans.push(Span::styled(cell(&(column.cell)(vm, *width), *width, column.right), style));
        spans.push(Span::raw(" "));
    }
    spans.pop();
    let line = Line::from(spans);
    if selected { line.style(Style::new().reversed()) } else { line }
}

fn longest(app: &App) -> usize {
    app.model.vms.keys().map(|name| name.chars().count()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fill_the_screen_and_the_least_worthy_go_first() {
        let shape = |width, longest| {
            let columns = fit(width, longest);
            let sum = columns.iter().map(|(_, width)| width + 1).sum::<usize>() - 1;
            (columns.len(), sum)
        };
        assert_eq!(shape(80, 4), (10, 80));
        assert_eq!(shape(79, 4), (9, 71));
        assert_eq!(shape(120, 20), (10, 120));
        assert_eq!(shape(1000, 200), (10, 80 + NAME - 10 + HISTORY - 8));
        assert_eq!(shape(NARROWEST, 4), (3, NARROWEST));
        assert_eq!(shape(0, 4).0, 1);
        let names: Vec<&str> = fit(NARROWEST, 4).iter().map(|(column, _)| column.heading).collect();
        assert_eq!(names, ["NAME", "STATE", "SENDS"]);
    }
}
