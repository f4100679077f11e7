//! vonic's service, as this guest asks it.
use super::http::Answers;
use crate::arguments::{Address, candidates};
use crate::link::Failure;
use crate::read::links6;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use vonic_agent::connection::{Connection, Page};

/// How long a connect, and how long the next part of an answer may take; a stream says something every five seconds.
const LIMIT: Duration = Duration::from_secs(10);
/// The most pages of a list that are read.
const PAGES_MAX: usize = 1000;

/// A connection to it.
pub struct Service {
    answers: Answers<TcpStream>,
    writer: TcpStream,
    host: String,
}

/// What an error looks like.
#[derive(Deserialize)]
struct Refusal {
    error: Reason,
}

#[derive(Deserialize)]
struct Reason {
    message: String,
    #[serde(default)]
    mend: Option<String>,
}

impl Service {
    /// Connects.
    ///
    /// # Errors
    /// Why that failed, at the last of the addresses.
    pub fn open(address: Option<&Address>) -> Result<Service, Failure> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for to in candidates(address, &links6()) {
            match TcpStream::connect_timeout(&to, LIMIT) {
                Ok(stream) => return Ok(Service::over(stream, to)?),
                Err(error) => last = io::Error::new(error.kind(), format!("{to}: {error}")),
            }
        }
        Err(last.into())
    }

    fn over(stream: TcpStream, to: SocketAddr) -> io::Result<Service> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        // A zone means something on this host only (RFC 6874 §1).
        let host = match to {
            SocketAddr::V4(to) => to.ip().to_string(),
            SocketAddr::V6(to) => format!("[{}]", to.ip()),
        };
        Ok(Service { answers: Answers::new(stream.try_clone()?), writer: stream, host })
    }

    /// Asks for a path, and reads the answer's JSON.
    ///
    /// # Errors
    /// Why there is none.
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        self.ask(path)?;
        let head = self.answers.head()?;
        let body = self.answers.body(&head)?;
        match head.status {
            200 => serde_json::from_slice(&body).map_err(|_| Failure::Garbage),
            status => Err(refused(status, &body)),
        }
    }

    /// Asks for a stream of lines; [`Service::line`] reads them.
    ///
    /// # Errors
    /// Why there is none.
    pub fn stream(&mut self, path: &str) -> Result<(), Failure> {
        self.ask(path)?;
        let head = self.answers.head()?;
        if head.status == 200 {
            return Ok(());
        }
        let body = self.answers.body(&head)?;
        Err(refused(head.status, &body))
    }

    /// Reads the next line's JSON; `None` at the stream's end.
    ///
    /// # Errors
    /// Why there is none.
    pub fn line<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        let line = self.answers.stream_line()?;
        line.map(|line| serde_json::from_slice(&line).map_err(|_| Failure::Garbage)).transpose()
    }

    /// Reads the list of connections; at most so many pages of it.
    ///
    /// # Errors
    /// Why there is none.
    pub fn connections(&mut self, pages: Option<usize>) -> Result<Vec<Connection>, Failure> {
        let mut all = Vec::new();
        let mut path = "/v1/connections".to_string();
        for _ in 0..pages.unwrap_or(PAGES_MAX) {
            let page: Page = self.get(&path)?;
            all.extend(page.connections);
            match page.next {
                Some(next) => path = format!("/v1/connections?from={next}"),
                None => break,
            }
        }
        Ok(all)
    }

    fn ask(&mut self, path: &str) -> io::Result<()> {
        self.writer.write_all(format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.host).as_bytes())
    }
}

fn refused(status: u16, body: &[u8]) -> Failure {
    let text = match serde_json::from_slice::<Refusal>(body) {
        Ok(Refusal { error: Reason { message, mend: Some(mend) } }) => format!("{message}; {mend}"),
        Ok(Refusal { error: Reason { message, mend: None } }) => message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    Failure::Refused(status, super::table::plain(&text))
}
