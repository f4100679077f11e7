//! A guest whose every port is open and echoes: as much of TCP as whoever connects needs, and a count of all that comes.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use vonic_tests::frames::{Mac, Tcp, ip4, mac};
use vonic_tests::mock::{GUEST_TO_HOST, HOST_TO_GUEST, MockConfig, MockFrontend, VnetHeader};
use vonic_tests::*;

/// What came to it.
#[derive(Debug, Default)]
pub struct Seen {
    /// Connections that were opened towards it.
    pub opened: AtomicU64,
    /// Segments that belong to none.
    pub strays: AtomicU64,
}

/// One end: what comes next, and what it sends next.
struct End {
    rcv_nxt: u32,
    snd_nxt: u32,
}

pub struct Server {
    mock: MockFrontend,
    gateway: Mac,
    number: u8,
    ends: HashMap<([u8; 4], u16), End>,
}

impl Server {
    pub fn start(bed: &Bed, name: &str, number: u8) -> Result<Server> {
        let mut mock = bed.mock(name, MockConfig { posted: 256, ..MockConfig::default() })?;
        let gateway = mock.gateway_answers(number)?;
        Ok(Server { mock, gateway, number, ends: HashMap::new() })
    }

    /// Serves until it is told to stop.
    pub fn serve(&mut self, seen: &Seen, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            while self.mock.take_used(GUEST_TO_HOST)?.is_some() {}
            let mut moved = false;
            while let Some((_, content)) = self.mock.take_used(HOST_TO_GUEST)? {
                moved = true;
                let frame = content.get(VnetHeader::LENGTH..).unwrap_or_default();
                if let Some(segment) = Tcp::parse(frame) {
                    let from = [frame[26], frame[27], frame[28], frame[29]];
                    self.answer(from, &segment, seen)?;
                }
            }
            self.mock.post_buffers()?;
            self.mock.notify_on(0)?;
            if !moved {
                let call = self.mock.ring(HOST_TO_GUEST).call.as_raw_fd();
                sys_wait(call)?;
                drop(self.mock.ring(HOST_TO_GUEST).call.read());
            }
        }
        Ok(())
    }

    fn answer(&mut self, from: [u8; 4], segment: &Tcp, seen: &Seen) -> Result<()> {
        let key = (from, segment.ports.0);
        if segment.flags == Tcp::SYN {
            seen.opened.fetch_add(1, Ordering::Relaxed);
            let end = End { rcv_nxt: segment.sequence.wrapping_add(1), snd_nxt: 1001 };
            let answer =
                Tcp { flags: Tcp::SYN | Tcp::ACK, sequence: 1000, options: vec![2, 4, 5, 180], ..Tcp::default() };
            self.send(key, segment.ports.1, &Tcp { acknowledgment: end.rcv_nxt, ..answer })?;
            self.ends.insert(key, end);
            return Ok(());
        }
        let Some(end) = self.ends.get_mut(&key) else {
            seen.strays.fetch_add(u64::from(segment.flags & Tcp::RST == 0), Ordering::Relaxed);
            return Ok(());
        };
        if segment.flags & Tcp::RST != 0 {
            self.ends.remove(&key);
            return Ok(());
        }
        let fin = segment.flags & Tcp::FIN != 0;
        if segment.sequence != end.rcv_nxt || (segment.text.is_empty() && !fin) {
            return Ok(());
        }
        end.rcv_nxt = end.rcv_nxt.wrapping_add(segment.text.len() as u32 + u32::from(fin));
        let answer = Tcp {
            flags: Tcp::ACK | if fin { Tcp::FIN } else { Tcp::PSH },
            sequence: end.snd_nxt,
            acknowledgment: end.rcv_nxt,
            text: segment.text.clone(),
            ..Tcp::default()
        };
        end.snd_nxt = end.snd_nxt.wrapping_add(answer.text.len() as u32 + u32::from(fin));
        self.send(key, segment.ports.1, &answer)
    }

    fn send(&mut self, (to, port): ([u8; 4], u16), own: u16, segment: &Tcp) -> Result<()> {
        let segment = Tcp { ports: (own, port), window: 0xffff, ..segment.clone() };
        let frame = segment.frame((mac(self.number), self.gateway), ip4(self.number), to.into());
        if self.mock.ring(GUEST_TO_HOST).outstanding() >= 250 {
            self.mock.notify_on(0)?;
            while self.mock.ring(GUEST_TO_HOST).outstanding() >= 250 {
                ensure!(self.mock.wait_used(GUEST_TO_HOST, seconds(5))?.is_some(), "the device takes nothing");
            }
        }
        self.mock.queue_frame_on(0, &VnetHeader::default(), &frame).map(drop)
    }
}

fn sys_wait(fd: i32) -> Result<()> {
    wait_readable(fd, Duration::from_millis(10))?;
    Ok(())
}
