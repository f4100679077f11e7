//! One end of the switch, a real guest or a mock, that sends any frame and keeps all that it gets.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bed::Bed;
use crate::frames::hex;
use crate::guest::{Guest, GuestConfig, Ip4, Vmm};
use crate::mock::{MockConfig, MockFrontend, VnetHeader};
use crate::wait::wait_for;

/// How long a frame may take from one member to another.
const LIMIT: Duration = Duration::from_secs(10);
/// Digits of one command on a guest's console, which takes 3000 bytes a line.
const DIGITS: usize = 1100;

/// One end.
pub struct Member {
    /// What its addresses are made of.
    pub number: u8,
    end: End,
}

enum End {
    Real { guest: Box<Guest>, seen: usize },
    Mock(Box<MockFrontend>),
}

impl Member {
    /// A mock on VM `name`, with as many buffers posted as its ring has.
    ///
    /// # Errors
    /// If the service refuses it.
    pub fn mock(bed: &Bed, name: &str, number: u8) -> Result<Member> {
        let mock = bed.mock(name, MockConfig { posted: 256, ..MockConfig::default() })?;
        Ok(Member { number, end: End::Mock(Box::new(mock)) })
    }

    /// A real guest on VM `name`; [`Member::wait_ready`] before anything else.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn real(bed: &Bed, name: &str, number: u8, vmm: Vmm) -> Result<Member> {
        let config = GuestConfig { ip4: Ip4::None, ..GuestConfig::new(name, number, &bed.socket(name)) };
        let guest = Box::new(bed.start_configured(&config.on(vmm))?);
        Ok(Member { number, end: End::Real { guest, seen: 0 } })
    }

    /// Waits for a real guest's shell and starts its recorder. Its kernel has no address yet and says nothing by itself.
    ///
    /// # Errors
    /// If it does not boot.
    pub fn wait_ready(&mut self) -> Result<()> {
        let End::Real { guest, .. } = &mut self.end else { return Ok(()) };
        guest.wait_ready()?;
        guest.must("ip link set eth0 up", LIMIT)?;
        guest.spawn("vonic-peer record eth0 /run/stop >/run/record")?;
        wait_for("the recorder", LIMIT, || {
            Ok(guest.must("touch /run/record; cat /run/record", LIMIT)?.contains("listening").then_some(()))
        })
    }

    /// The real guest.
    pub fn guest(&mut self) -> Option<&mut Guest> {
        match &mut self.end {
            End::Real { guest, .. } => Some(guest),
            End::Mock(_) => None,
        }
    }

    /// Sends frames in this order.
    ///
    /// # Errors
    /// If the device does not take one.
    pub fn send(&mut self, frames: &[Vec<u8>]) -> Result<()> {
        match &mut self.end {
            End::Mock(mock) => frames.iter().try_for_each(|frame| {
                let length = mock.send_frame(&VnetHeader::default(), frame)?;
                ensure!(length == 0, "the device wrote {length} bytes into what it was to read");
                Ok(())
            }),
            End::Real { guest, .. } => {
                let mut digits = String::new();
                for frame in frames {
                    if digits.len() + 2 * frame.len() > DIGITS {
                        inject(guest, &std::mem::take(&mut digits))?;
                    }
                    let comma = if digits.is_empty() { "" } else { "," };
                    digits.push_str(&format!("{comma}{}", hex(frame)));
                }
                if digits.is_empty() { Ok(()) } else { inject(guest, &digits) }
            }
        }
    }

    /// Everything that came since the last call, in order; waits until that is at least `count` frames.
    ///
    /// # Errors
    /// If so many do not come within ten seconds.
    pub fn heard(&mut self, count: usize) -> Result<Vec<Vec<u8>>> {
        let number = self.number;
        match &mut self.end {
            End::Mock(mock) => {
                let (mut heard, end) = (Vec::new(), Instant::now() + LIMIT);
                loop {
                    let left = if heard.len() < count {
                        end.saturating_duration_since(Instant::now())
                    } else {
                        Duration::ZERO
                    };
                    match mock.receive_frame(left)? {
                        Some((_, frame)) => heard.push(frame),
                        None => break,
                    }
                }
                ensure!(heard.len() >= count, "{} of {count} frames came to {number}", heard.len());
                Ok(heard)
            }
            End::Real { guest, seen } => {
                // The first line says that the recorder listens; one without its full stop is being written.
                let command = format!("tail -n +{} /run/record", *seen + 2);
                let what = format!("{count} frames to {number}");
                let heard = wait_for(&what, LIMIT, || {
                    let text = guest.must(&command, LIMIT)?;
                    let whole = text.lines().map_while(|line| line.strip_suffix('.'));
                    let frames = whole.map(|line| vonic_peer::packet::parse_hex(line).context("a recorded frame"));
                    let frames = frames.collect::<Result<Vec<_>>>()?;
                    Ok((frames.len() >= count).then_some(frames))
                })?;
                *seen += heard.len();
                Ok(heard)
            }
        }
    }
}

fn inject(guest: &mut Guest, digits: &str) -> Result<()> {
    guest.must(&format!("vonic-peer inject eth0 {digits}"), LIMIT).map(drop)
}
