//! Answers in HTTP/1.1 (RFC 9112), as much of it as vonic's service speaks.
use crate::link::Failure;
use std::io::{self, BufRead, BufReader, Read};

/// The longest line of a head.
const LINE_MAX: u64 = 8 * 1024;
/// The most lines of a head.
const LINES_MAX: usize = 64;
/// The longest body, and the longest line of a stream.
const BODY_MAX: usize = 4 << 20;

/// Reads one answer after the other.
pub struct Answers<R> {
    from: BufReader<R>,
    /// What has come of a stream behind its last line.
    rest: Vec<u8>,
}

/// What an answer begins with.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// The status.
    pub status: u16,
    body: Length,
}

#[derive(Debug, PartialEq, Eq)]
enum Length {
    Bytes(usize),
    Chunked,
}

impl<R: Read> Answers<R> {
    /// Answers that come from there.
    pub fn new(from: R) -> Answers<R> {
        Answers { from: BufReader::new(from), rest: Vec::new() }
    }

    /// Reads a head.
    ///
    /// # Errors
    /// Why there is none.
    pub fn head(&mut self) -> Result<Head, Failure> {
        let first = self.line()?;
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let mut head = Head { status: status.ok_or(Failure::Garbage)?, body: Length::Bytes(0) };
        for _ in 0..LINES_MAX {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(head);
            }
            let (name, value) = line.split_once(':').ok_or(Failure::Garbage)?;
            match (name.to_ascii_lowercase().as_str(), value.trim()) {
                ("content-length", value) => {
                    let length = value.parse().ok().filter(|length| *length <= BODY_MAX);
                    head.body = Length::Bytes(length.ok_or(Failure::Garbage)?);
                }
                ("transfer-encoding", "chunked") => head.body = Length::Chunked,
                _ => {}
            }
        }
        Err(Failure::Garbage)
    }

    /// Reads the whole body behind a head.
    ///
    /// # Errors
    /// Why it did not come.
    pub fn body(&mut self, head: &Head) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        match head.body {
            Length::Bytes(length) => {
                body.resize(length, 0);
                self.from.read_exact(&mut body)?;
            }
            Length::Chunked => while self.chunk(&mut body)? {},
        }
        Ok(body)
    }

    /// Reads the next line of a body that is a stream of them; `None` at its end.
    ///
    /// # Errors
    /// Why it did not come.
    pub fn stream_line(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let behind = self.rest.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.rest, behind)));
            }
            let mut rest = std::mem::take(&mut self.rest);
            let more = self.chunk(&mut rest)?;
            self.rest = rest;
            if !more {
                return Ok(None);
            }
        }
    }

    /// Reads a chunk behind what is there (RFC 9112 §7.1); false: it was the last.
    fn chunk(&mut self, to: &mut Vec<u8>) -> Result<bool, Failure> {
        let line = self.line()?;
        let size = line.split(';').next().and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
        let size = size.filter(|size| *size <= BODY_MAX - to.len().min(BODY_MAX)).ok_or(Failure::Garbage)?;
        let begin = to.len();
        to.resize(begin + size, 0);
        self.from.read_exact(&mut to[begin..])?;
        if self.line()?.is_empty() { Ok(size > 0) } else { Err(Failure::Garbage) }
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = Vec::new();
        self.from.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None if line.is_empty() => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            None => Err(Failure::Garbage),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_answers_follow_each_other() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab\
            HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n1\r\nd\r\n0\r\n\r\n\
            HTTP/1.1 204 No Content\r\n\r\n";
        let mut answers = Answers::new(text.as_bytes());
        for (status, body) in [(200, "ab"), (404, "abcd"), (204, "")] {
            let head = answers.head().unwrap();
            assert_eq!((head.status, answers.body(&head).unwrap().as_slice()), (status, body.as_bytes()));
        }
        assert!(matches!(answers.head(), Err(Failure::Io(e)) if e.kind() == io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn lines_of_a_stream_come_whatever_the_chunks_are() {
        let text =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n5\r\nb\nc\nd\r\n2\r\ne\n\r\n0\r\n\r\n";
        let mut answers = Answers::new(text.as_bytes());
        answers.head().unwrap();
        for line in [Some("ab\n"), Some("c\n"), Some("de\n"), None] {
            assert_eq!(answers.stream_line().unwrap(), line.map(|line| line.as_bytes().to_vec()));
        }
    }

    #[test]
    fn garbage_and_endless_answers_are_refused() {
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        for text in [
            "SSH-2.0\r\n\r\n".to_string(),
            "HTTP/1.1 x\r\n\r\n".to_string(),
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", BODY_MAX + 1),
            format!("HTTP/1.1 200 OK\r\n{}", "x: y\r\n".repeat(100)),
            format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(1 << 20)),
            format!("{chunked}-1\r\n"),
            format!("{chunked}1\r\nabc\r\n"),
            format!("{chunked}ffffffffffffffff\r\n"),
        ] {
            let mut answers = Answers::new(text.as_bytes());
            let read = answers.head().and_then(|head| answers.body(&head));
            assert!(matches!(read, Err(Failure::Garbage)), "{}", &text[..text.len().min(60)]);
        }
    }
}
