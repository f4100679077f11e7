//! What is shown and how, and what each key does to it.
use std::cmp::Ordering;
use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Model, Vm};
use super::sample::Seen;
use crate::client::view::state;

/// The longest filter.
const FILTER: usize = 64;

/// What the list is sorted by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Sort {
    Traffic,
    Name,
    Sends,
    Receives,
    Drops,
    Connections,
}

impl Sort {
    pub const ALL: [Sort; 6] = [Sort::Traffic, Sort::Name, Sort::Sends, Sort::Receives, Sort::Drops, Sort::Connections];

    pub fn name(self) -> &'static str {
        match self {
            Sort::Traffic => "traffic",
            Sort::Name => "name",
            Sort::Sends => "sends",
            Sort::Receives => "receives",
            Sort::Drops => "drops",
            Sort::Connections => "connections",
        }
    }

    fn after(self, step: usize) -> Sort {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(at + step) % Self::ALL.len()]
    }

    /// Numbers go down, names go up.
    fn order(self, a: &Vm, b: &Vm) -> Ordering {
        let rates = |vm: &Vm| vm.rates.unwrap_or_default();
        let by = |of: fn(&Vm) -> f64| of(b).total_cmp(&of(a));
        let order = match self {
            Sort::Traffic => rates(b).bits().total_cmp(&rates(a).bits()),
            Sort::Name => Ordering::Equal,
            Sort::Sends => rates(b).guest_to_host.bits.total_cmp(&rates(a).guest_to_host.bits),
            Sort::Receives => rates(b).host_to_guest.bits.total_cmp(&rates(a).host_to_guest.bits),
            Sort::Drops => rates(b).drops.total_cmp(&rates(a).drops).then(b.row.drops.cmp(&a.row.drops)),
            Sort::Connections => by(|vm| vm.row.connections as f64),
        };
        order.then_with(|| a.row.name.cmp(&b.row.name))
    }
}

/// What fills the screen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    List,
    Page,
    Help,
}

/// What is to be done after a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Draw.
    Draw,
    /// Look at this VM closely, or at none, and draw.
    Look(Option<String>),
    /// End.
    Quit,
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct App {
    pub model: Model,
    pub place: Place,
    pub sort: Sort,
    pub reversed: bool,
    pub filter: String,
    /// Whether keys go to the filter.
    pub typing: bool,
    pub paused: bool,
    pub interval: Duration,
    /// The VM under the cursor, wherever the order puts it.
    pub selected: Option<String>,
    /// The first line that is shown of a page or of the list.
    pub first: usize,
    /// How many lines of it are shown; what drew it last says so.
    pub lines: usize,
}

impl App {
    pub fn new(interval: Duration) -> App {
        App {
            model: Model::default(),
            place: Place::List,
            sort: Sort::Traffic,
            reversed: false,
            filter: String::new(),
            typing: false,
            paused: false,
            interval,
            selected: None,
            first: 0,
            lines: 1,
        }
    }

    /// Takes in what was seen, unless the picture is to stand still: then only what stands nowhere yet.
    pub fn take(&mut self, seen: Seen) {
        let awaited = self.model.page.as_ref().is_some_and(|page| page.vm.is_none() && !page.gone);
        if !self.paused || awaited {
            self.model.take(seen);
        }
    }

    /// The VMs that the filter lets through, in their order.
    pub fn rows(&self) -> Vec<&Vm> {
        let filter = self.filter.to_lowercase();
        let mut rows: Vec<&Vm> = self.model.vms.values().filter(|vm| matches(vm, &filter)).collect();
        rows.sort_by(|a, b| self.sort.order(a, b));
        if self.reversed {
            rows.reverse();
        }
        rows
    }

    /// Where the cursor is among these.
    pub fn cursor(&self, rows: &[&Vm]) -> usize {
        rows.iter().position(|vm| Some(&vm.row.name) == self.selected.as_ref()).unwrap_or(0)
    }

    /// What a key does.
    pub fn press(&mut self, key: KeyEvent) -> Step {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if matches!(key.code, KeyCode::Char('c' | 'd')) { Step::Quit } else { Step::Draw };
        }
        if self.typing {
            self.write(key.code);
            return Step::Draw;
        }
        match key.code {
            KeyCode::Char('q') => Step::Quit,
            KeyCode::Char('p' | ' ') => {
                self.paused = !self.paused;
                Step::Draw
            }
            KeyCode::Char('?' | 'h') | KeyCode::F(1) if self.place != Place::Help => {
                (self.place, self.first) = (Place::Help, 0);
                Step::Draw
            }
            code => match self.place {
                Place::List => self.press_in_list(code),
                Place::Page | Place::Help => self.press_in_page(code),
            },
        }
    }

    /// A key while the filter is written.
    fn write(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if self.filter.chars().count() < FILTER && !c.is_control() => self.filter.push(c),
            _ => {}
        }
        self.first = 0;
    }

    fn press_in_list(&mut self, code: KeyCode) -> Step {
        match code {
            KeyCode::Char('s') => self.sort = self.sort.after(1),
            KeyCode::Char('S') => self.sort = self.sort.after(Sort::ALL.len() - 1),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Enter | KeyCode::Right => return self.open(),
            code => self.move_cursor(code),
        }
        Step::Draw
    }

    fn open(&mut self) -> Step {
        let rows = self.rows();
        let Some(vm) = rows.get(self.cursor(&rows)) else { return Step::Draw };
        let name = vm.row.name.clone();
        self.selected = Some(name.clone());
        self.model.open(&name);
        (self.place, self.first) = (Place::Page, 0);
        Step::Look(Some(name))
    }

    fn move_cursor(&mut self, code: KeyCode) {
        let rows = self.rows();
        let (at, last) = (self.cursor(&rows), rows.len().saturating_sub(1));
        let at = moved(code, at, self.lines).min(last);
        self.selected = rows.get(at).map(|vm| vm.row.name.clone());
    }

    fn press_in_page(&mut self, code: KeyCode) -> Step {
        match code {
            KeyCode::Esc | KeyCode::Left | KeyCode::Backspace | KeyCode::Enter => {
                let back_to_page = self.place == Place::Help && self.model.page.is_some();
                self.first = 0;
                if back_to_page {
                    self.place = Place::Page;
                    return Step::Draw;
                }
                self.place = Place::List;
                self.model.close();
                return Step::Look(None);
            }
            // What there is at most, the drawing knows.
            code => self.first = moved(code, self.first, self.lines),
        }
        Step::Draw
    }
}

/// Where a key for moving leads from a line.
fn moved(code: KeyCode, at: usize, page: usize) -> usize {
    match code {
        KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => at.saturating_add(1),
        KeyCode::PageUp => at.saturating_sub(page),
        KeyCode::PageDown => at.saturating_add(page),
        KeyCode::Home | KeyCode::Char('g') => 0,
        KeyCode::End | KeyCode::Char('G') => usize::MAX,
        _ => at,
    }
}

/// Whether a VM has these lower-case letters in what the list says of it, or in an address.
fn matches(vm: &Vm, filter: &str) -> bool {
    let row = &vm.row;
    let addresses = [&row.address4, &row.address6];
    let addresses = addresses.into_iter().flatten().map(String::as_str);
    let mut texts = [row.name.as_str(), &row.network, &row.mac, state(row)].into_iter().chain(addresses);
    texts.any(|text| text.to_lowercase().contains(filter))
}
