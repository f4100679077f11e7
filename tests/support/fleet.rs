//! Many ports on one service, each with a mock frontend whose rings run.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bed::Bed;
use crate::frames::{self, Mac};
use crate::mock::{BUFFERS, Descriptor, GUEST_TO_HOST, MockConfig, MockFrontend, VnetHeader, flag};
use crate::vonicd::TestConfig;
use crate::{seconds, usage};

/// Descriptors of a mock frontend in the test's process: its memory, its connection, two for each ring.
const DESCRIPTORS: u64 = 16;

/// The ports and their service.
pub struct Fleet {
    /// In the order of their places.
    pub mocks: Vec<MockFrontend>,
    /// The service.
    pub bed: Bed,
    /// Process id of the master.
    pub master: u32,
    /// Process id of the engine.
    pub engine: u32,
}

fn name(place: usize) -> String {
    format!("vm{place}")
}

fn mac(place: usize) -> Mac {
    let [.., high, low] = place.to_be_bytes();
    [0x52, 0x54, 0, 1, high, low]
}

/// In 198.18.0.0/16, of which .0.1 is the gateway.
fn address(place: usize) -> Ipv4Addr {
    let [.., high, low] = (place + 2).to_be_bytes();
    Ipv4Addr::new(198, 18, high, low)
}

fn config(ports: usize) -> TestConfig {
    let network = "subnet4 = \"198.18.0.0/16\"\ngateway4 = \"198.18.0.1\"\nuplink = \"sockets\"\n";
    let mut config = TestConfig { network: network.into(), ..TestConfig::default() };
    for place in 0..ports {
        let mac = mac(place).map(|byte| format!("{byte:02x}")).join(":");
        config.vms.insert(name(place), format!("mac = \"{mac}\"\naddress4 = \"{}\"\n", address(place)));
    }
    config
}

impl Fleet {
    /// So many; port N acknowledges `features[N % 2]`.
    ///
    /// # Errors
    /// If a part is missing or does not start.
    pub fn start(ports: usize, features: [u64; 2]) -> Result<Fleet> {
        usage::allow_descriptors(DESCRIPTORS * ports as u64 + 1000)?;
        let mut bed = Bed::start(&config(ports))?;
        let (master, engine) = (bed.vonicd.process().pid(), bed.vonicd.engine()?);
        let start = |at: usize| {
            let features = features[at % 2];
            bed.mock(&name(at), MockConfig { features, ..MockConfig::default() }).with_context(|| name(at))
        };
        let mocks = (0..ports).map(start).collect::<Result<_>>()?;
        Ok(Fleet { mocks, bed, master, engine })
    }

    /// How many.
    pub fn ports(&self) -> usize {
        self.mocks.len()
    }

    /// Processor time of both processes so far.
    ///
    /// # Errors
    /// If one is gone.
    pub fn taken(&self) -> Result<Duration> {
        Ok(usage::processor_time(self.master)? + usage::processor_time(self.engine)?)
    }

    /// Processor time that is taken in `window` while nothing happens.
    ///
    /// # Errors
    /// As [`Fleet::taken`].
    pub fn idle(&self, window: Duration) -> Result<Duration> {
        thread::sleep(Duration::from_millis(500));
        let before = self.taken()?;
        thread::sleep(window);
        Ok(self.taken()? - before)
    }

    /// Bytes of memory that are vonic's own: Private_Dirty of both processes.
    ///
    /// # Errors
    /// If one is gone.
    pub fn memory(&self) -> Result<u64> {
        Ok(usage::private_dirty(self.master)? + usage::private_dirty(self.engine)?)
    }

    /// Each port sends 32 frames to the next one.
    ///
    /// # Errors
    /// If one does not arrive.
    pub fn burst(&mut self) -> Result<()> {
        let ports = self.ports();
        for round in 0..32 {
            for from in 0..ports {
                self.send(from, (from + 1) % ports, &[round, from as u8])?;
            }
        }
        Ok(())
    }

    /// As many chains that lead back to themselves, of which nothing can come, as port `from`'s ring takes at once; how many.
    ///
    /// # Errors
    /// If the ring cannot be written.
    pub fn flood(&mut self, from: usize) -> Result<u64> {
        let mock = &mut self.mocks[from];
        let memory = mock.memory().clone();
        while mock.take_used(GUEST_TO_HOST)?.is_some() {}
        let ring = mock.ring(GUEST_TO_HOST);
        let room = ring.size - ring.outstanding();
        for _ in 0..room {
            let head = ring.reserve(1)?[0];
            let descriptor = Descriptor { address: BUFFERS, length: 12, flags: flag::NEXT, next: head };
            ring.write_descriptor(&memory, head, descriptor)?;
            ring.make_available(&memory, head)?;
        }
        mock.notify_on(0)?;
        Ok(room.into())
    }

    /// A frame from port `from` to port `to`; the time until it is there.
    ///
    /// # Errors
    /// If it is not within five seconds, or another.
    pub fn send(&mut self, from: usize, to: usize, text: &[u8]) -> Result<Duration> {
        let frame = frames::ping((mac(from), mac(to)), address(from), address(to), 1, text);
        let began = Instant::now();
        ensure!(self.mocks[from].send_frame(&VnetHeader::default(), &frame)? == 0, "something was written into it");
        let (_, got) = self.mocks[to].receive_frame(seconds(5))?.with_context(|| format!("no frame at {to}"))?;
        let took = began.elapsed();
        ensure!(got == frame, "{from} to {to}: another frame");
        Ok(took)
    }
}
