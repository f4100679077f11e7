//! The command line of what asks.
use crate::arguments::Address;
use vonic_agent::connection::{BATCH_MAX, DELAY_MAX};

/// What is asked for, and how it is shown.
#[derive(Debug, PartialEq, Eq)]
pub struct Question {
    /// What.
    pub command: Command,
    /// As JSON, for programs.
    pub json: bool,
    /// Where; absent: the service's addresses.
    pub address: Option<Address>,
    /// Connections: go on with what happens to them.
    pub follow: bool,
    /// The most events at once.
    pub batch: u32,
    /// The longest that an event waits for others, in milliseconds.
    pub delay_ms: u32,
    /// Top: draw so many times; absent: until it is ended.
    pub count: Option<u32>,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// What this VM is.
    Status,
    /// What its NIC counts.
    Stats,
    /// Its connections.
    Connections,
    /// Both, each second.
    Top,
}

/// A command, its name and its help.
struct Described {
    command: Command,
    name: &'static str,
    help: &'static str,
}

static COMMANDS: &[Described] = &[
    Described {
        command: Command::Status,
        name: "status",
        help: "\
vonic-agent status: what this VM is to vonic, and whether it answers

usage: vonic-agent status [--json] [--address ADDRESS]

It shows name, addresses, MTU and labels as the host's configuration has them, and the interface that is vonic's NIC. The exit status is 0
if vonic answers, else 1.
",
    },
    Described {
        command: Command::Stats,
        name: "stats",
        help: "\
vonic-agent stats: what the NIC counts of this VM

usage: vonic-agent stats [--json] [--address ADDRESS]

It shows rates, frames and bytes each way, drops with their reasons, offloads, limits, and counters of TCP, UDP and ICMP. It takes a second.
",
    },
    Described {
        command: Command::Connections,
        name: "connections",
        help: "\
vonic-agent connections: this VM's connections as the NIC has them

usage: vonic-agent connections [--follow [--batch N] [--delay MILLISECONDS]] [--json] [--address ADDRESS]

  --follow   after the list, what is established and what ends, in batches, until it is interrupted
  --batch    the most events of a batch, from 1 to 1024; default 256
  --delay    the longest that an event waits for others, from 0 to 2000; default 100
  --json     the list as one object; with --follow a line for each list, and one for each batch
",
    },
    Described {
        command: Command::Top,
        name: "top",
        help: "\
vonic-agent top: rates, drops and busiest connections, each second

usage: vonic-agent top [--count N] [--json] [--address ADDRESS]

  --count    end after so many times; default: q or ^C ends it
  --json     a line each second
",
    },
];

impl Question {
    /// The question that the first word stands for; `None`: it is no such word.
    pub fn named(word: &str) -> Option<Question> {
        let described = COMMANDS.iter().find(|described| described.name == word)?;
        let command = described.command;
        Some(Question { command, json: false, address: None, follow: false, batch: 256, delay_ms: 100, count: None })
    }

    /// What `--help` prints.
    pub fn help(&self) -> &'static str {
        COMMANDS.iter().find(|described| described.command == self.command).map_or("", |described| described.help)
    }

    fn name(&self) -> &'static str {
        COMMANDS.iter().find(|described| described.command == self.command).map_or("", |described| described.name)
    }

    /// Reads the words behind the first; false: the help is wanted.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn read(&mut self, mut words: impl Iterator<Item = String>) -> Result<bool, String> {
        while let Some(word) = words.next() {
            let (name, inline) = match word.split_once('=') {
                Some((name, value)) => (name.to_string(), Some(value.to_string())),
                None => (word, None),
            };
            let mut value = || inline.clone().or_else(|| words.next()).ok_or_else(|| format!("{name} needs a value"));
            match (name.as_str(), self.command) {
                ("--help" | "-h", _) => return Ok(false),
                ("--json", _) => self.json = true,
                ("--address", _) => self.address = Some(Address::read(&value()?)?),
                ("--follow", Command::Connections) => self.follow = true,
                ("--batch", Command::Connections) => self.batch = number(&name, &value()?, (1, BATCH_MAX))?,
                ("--delay", Command::Connections) => self.delay_ms = number(&name, &value()?, (0, DELAY_MAX))?,
                ("--count", Command::Top) => self.count = Some(number(&name, &value()?, (1, u32::MAX))?),
                _ => return Err(format!("unknown argument '{name}': see vonic-agent {} --help", self.name())),
            }
        }
        Ok(true)
    }
}

fn number(name: &str, text: &str, (least, most): (u32, u32)) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("{name}: '{text}' is no number from {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Question, bool), String> {
        let mut words = text.split_ascii_whitespace().map(String::from);
        let mut question = Question::named(&words.next().unwrap()).unwrap();
        let wanted = question.read(words)?;
        Ok((question, wanted))
    }

    #[test]
    fn questions_are_read() {
        let (question, wanted) = read("connections --follow --batch=5 --delay 0 --json").unwrap();
        assert_eq!((question.command, question.batch, question.delay_ms), (Command::Connections, 5, 0));
        assert!(question.follow && question.json && wanted);
        assert_eq!(read("top --count 3").unwrap().0.count, Some(3));
        assert!(read("status --address fe80::1%eth0").unwrap().0.address.is_some());
        for described in COMMANDS {
            let (question, wanted) = read(&format!("{} -h", described.name)).unwrap();
            assert!(!wanted && question.help().starts_with(&format!("vonic-agent {}: ", described.name)));
        }
        assert_eq!(Question::named("--once"), None);
    }

    #[test]
    fn wrong_words_are_told_what_to_write() {
        for (text, part) in [
            ("status --follow", "unknown argument '--follow': see vonic-agent status --help"),
            ("connections --batch 0", "from 1 to 1024"),
            ("connections --delay", "needs a value"),
            ("top --count x", "from 1 to"),
            ("stats extra", "unknown argument 'extra'"),
        ] {
            assert!(read(text).is_err_and(|e| e.contains(part)), "{text}");
        }
    }
}
