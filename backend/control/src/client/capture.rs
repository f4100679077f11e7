//! `vonic capture`: what the API says of a VM's frames becomes a file. Whatever happens, the file consists of whole blocks.
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use hyper::Method;
use serde_json::json;

use super::command::{Failure, checked};
use super::connection::{self, Ended};
use crate::api::ApiError;
use crate::api::types::CaptureTerms;
use crate::capture::pcapng::{self, Block};
use crate::capture::stream::GONE;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The VM's name
    vm: String,
    /// Where to write the file; - is standard output, as for: vonic capture VM -w - | tshark -r -
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    file: PathBuf,
    /// Only frames for which this holds, as 'tcp port 80 and host 192.0.2.2': host, net, port, portrange, src, dst, ether, ip, ip6,
    /// arp, tcp, udp, icmp, icmp6, proto, broadcast, multicast, and, or, not
    #[arg(short, long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Only frames that go this way; out and in are the same, as the guest sees it
    #[arg(long, value_enum)]
    direction: Option<Direction>,
    /// The most bytes of each frame
    #[arg(long, value_name = "BYTES", default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(14..))]
    snaplen: u32,
    /// End after so many frames
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    frames: Option<u64>,
    /// End before the file has more bytes than this
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    bytes: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Direction {
    #[value(alias = "out", alias = "guest_to_host")]
    GuestToHost,
    #[value(alias = "in", alias = "host_to_guest")]
    HostToGuest,
}

/// Captures until the end, and says what there is.
pub(super) fn execute(arguments: &super::Arguments, wanted: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let standard = wanted.file.as_os_str() == "-";
    if standard && io::stdout().is_terminal() {
        let error = ApiError::bad_request("standard output is a terminal").field("file");
        return Err(Failure::Api(error.mend("give -w FILE, or pipe it: vonic capture VM -w - | tshark -r -")));
    }
    let target = format!("/v1/capture/{}", checked(&wanted.vm)?);
    let terms = serde_json::to_vec(&wanted.terms()).map_err(io::Error::from)?;
    let mut saved = Saved::default();
    let ended = {
        let mut sink = if standard { Some(Sink::Standard(&mut *out)) } else { None };
        connection::follow(&arguments.socket, (Method::POST, &target), terms, &mut |part| {
            // Not before the service has said that there is such a VM: what the file holds is not overwritten for nothing.
            let sink = match &mut sink {
                Some(sink) => sink,
                none => none.insert(Sink::create(&wanted.file)?),
            };
            saved.take(part, sink)
        })?
    };
    let place = if standard { "standard output".to_string() } else { wanted.file.display().to_string() };
    let broken = match (&ended, saved.why.as_deref()) {
        (Ended::Broken, _) => Some("vonicd's engine has ended"),
        (Ended::Whole, Some(GONE)) => Some(GONE),
        _ => None,
    };
    if let Some(why) = broken {
        let error = ApiError::unavailable(format!("the capture has ended: {why}; {} in {place}", saved.text()));
        return Err(Failure::Api(error.mend("start it again")));
    }
    match (arguments.json, standard) {
        (true, false) => Ok(writeln!(out, "{}", saved.json(&place))?),
        // Standard output is the file's.
        (_, true) => Ok(writeln!(io::stderr(), "vonic: {}", saved.text())?),
        (false, false) => Ok(writeln!(out, "{} in {place}", saved.text())?),
    }
}

impl Arguments {
    fn terms(&self) -> CaptureTerms {
        CaptureTerms {
            direction: self.direction.map(|direction| {
                match direction {
                    Direction::GuestToHost => "guest_to_host",
                    Direction::HostToGuest => "host_to_guest",
                }
                .into()
            }),
            filter: self.filter.clone(),
            snaplen: Some(self.snaplen),
            frames: self.frames,
            bytes: self.bytes,
            seconds: self.seconds,
        }
    }
}

/// Where the file goes.
enum Sink<'a> {
    Standard(&'a mut dyn Write),
    /// With its length, in whole blocks.
    File(File, u64),
}

impl Sink<'_> {
    /// A new file, or an old one's place, for the owner alone: it holds what the guest says and hears.
    fn create(path: &Path) -> Result<Self, Failure> {
        let created = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
        let failed = |e| ApiError::bad_request(format!("{} cannot be written: {e}", path.display())).field("file");
        created.map(|file| Sink::File(file, 0)).map_err(|e| Failure::Api(failed(e)))
    }

    fn write(&mut self, blocks: &[u8]) -> io::Result<()> {
        match self {
            Sink::Standard(out) => out.write_all(blocks).and_then(|()| out.flush()),
            Sink::File(file, length) => {
                // On a full disk: no half blocks.
                file.write_all(blocks).inspect_err(|_| drop(file.set_len(*length)))?;
                *length += blocks.len() as u64;
                Ok(())
            }
        }
    }
}

/// What has come of the file.
#[derive(Default)]
struct Saved {
    /// The beginning of a block.
    rest: Vec<u8>,
    frames: u64,
    bytes: u64,
    lost: u64,
    why: Option<String>,
}

impl Saved {
    /// Writes as many whole blocks as there are.
    fn take(&mut self, part: &[u8], sink: &mut Sink<'_>) -> Result<(), Failure> {
        self.rest.extend_from_slice(part);
        let mut whole = 0;
        while let Some((block, length)) = pcapng::next(&self.rest[whole..]).map_err(|error| {
            let error = ApiError::internal(format!("what came is no capture: {error}"));
            Failure::Api(error.mend("use the vonic of the same version as vonicd"))
        })? {
            whole += length;
            match block {
                Block::Frame => self.frames += 1,
                Block::Statistics { lost, why } => (self.lost, self.why) = (lost, why),
                Block::Other => {}
            }
        }
        sink.write(&self.rest[..whole])?;
        self.bytes += whole as u64;
        self.rest.drain(..whole);
        Ok(())
    }

    fn text(&self) -> String {
        let lost = match self.lost {
            0 => String::new(),
            lost => format!(", {lost} lost: they came faster than they were written"),
        };
        format!("{} frames{lost}", self.frames)
    }

    fn json(&self, place: &str) -> serde_json::Value {
        let Saved { rest: _, frames, bytes, lost, why } = self;
        json!({ "file": place, "frames": frames, "bytes": bytes, "lost": lost, "ended": why })
    }
}
