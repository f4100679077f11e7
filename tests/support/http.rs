//! A request to the API as it goes over the wire, and what comes back, whatever it is.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

/// Longer than the service takes to send anybody away.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The media type, without its parameters.
    pub media_type: String,
    /// The header `Allow`.
    pub allow: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body, which is JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| String::from_utf8_lossy(&self.body).into_owned())
    }
}

/// Asks, and reads all of the answer. `content`: media type and body.
///
/// # Errors
/// There is no answer, or it does not end.
pub fn ask(socket: &Path, method: &str, target: &str, content: Option<(&str, &[u8])>) -> Result<Answer> {
    let mut stream = open(socket, method, target, content)?;
    let mut all = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => all.extend_from_slice(&piece[..length]),
            // Something of what was sent was left unread: that is an end, too.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error).with_context(|| format!("{method} {target}: {} bytes", all.len())),
        }
    }
    parse(&all).with_context(|| format!("{method} {target}: {:?}", String::from_utf8_lossy(&all)))
}

/// Asks for something that goes on: its lines come by the stream, behind its head and between the lengths of its parts.
///
/// # Errors
/// The system's.
pub fn open(socket: &Path, method: &str, target: &str, content: Option<(&str, &[u8])>) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).context("the API's socket")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: vonic\r\n").into_bytes();
    if let Some((media_type, body)) = content {
        request.extend(format!("Content-Type: {media_type}\r\nContent-Length: {}\r\n\r\n", body.len()).bytes());
        request.extend_from_slice(body);
    } else {
        request.extend(b"\r\n");
    }
    // A service that has heard enough may close before all is written.
    match stream.write_all(&request) {
        Err(error) if ![ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()) => Err(error.into()),
        _ => Ok(stream),
    }
}

fn parse(all: &[u8]) -> Result<Answer> {
    let end = all.windows(4).position(|window| window == b"\r\n\r\n").context("no head")?;
    let head = std::str::from_utf8(&all[..end])?;
    let header = |name: &str| {
        let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let found = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_string());
        found.last().unwrap_or_default()
    };
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let media_type = header("content-type").split(';').next().unwrap_or_default().to_string();
    Ok(Answer { status, media_type, allow: header("allow"), body: all[end + 4..].to_vec() })
}
