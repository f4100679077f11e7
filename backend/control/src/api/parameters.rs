//! Every query parameter: what it means wherever a route takes it, and what it may be.
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use vonic_frame::Subnet;

use super::ApiError;
use super::transfer::WAIT_MAX;
use crate::config::name;

/// One query parameter.
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// What it may be.
    pub form: Form,
}

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A VM's name.
    Vm,
    /// Text of at most so many bytes.
    Text(usize),
    /// A whole number within bounds.
    Number(u64, u64),
    /// An address, or a subnet.
    Subnet,
    /// One of these; upper and lower case are the same.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
}

/// States of connections (RFC 9293 §3.3.2), and what flows of datagrams are like.
pub(super) const STATES: &[&str] = &[
    "SYN-SENT",
    "SYN-RECEIVED",
    "ESTABLISHED",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "CLOSE-WAIT",
    "CLOSING",
    "LAST-ACK",
    "TIME-WAIT",
    "CLOSED",
    "unanswered",
    "query",
    "one-shot",
    "stream",
    "echo",
];

/// The longest path of a program.
const PATH_MAX: usize = 4096;

/// Every parameter.
pub static PARAMETERS: &[Parameter] = &[
    Parameter { name: "vm", help: "only of this VM", form: Form::Vm },
    Parameter { name: "protocol", help: "only of this protocol", form: Form::Choice(&["tcp", "udp", "icmp"]) },
    Parameter { name: "state", help: "only in this state", form: Form::Choice(STATES) },
    Parameter {
        name: "address",
        help: "only with an end at this address, or within this subnet (192.0.2.0/24)",
        form: Form::Subnet,
    },
    Parameter { name: "port", help: "only with an end at this port", form: Form::Number(1, 65_535) },
    Parameter {
        name: "min_age",
        help: "only what is at least so many seconds old",
        form: Form::Number(0, u32::MAX as u64),
    },
    Parameter {
        name: "max_age",
        help: "only what is at most so many seconds old",
        form: Form::Number(0, u32::MAX as u64),
    },
    Parameter { name: "binary", help: "the newer vonicd: its absolute path", form: Form::Text(PATH_MAX) },
    Parameter {
        name: "timeout",
        help: "seconds to wait for the guest, or its state; 60 if not given",
        form: Form::Number(1, WAIT_MAX.as_secs()),
    },
    Parameter { name: "dry_run", help: "only tell what would be done", form: Form::Flag },
    Parameter {
        name: "after",
        help: "go on behind this event: its id. Without it only what is new is told",
        form: Form::Text(64),
    },
    Parameter { name: "seconds", help: "over how many seconds; 1 if not given", form: Form::Number(1, 10) },
];

/// The parameters that a request has given, each by its name and of its form.
#[derive(Debug, Default)]
pub(super) struct Given(BTreeMap<&'static str, String>);

impl Given {
    /// Reads what stands behind a path's question mark, of which these are known.
    ///
    /// # Errors
    /// 400, with the parameter and what it may be.
    pub fn read(query: Option<&str>, known: &[&'static str]) -> Result<Given, ApiError> {
        let mut given = BTreeMap::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(name) = known.iter().find(|name| **name == key) else {
                let mend = match known {
                    [] => "this path takes no parameters".to_string(),
                    known => format!("the parameters are: {}", known.join(", ")),
                };
                return Err(ApiError::bad_request(format!("unknown query parameter '{}'", short(key)))
                    .field(short(key))
                    .mend(mend));
            };
            let value = percent_decode_str(value).decode_utf8().unwrap_or_default().into_owned();
            if value.is_empty() || given.contains_key(name) {
                return Err(ApiError::bad_request(format!("give '{key}' once, with a value"))
                    .field(key)
                    .mend("see openapi.json"));
            }
            check(name, &value)?;
            given.insert(*name, value);
        }
        Ok(Given(given))
    }

    /// One that may be absent.
    pub fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    /// The same, read: its form is known to be good.
    pub fn read_as<T: FromStr>(&self, name: &str) -> Option<T> {
        self.0.get(name)?.parse().ok()
    }
}

/// Checks a value by its parameter's form.
fn check(name: &str, value: &str) -> Result<(), ApiError> {
    let Some(parameter) = PARAMETERS.iter().find(|parameter| parameter.name == name) else { return Ok(()) };
    let wrong = |mend: &dyn Display| {
        let message = format!("{name}: '{}' does not fit", short(value));
        Err(ApiError::bad_request(message).field(name).mend(mend.to_string()))
    };
    match parameter.form {
        Form::Vm => name::check(value).or_else(|_| wrong(&"give a VM's name; vonic vm list has them")),
        Form::Text(most) if value.len() > most => wrong(&format_args!("give at most {most} bytes")),
        Form::Text(_) => Ok(()),
        Form::Number(least, most) => match value.parse::<u64>() {
            // A sign is none of a number's digits.
            Ok(n) if (least..=most).contains(&n) && !value.starts_with('+') => Ok(()),
            _ => wrong(&format_args!("give a whole number from {least} to {most}")),
        },
        Form::Subnet => value
            .parse::<Subnet>()
            .map(drop)
            .or_else(|_| wrong(&"give one as 192.0.2.2, 192.0.2.0/24 or 2001:db8::/64")),
        Form::Choice(words) if words.iter().any(|word| word.eq_ignore_ascii_case(value)) => Ok(()),
        Form::Choice(words) => wrong(&format_args!("give one of {}", words.join(", "))),
        Form::Flag if ["true", "false"].contains(&value) => Ok(()),
        Form::Flag => wrong(&"give true or false"),
    }
}

/// The beginning of what may be long.
fn short(text: &str) -> String {
    const MOST: usize = 64;
    match text.char_indices().nth(MOST) {
        None => text.to_string(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Given, ApiError> {
        let all: Vec<&str> = PARAMETERS.iter().map(|parameter| parameter.name).collect();
        Given::read(Some(query), &all)
    }

    #[test]
    fn values_have_their_forms() {
        let given = read("vm=a.b&state=established&address=2001:db8::/64&port=53&max_age=0&dry_run=true&&").unwrap();
        assert_eq!((given.text("vm"), given.read_as::<u16>("port")), (Some("a.b".into()), Some(53)));
        assert_eq!((given.read_as("dry_run"), given.read_as::<u64>("min_age")), (Some(true), None));
        let long = format!("after={}", "x".repeat(65));
        for wrong in [
            "vm=a b",
            "vm=a%2fb",
            "state=open",
            "address=1.2.3",
            "address=192.0.2.1/24",
            "port=0",
            "port=65536",
            "port=%2b1",
            "port=-1",
            "port=1.0",
            "port=x",
            "min_age=4294967296",
            "dry_run=yes",
            "dry_run",
            "seconds=11",
            &long,
            "vm=%ff",
        ] {
            let error = read(wrong).unwrap_err();
            let field = wrong.split('=').next().map(str::to_string);
            assert_eq!((error.status, error.field), (400, field), "{wrong}");
            assert!(error.message.len() < 200 && error.mend.is_some(), "{wrong}: {}", error.message);
        }
    }
}
