//! Does the guests' service take an agent's messages, and hold out against guests that send anything else?
#![allow(clippy::unwrap_used, reason = "a test may fail")]
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use vonic_agent::message::{Message, VERSION};
use vonic_agent::metadata::Metadata;
use vonic_agent::nic::Nic;
use vonic_control::guest::{Asker, Guest, Host, Question, Service};
use vonic_record::{Checkpoint, Shared};

/// The service with one guest.
struct Bed {
    service: Service,
    guest: Arc<Guest>,
}

/// An engine that knows one VM, and no connection of it; that lets go of who wants to listen.
fn answer(question: Question) {
    match question {
        Question::Metadata(answer) => {
            let labels = [("tier".to_string(), "web".to_string())].into();
            drop(answer.send(Metadata { version: 1, name: "a".into(), mtu: 1500, labels, ..Metadata::default() }));
        }
        Question::Nic(answer) => drop(answer.send(Nic { name: "a".into(), ..Nic::default() })),
        Question::Connections(..) | Question::Notify(_) => {}
    }
}

/// Tells of a connection's end by being dropped.
struct Place(#[allow(dead_code, reason = "its drop is what is looked at")] std::sync::mpsc::Sender<()>);

impl Bed {
    fn start() -> Bed {
        let checkpoint = Arc::new(Checkpoint::create(1).unwrap());
        let host = Host::new(Asker::new(|_, question| answer(question)), checkpoint);
        Bed { service: Service::start(host).unwrap(), guest: Arc::new(Guest::new("a", &Shared::default())) }
    }

    /// A connection of the guest's; the second one hangs up when the service has let go of it.
    fn connect(&self) -> (UnixStream, Receiver<()>) {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        near.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        far.set_nonblocking(true).unwrap();
        let (held, ended) = channel();
        self.service.serve(Arc::clone(&self.guest), far.into(), Place(held));
        (near, ended)
    }

    /// Says something on a connection of its own, ends it, and hears the whole answer.
    fn say(&self, request: impl AsRef<[u8]>) -> String {
        let (mut stream, _) = self.connect();
        // A server that has heard enough may be gone before all is said.
        drop(stream.write_all(request.as_ref()));
        drop(stream.shutdown(std::net::Shutdown::Write));
        hear(stream)
    }

    /// The status of the answer to a posted body.
    fn post(&self, body: impl AsRef<[u8]>) -> u16 {
        let head = format!(
            "POST /v1/stats HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.as_ref().len()
        );
        let (mut stream, _) = self.connect();
        drop(stream.write_all(&[head.as_bytes(), body.as_ref()].concat()));
        status(&hear(stream))
    }

    fn good_message_is_taken(&self, uptime_seconds: u64) {
        let message = Message { version: VERSION, uptime_seconds, ..Message::default() };
        assert_eq!(self.post(serde_json::to_vec(&message).unwrap()), 204);
        assert_eq!(self.guest.report().unwrap().message, message);
    }
}

fn hear(mut stream: UnixStream) -> String {
    let mut heard = Vec::new();
    drop(stream.read_to_end(&mut heard));
    String::from_utf8_lossy(&heard).into_owned()
}

fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0)
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

#[test]
fn messages_are_taken_over_one_connection_and_the_last_one_counts() {
    let bed = Bed::start();
    let (mut stream, ended) = bed.connect();
    for uptime_seconds in 1..=20 {
        let body = serde_json::to_vec(&Message { version: VERSION, uptime_seconds, ..Message::default() }).unwrap();
        let head = format!("POST /v1/stats HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
        let mut answer = [0; 1024];
        let n = stream.read(&mut answer).unwrap();
        assert_eq!(status(&String::from_utf8_lossy(&answer[..n])), 204);
        assert_eq!(bed.guest.report().unwrap().message.uptime_seconds, uptime_seconds);
    }
    drop(stream);
    assert!(
        ended.recv_timeout(Duration::from_secs(5)).is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Disconnected)
    );
}

#[test]
fn what_is_not_there_has_an_answer_in_json() {
    let bed = Bed::start();
    let greeting = bed.say(get("/"));
    assert!(greeting.starts_with("HTTP/1.1 200 ") && greeting.contains("vonic-agent"), "{greeting}");
    for (request, expected, part) in [
        (get("/latest/meta-data/"), 404, "/v1/stats"),
        (get("/v1/stats"), 405, "allow: POST"),
        (get("/v1/vms"), 404, "there is no such path"),
        (get("/v1/labels/none"), 404, "/v1/labels/, /v1/mac, /v1/mtu, /v1/name"),
        ("DELETE / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".into(), 405, "allow: GET, HEAD"),
        ("PUT /v1/mtu HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".into(), 405, "allow: GET, HEAD"),
        (get("/v1/mtu?x=1"), 400, "use nothing"),
        (get("/v1/connections?from=e7"), 400, "use the next of the last page"),
        (get("/v1/events?batch=2000"), 400, "use one from 1 to 1024"),
        (get(&format!("/v1/events?{}", "x".repeat(9000))), 400, "use after, batch, delay_ms, wait_ms, stream"),
    ] {
        let answer = bed.say(&request);
        assert_eq!(status(&answer), expected, "{answer}");
        assert!(answer.contains("\"error\":{\"message\":") && answer.contains(part), "{answer}");
    }
}

#[test]
fn a_guest_reads_what_it_is_whole_and_in_parts() {
    let bed = Bed::start();
    let whole = bed.say(get("/v1/"));
    assert!(whole.contains("content-type: application/json") && whole.contains("\"tier\":\"web\""), "{whole}");
    for (path, text) in [("/v1/mtu", "1500"), ("/v1/labels/", "tier\n"), ("/v1/labels/tier", "web")] {
        let answer = bed.say(get(path));
        assert!(status(&answer) == 200 && answer.ends_with(&format!("\r\n\r\n{text}")), "{answer}");
    }
    let head = bed.say(get("/v1/mtu").replace("GET", "HEAD"));
    assert!(head.contains("content-length: 4") && head.ends_with("\r\n\r\n"), "{head}");
    let nothing = bed.say(get("/v1/events").replace("GET", "HEAD"));
    assert_eq!(status(&nothing), 200, "{nothing}");
}

/// An engine that is stuck, or a VM that is gone: the guest is told so, and is welcome afterwards.
#[test]
fn what_the_engine_does_not_answer_is_told_in_time() {
    let bed = Bed::start();
    let begin = Instant::now();
    for path in ["/v1/connections", "/v1/events", "/v1/events?stream=1"] {
        let answer = bed.say(get(path));
        assert!(status(&answer) == 503 && answer.contains("try again"), "{answer}");
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    bed.good_message_is_taken(3);
}

#[test]
fn wrong_messages_change_nothing() {
    let bed = Bed::start();
    bed.good_message_is_taken(7);
    for body in [
        "",
        "{}",
        "[]",
        "{\"version\":0}",
        "{\"version\":2,\"kernel\":\"\\u001b[2J\"}",
        "{\"version\":1,\"agent\":\"\\u001b[2J\"}",
        "\u{0}\u{1}",
    ] {
        assert_eq!(bed.post(body), 400, "{body}");
    }
    assert_eq!(bed.post(vec![b'['; 60_000]), 400);
    assert_eq!(bed.post(vec![b' '; 64 * 1024 + 1]), 413);
    assert_eq!(bed.guest.report().unwrap().message.uptime_seconds, 7);
    bed.good_message_is_taken(8);
}

#[test]
fn garbage_and_endless_heads_end_their_own_connection() {
    let bed = Bed::start();
    assert_eq!(status(&bed.say("\u{0}\u{1}garbage\r\n\r\n")), 400);
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    assert_eq!(status(&bed.say(long)), 431);
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(1000));
    assert_eq!(status(&bed.say(many)), 431);
    let (mut stream, ended) = bed.connect();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(20) && stream.write_all(&[b'x'; 65_536]).is_ok() {}
    assert!(ended.recv_timeout(Duration::from_secs(20)).is_err());
    assert!(begin.elapsed() < Duration::from_secs(15), "a head without an end was read for {:?}", begin.elapsed());
    bed.good_message_is_taken(1);
}

/// Each is left alone with its deadline: the head that does not end, the body that does not come, the connection that says nothing, and
/// the client that asks and asks and never reads.
#[test]
fn slow_guests_are_dropped_and_hold_nobody_up() {
    let bed = Bed::start();
    let begin = Instant::now();
    let slow = ["GET / HT", "POST /v1/stats HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{", ""];
    let mut held: Vec<(UnixStream, Receiver<()>)> = Vec::new();
    for request in slow {
        let (mut stream, ended) = bed.connect();
        stream.write_all(request.as_bytes()).unwrap();
        held.push((stream, ended));
    }
    let (stream, ended) = bed.connect();
    let mut writer = stream.try_clone().unwrap();
    // More than socket buffers hold, of requests and of answers.
    let asking = thread::spawn(move || {
        let request = "GET /x HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
        (0..1000).find_map(|_| writer.write_all(request.as_bytes()).err()).map(|e| e.kind())
    });
    held.push((stream, ended));
    bed.good_message_is_taken(1);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    for (_, ended) in &held {
        let left = Duration::from_secs(40).saturating_sub(begin.elapsed());
        assert_eq!(ended.recv_timeout(left), Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    }
    let stopped = asking.join().unwrap().unwrap();
    assert!(matches!(stopped, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{stopped:?}");
    bed.good_message_is_taken(2);
}
