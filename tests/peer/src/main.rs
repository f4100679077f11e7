//! `vonic-peer`: traffic from the command line. Results are JSON, one object per line; the exit code is 0 if all went well.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use vonic_peer::datagrams;
use vonic_peer::many;
use vonic_peer::packet::{self, Wire};
use vonic_peer::stream::{self, Operation, Session, Summary};

const USAGE: &str = "usage:
  vonic-peer serve ADDRESS:PORT                  answer sessions for ever; one line per session
  vonic-peer send|recv|both ADDRESS:PORT BYTES SEED [STREAMS]
  vonic-peer connections ADDRESS:PORT COUNT [recv]   short connections in sequence: the client ends them, with recv the server
  vonic-peer churn ADDRESS:PORT THREADS SEED FILE    sessions of every kind, until FILE exists
  vonic-peer application ADDRESS:PORT            applications that do as they are told over a control connection each
  vonic-peer echo ADDRESS:PORT                   send back what comes, on any number of connections
  vonic-peer hold ADDRESS:PORT COUNT FILE        to echo: connections that stay open until FILE exists, with an exchange before and after
  vonic-peer busy ADDRESS:PORT COUNT FILE        the same, with exchanges all the time
  vonic-peer reflect ADDRESS:PORT                answer datagrams for ever
  vonic-peer datagrams ADDRESS:PORT LARGEST [ROUNDS [twice]]     datagrams of 0 to LARGEST bytes, and their answers, which may come twice
  vonic-peer inject INTERFACE HEX[,HEX...] [COUNT]   send raw frames, one after the other
  vonic-peer flood INTERFACE HEX SECONDS         send a raw frame as fast as it goes
  vonic-peer sniff INTERFACE FILE                count received frames by destination, and those to groups by source, until FILE exists
  vonic-peer record INTERFACE FILE               print received frames, each as HEX and a full stop, until FILE exists
VONIC_PEER_TIMEOUT: seconds that one wait on a socket may take (default 30)
VONIC_PEER_PAUSE: hundredths of a second for which receivers of send, recv and both sleep before they read (default 0)";

type Outcome = Result<bool, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["serve", address] => serve(address),
        ["application", address] => application(address),
        ["connections", address, count] => connections(address, count, Operation::Echo),
        ["connections", address, count, "recv"] => connections(address, count, Operation::Source),
        ["churn", address, threads, seed, file] => churn(address, threads, seed, file),
        ["echo", address] => echo(address),
        ["hold", address, count, file] => hold((address, count), file, many::Held::wait),
        ["busy", address, count, file] => hold((address, count), file, many::Held::exchange),
        ["reflect", address] => reflect(address),
        ["datagrams", address, largest] => exchange(address, largest, "1", false),
        ["datagrams", address, largest, rounds] => exchange(address, largest, rounds, false),
        ["datagrams", address, largest, rounds, "twice"] => exchange(address, largest, rounds, true),
        ["inject", interface, hex] => inject(interface, hex, "1"),
        ["inject", interface, hex, count] => inject(interface, hex, count),
        ["flood", interface, hex, seconds] => flood(interface, hex, seconds),
        ["sniff", interface, file] => sniff(interface, file),
        ["record", interface, file] => record(interface, file),
        [operation, address, bytes, seed] => transfer(operation, address, bytes, seed, "1"),
        [operation, address, bytes, seed, streams] => transfer(operation, address, bytes, seed, streams),
        _ => Err(USAGE.to_string()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn parse<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{what} cannot be {text:?}\n{USAGE}"))
}

fn timeout() -> Result<Duration, String> {
    let seconds = std::env::var("VONIC_PEER_TIMEOUT").map_or(Ok(30), |text| parse("VONIC_PEER_TIMEOUT", &text))?;
    Ok(Duration::from_secs(seconds))
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn serve(address: &str) -> Outcome {
    let listener = listen(address)?;
    stream::serve(&listener, timeout()?, |served| {
        let operation =
            served.session.map_or(String::new(), |session| format!("{:?}", session.operation).to_lowercase());
        let bytes = served.session.map_or(0, |session| session.bytes);
        let error = served.result.err().map_or("null".to_string(), |error| quote(&error.to_string()));
        let peer = served.peer;
        println!("{{\"peer\":\"{peer}\",\"operation\":\"{operation}\",\"bytes\":{bytes},\"error\":{error}}}");
    })
    .map_err(|error| error.to_string())?;
    Ok(true)
}

fn application(address: &str) -> Outcome {
    let listener = listen(address)?;
    vonic_peer::application::serve(&listener).map_err(|error| error.to_string())?;
    Ok(true)
}

fn transfer(operation: &str, address: &str, bytes: &str, seed: &str, streams: &str) -> Outcome {
    let operation = match operation {
        "send" => Operation::Sink,
        "recv" => Operation::Source,
        "both" => Operation::Both,
        _ => return Err(USAGE.to_string()),
    };
    let pause = std::env::var("VONIC_PEER_PAUSE").map_or(Ok(0), |text| parse("VONIC_PEER_PAUSE", &text))?;
    let session = Session { operation, bytes: parse("BYTES", bytes)?, seed: parse("SEED", seed)?, pause };
    let summary = stream::parallel(parse("ADDRESS:PORT", address)?, &session, parse("STREAMS", streams)?, timeout()?);
    Ok(report(&summary))
}

fn connections(address: &str, count: &str, operation: Operation) -> Outcome {
    let (address, count) = (parse("ADDRESS:PORT", address)?, parse("COUNT", count)?);
    Ok(report(&stream::in_sequence(address, operation, count, timeout()?)))
}

fn churn(address: &str, threads: &str, seed: &str, file: &str) -> Outcome {
    let (address, many) = (parse("ADDRESS:PORT", address)?, (parse("THREADS", threads)?, parse("SEED", seed)?));
    Ok(report(&vonic_peer::churn::churn(address, many, timeout()?, || std::path::Path::new(file).exists())))
}

fn listen(address: &str) -> Result<TcpListener, String> {
    let address: SocketAddr = parse("ADDRESS:PORT", address)?;
    let listener = TcpListener::bind(address).map_err(|error| format!("{address}: {error}"))?;
    vonic_peer::listen_to_all(&listener).map_err(|error| format!("{address}: {error}"))?;
    let local = listener.local_addr().map_err(|error| error.to_string())?;
    println!("{{\"listening\":{}}}", quote(&local.to_string()));
    Ok(listener)
}

fn echo(address: &str) -> Outcome {
    many::echo(&listen(address)?).map_err(|error| error.to_string())?;
    Ok(true)
}

/// A line for each stage, with the time that it took.
fn hold((address, count): (&str, &str), file: &str, meanwhile: fn(&mut many::Held) -> std::io::Result<()>) -> Outcome {
    let (address, count) = (parse("ADDRESS:PORT", address)?, parse("COUNT", count)?);
    let stage = |name: &str, began: Instant| {
        println!("{{\"stage\":\"{name}\",\"connections\":{count},\"seconds\":{:.6}}}", began.elapsed().as_secs_f64());
    };
    let run = || {
        let mut began = Instant::now();
        let mut held = many::Held::open(address, count, timeout().map_err(std::io::Error::other)?)?;
        stage("open", began);
        while !std::path::Path::new(file).exists() {
            meanwhile(&mut held)?;
        }
        began = Instant::now();
        held.exchange()?;
        stage("again", began);
        began = Instant::now();
        held.close()?;
        stage("closed", began);
        Ok(())
    };
    run().map(|()| true).map_err(|error: std::io::Error| error.to_string())
}

fn reflect(address: &str) -> Outcome {
    let address: SocketAddr = parse("ADDRESS:PORT", address)?;
    let socket = UdpSocket::bind(address).map_err(|error| format!("{address}: {error}"))?;
    println!("{{\"listening\":{}}}", quote(&socket.local_addr().map_err(|error| error.to_string())?.to_string()));
    datagrams::reflect(&socket).map_err(|error| error.to_string())?;
    Ok(true)
}

fn exchange(address: &str, largest: &str, rounds: &str, twice: bool) -> Outcome {
    let (to, largest) = (parse("ADDRESS:PORT", address)?, parse("LARGEST", largest)?);
    let started = Instant::now();
    let done = datagrams::exchange(to, largest, parse("ROUNDS", rounds)?, timeout()?, twice);
    let done = done.map_err(|error| format!("{address}: {error}"))?;
    let datagrams::Exchanged { datagrams, bytes, again, doubled } = done;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{{\"datagrams\":{datagrams},\"bytes\":{bytes},\"again\":{again},\"doubled\":{doubled},\"seconds\":{seconds:.6}}}"
    );
    Ok(true)
}

fn report(summary: &Summary) -> bool {
    let failures: Vec<String> = summary.failures.iter().map(|error| quote(&error.to_string())).collect();
    println!(
        "{{\"bytes\":{},\"connections\":{},\"seconds\":{:.6},\"failures\":[{}]}}",
        summary.bytes,
        summary.connections,
        summary.elapsed.as_secs_f64(),
        failures.join(",")
    );
    failures.is_empty()
}

fn open(interface: &str) -> Result<Wire, String> {
    Wire::open(interface).map_err(|error| format!("{interface}: {error}"))
}

fn frame(hex: &str) -> Result<Vec<u8>, String> {
    packet::parse_hex(hex).ok_or_else(|| format!("HEX cannot be {hex:?}"))
}

fn inject(interface: &str, hex: &str, count: &str) -> Outcome {
    let (wire, count) = (open(interface)?, parse::<u64>("COUNT", count)?);
    let frames = hex.split(',').map(frame).collect::<Result<Vec<_>, _>>()?;
    for frame in frames.iter().cycle().take(frames.len() * count as usize) {
        wire.send(frame).map_err(|error| error.to_string())?;
    }
    println!("{{\"sent\":{count}}}");
    Ok(true)
}

fn flood(interface: &str, hex: &str, seconds: &str) -> Outcome {
    let time = Duration::from_secs(parse("SECONDS", seconds)?);
    let sent = open(interface)?.flood(&frame(hex)?, time).map_err(|error| error.to_string())?;
    println!("{{\"sent\":{sent}}}");
    Ok(true)
}

fn record(interface: &str, file: &str) -> Outcome {
    let wire = open(interface)?;
    println!("{{\"listening\":{}}}", quote(interface));
    while !std::path::Path::new(file).exists() {
        if let Some(frame) = wire.receive(Duration::from_millis(100)).map_err(|error| error.to_string())? {
            // The full stop tells a whole line from one that is being written.
            println!("{}.", packet::format_hex(&frame));
        }
    }
    Ok(true)
}

fn sniff(interface: &str, file: &str) -> Outcome {
    let wire = open(interface)?;
    println!("{{\"listening\":{}}}", quote(interface));
    let heard = wire.listen(|| std::path::Path::new(file).exists()).map_err(|error| error.to_string())?;
    let list = |counts: &BTreeMap<String, u64>| {
        counts.iter().map(|(key, count)| format!("\"{key}\":{count}")).collect::<Vec<_>>().join(",")
    };
    let (groups, others) = (list(&heard.groups), list(&heard.others));
    let (mine, group) = (heard.mine, heard.group);
    println!("{{\"mine\":{mine},\"group\":{group},\"groups\":{{{groups}}},\"others\":{{{others}}}}}");
    Ok(heard.others.is_empty())
}
