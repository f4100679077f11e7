//! Does the API answer every route with what the engine said, and does a bad client hurt itself only?
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;
use vonic_control::api::types::{ConnectionRow, Event, Happening, Health, ReloadReport, Stats, VmDetail, VmRow};
use vonic_control::api::{ANSWER_TIMEOUT, ErrorBody, ROUTES, Route};

#[path = "support/service.rs"]
mod service;
use service::Service;

/// A response: status, head, body.
struct Heard(u16, String, Vec<u8>);

impl Heard {
    fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.2).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.2)))
    }
}

fn connect(service: &Service) -> UnixStream {
    let stream = UnixStream::connect(service.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Reads until the server closes; a reset because it left something unread is an end, too.
fn hear(mut stream: UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut chunk) {
        all.extend_from_slice(&chunk[..n]);
    }
    all
}

fn say(service: &Service, request: &[u8]) -> Heard {
    let mut stream = connect(service);
    // A server that has heard enough may close before all is written.
    drop(stream.write_all(request));
    let all = hear(stream);
    let end =
        all.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&all)));
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Heard(status, head.to_ascii_lowercase(), all[end + 4..].to_vec())
}

fn ask(service: &Service, method: &str, target: &str) -> Heard {
    say(service, format!("{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
}

fn get<T: DeserializeOwned>(service: &Service, target: &str) -> T {
    let heard = ask(service, "GET", target);
    assert_eq!(heard.0, 200, "{target}");
    assert!(heard.1.contains("content-type: application/json"), "{}", heard.1);
    heard.json()
}

#[test]
fn every_route_answers_what_the_engine_said() {
    let service = Service::start();
    let vms: Vec<VmRow> = get(&service, "/v1/vms");
    assert_eq!((vms.len(), &vms[0]), (2, &service::row("web1")));
    assert_eq!(get::<VmDetail>(&service, "/v1/vms/web1"), service::detail());
    assert_eq!(get::<Vec<ConnectionRow>>(&service, "/v1/connections"), service::connections());
    assert_eq!(get::<Vec<ConnectionRow>>(&service, "/v1/connections?vm=web2"), service::connections()[1..]);
    assert_eq!(get::<Stats>(&service, "/v1/stats"), service::stats());
    assert_eq!(get::<Health>(&service, "/v1/health"), service::health());
    let heard = ask(&service, "POST", "/v1/reload");
    assert_eq!((heard.0, heard.json::<ReloadReport>()), (200, service::report()));
    let put = say(&service, b"PUT /v1/vms/web1 HTTP/1.1\r\nContent-Length: 10\r\n\r\nmtu = 1400");
    assert_eq!((put.0, put.json::<ReloadReport>()), (200, service::put()));
    // A stream does not end, and a put needs a body.
    let ends = |route: &&Route| route.path != "/v1/events" && route.method != Method::PUT;
    for route in ROUTES.iter().filter(ends) {
        let target = route.path.replace("{name}", "web1");
        let upgrades = (&route.method, route.path) == (&Method::POST, "/v1/upgrade");
        let query = if upgrades { "binary=/opt/vonicd" } else { "" };
        // A state that does not come is none.
        let status = if target.contains("migrate/load") { 400 } else { 200 };
        assert_eq!(ask(&service, route.method.as_str(), &format!("{target}?{query}")).0, status, "{target}");
        assert_eq!(ask(&service, route.method.as_str(), &format!("{target}?{query}&nonsense=1")).0, 400, "{target}");
    }
    let forgotten = service.forgotten.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(forgotten, 1, "the engine hears that the state has not come");
}

#[test]
fn bodies_have_the_documented_names() {
    let service = Service::start();
    let vm: Value = get(&service, "/v1/vms/web1");
    assert_eq!(vm["guest_to_host"]["bytes"], 2048);
    assert_eq!(vm["drops_by_reason"]["spoofed_mac"]["guest_to_host"], 7);
    assert_eq!((&vm["name"], &vm["last_error"]), (&Value::from("web1"), &Value::Null));
    let connections: Value = get(&service, "/v1/connections");
    assert_eq!(
        (&connections[0]["direction"], &connections[1]["direction"]),
        (&"guest_opens".into(), &"world_opens".into())
    );
}

#[test]
fn errors_have_one_shape() {
    let service = Service::start();
    for (method, target, status) in [
        ("GET", "/v1/vms/web9", 404),
        ("GET", "/v1/vms/%2e%2e", 404),
        ("GET", "/", 404),
        ("DELETE", "/v1/vms", 405),
        ("GET", "/v1/reload", 405),
        ("GET", "/v1/connections?vm=", 400),
        ("GET", "/v1/vms/lost", 500),
    ] {
        let heard = ask(&service, method, target);
        assert_eq!(heard.0, status, "{target}");
        let ErrorBody { error } = heard.json();
        assert!(!error.message.is_empty(), "{target}");
        assert!(error.mend.is_some() || status == 400, "{target}: {error:?}");
        assert_eq!(heard.1.contains("allow: "), status == 405, "{target}: {}", heard.1);
    }
    let error: Value = ask(&service, "GET", "/v1/vms/web9").json();
    assert_eq!(error["error"]["field"], "vm");
    assert!(error["error"].get("status").is_none());
}

#[test]
fn bodies_are_bounded() {
    let service = Service::start();
    let post = |length: usize, sent: usize| {
        let mut request = format!("POST /v1/reload HTTP/1.1\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        request.resize(request.len() + sent, b'x');
        say(&service, &request).0
    };
    assert_eq!(post(0, 0), 200);
    assert_eq!(post(5, 5), 400);
    assert_eq!(post(64 * 1024 + 1, 64 * 1024 + 1), 413);
    assert_eq!(post(1 << 40, 1 << 20), 413);
    let chunk = "ffff\r\n".to_string() + &"x".repeat(0xffff) + "\r\n";
    let chunked = format!("POST /v1/reload HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(2));
    assert_eq!(say(&service, chunked.as_bytes()).0, 413);
}

#[test]
fn garbage_hurts_its_sender_only() {
    let service = Service::start();
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20)).into_bytes();
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(10_000)).into_bytes();
    let garbage: [&[u8]; 7] = [
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\r\n",
        &[0xff; 100_000],
        &long,
        &many,
    ];
    for bytes in garbage {
        let mut stream = connect(&service);
        drop(stream.write_all(bytes));
        drop(stream.shutdown(std::net::Shutdown::Write));
        let heard = String::from_utf8_lossy(&hear(stream)).into_owned();
        assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 4"), "{heard}");
        assert_eq!(get::<Health>(&service, "/v1/health"), service::health());
    }
    // One that leaves before its answer.
    let mut gone = connect(&service);
    gone.write_all(b"GET /v1/vms/slow HTTP/1.1\r\n\r\n").unwrap();
    drop(gone);
    assert_eq!(get::<Health>(&service, "/v1/health"), service::health());
}

#[test]
fn clients_that_say_nothing_are_sent_away() {
    let service = Service::start();
    let started = Instant::now();
    // As many as are served at once: some silent, some in the middle of a head, one in the middle of a body.
    let mut slow: Vec<UnixStream> = (0..64).map(|_| connect(&service)).collect();
    for stream in &mut slow[..30] {
        stream.write_all(b"GET /v1/health HTT").unwrap();
    }
    assert_eq!(get::<Health>(&service, "/v1/health"), service::health());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    for stream in slow {
        hear(stream);
    }
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[test]
fn a_body_that_never_comes_is_not_awaited_for_ever() {
    let service = Service::start();
    let started = Instant::now();
    let mut stream = connect(&service);
    stream.write_all(b"POST /v1/reload HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc").unwrap();
    assert_eq!(get::<Health>(&service, "/v1/health"), service::health());
    assert!(hear(stream).starts_with(b"HTTP/1.1 408"));
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[test]
fn an_engine_that_does_not_answer_is_not_awaited_for_ever() {
    let service = Service::start();
    let started = Instant::now();
    let heard = ask(&service, "GET", "/v1/vms/slow");
    assert_eq!(heard.0, 503);
    assert!(started.elapsed() >= ANSWER_TIMEOUT);
    assert!(heard.json::<ErrorBody>().error.message.contains("did not answer within 5s"));
    // Its answer comes too late and hurts nobody.
    assert_eq!(get::<Vec<VmRow>>(&service, "/v1/vms/late"), []);
    assert_eq!(get::<Health>(&service, "/v1/health"), service::health());
}

/// A stream of events, line by line.
struct Events(std::io::BufReader<UnixStream>);

impl Events {
    fn start(service: &Service, query: &str) -> Events {
        let mut stream = connect(service);
        stream.write_all(format!("GET /v1/events?{query} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
        Events(std::io::BufReader::new(stream))
    }

    /// The next one. What frames the parts of the body is none.
    fn next(&mut self) -> Event {
        loop {
            let mut line = String::new();
            assert!(std::io::BufRead::read_line(&mut self.0, &mut line).unwrap() > 0, "the stream has ended");
            if line.starts_with('{') {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }

    fn begin(&mut self) -> bool {
        match self.next().what {
            Happening::Begun { resumed, .. } => resumed,
            other => panic!("{other:?}"),
        }
    }
}

fn added(vm: impl ToString) -> Happening {
    Happening::VmAdded { vm: vm.to_string() }
}

#[test]
fn events_come_as_they_happen_and_a_client_goes_on_where_it_was() {
    let service = Service::start();
    service.feed.tell(added("before"));
    let mut all = Events::start(&service, "");
    let mut of_b = Events::start(&service, "vm=b");
    assert!(all.begin() && of_b.begin());
    service.feed.tell(added("a"));
    let first = all.next();
    assert_eq!(first.what, added("a"));
    service.feed.tell(added("b"));
    service.feed.tell(Happening::EngineReplaced {});
    assert_eq!((all.next().what, all.next().what), (added("b"), Happening::EngineReplaced {}));
    assert_eq!((of_b.next().what, of_b.next().what), (added("b"), Happening::EngineReplaced {}));
    drop(all);
    let mut again = Events::start(&service, &format!("after={}", first.id));
    assert!(again.begin());
    assert_eq!(again.next().what, added("b"));
    // Another engine's place: everything that this one has told.
    let mut other = Events::start(&service, "after=ffff-7");
    assert!(!other.begin());
    assert_eq!(other.next().what, added("before"));
    assert_eq!(ask(&service, "GET", "/v1/events?after=7").0, 400);
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up_and_is_told_what_it_has_lost() {
    const TOLD: u64 = 50_000;
    let service = Service::start();
    let (mut slow, mut quick) = (Events::start(&service, ""), Events::start(&service, ""));
    assert!(slow.begin() && quick.begin());
    let started = Instant::now();
    for number in 0..TOLD {
        service.feed.tell(added(number));
        // Now and then the quick one reads: it loses nothing.
        if number % 500 == 499 {
            (0..500).for_each(|back| assert_eq!(quick.next().what, added(number - 499 + back)));
        }
    }
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    // The slow one hears of everything, be it that it was lost.
    let (mut heard, mut lost) = (0, 0);
    while heard + lost < TOLD {
        match slow.next().what {
            Happening::Lost { count } => lost += count,
            what => {
                assert_eq!(what, added(heard + lost), "in its order");
                heard += 1;
            }
        }
    }
    assert!(lost > 0 && heard > 0 && heard + lost == TOLD, "{heard} heard, {lost} lost");
    assert_eq!(get::<Health>(&service, "/v1/health"), service::health());
}

#[test]
fn streams_leave_room_for_others_and_give_their_places_back() {
    let service = Service::start();
    let begin = || {
        let mut stream = Events::start(&service, "");
        assert!(stream.begin());
        stream
    };
    let mut streams: Vec<Events> = (0..16).map(|_| begin()).collect();
    let heard = ask(&service, "GET", "/v1/events");
    assert!(heard.0 == 503 && heard.json::<ErrorBody>().error.mend.is_some());
    assert_eq!(get::<Health>(&service, "/v1/health"), service::health());
    // Nothing has happened that would have shown that one is gone.
    streams.pop();
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let mut stream = connect(&service);
        stream.write_all(b"GET /v1/events HTTP/1.1\r\n\r\n").unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        if &head == b"HTTP/1.1 200" {
            return;
        }
        assert!(Instant::now() < until, "its place is not given back");
        std::thread::sleep(Duration::from_millis(20));
    }
}
