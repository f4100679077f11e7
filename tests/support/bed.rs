//! What every end-to-end test starts with: a network of its own, a directory, the service.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::directory::TempDir;
use crate::frames::{self, ip4, mac};
use crate::guest::{Guest, GuestConfig, Vmm};
use crate::lab::Lab;
use crate::mock::{MockConfig, MockFrontend, VnetHeader};
use crate::netns::isolate;
use crate::server::PeerServer;
use crate::vonicd::{TestConfig, Vonicd};

/// The service, and what is needed to start guests on it.
#[derive(Debug)]
pub struct Bed {
    /// The service.
    pub vonicd: Vonicd,
    /// Where guests run.
    pub lab: Lab,
    /// Sockets, logs, configuration.
    pub directory: TempDir,
}

impl Bed {
    /// Moves the test's thread into a network of its own and starts the service there.
    ///
    /// # Errors
    /// If a part is missing or does not start.
    pub fn start(config: &TestConfig) -> Result<Bed> {
        isolate()?;
        Bed::start_here(config)
    }

    /// As [`Bed::start`], in the network that the test's thread is in already, by [`isolate`].
    ///
    /// # Errors
    /// If a part is missing or does not start.
    pub fn start_here(config: &TestConfig) -> Result<Bed> {
        let lab = Lab::open()?;
        let directory = TempDir::new()?;
        let vonicd = Vonicd::start(&directory, config)?;
        Ok(Bed { vonicd, lab, directory })
    }

    /// A guest on VM `name`, which [`TestConfig::vm`] gave `number`, with a static address; started, not waited for.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_guest(&self, name: &str, number: u8, vmm: Vmm) -> Result<Guest> {
        self.start_configured(&GuestConfig::new(name, number, &self.vonicd.socket(name)).on(vmm))
    }

    /// As [`Bed::start_guest`], with any configuration.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_configured(&self, config: &GuestConfig) -> Result<Guest> {
        Guest::start(&self.lab, &self.directory, config)
    }

    /// As [`Bed::start_guest`], and waits for its shell.
    ///
    /// # Errors
    /// If it does not boot.
    pub fn guest(&self, name: &str, number: u8, vmm: Vmm) -> Result<Guest> {
        let guest = self.start_guest(name, number, vmm)?;
        guest.wait_ready()?;
        Ok(guest)
    }

    /// A mock frontend on VM `name`, whose rings the worker has taken up: enabling one is answered before that, and a question
    /// that the worker answers itself comes behind it.
    ///
    /// # Errors
    /// If the service refuses it.
    pub fn mock(&self, name: &str, config: MockConfig) -> Result<MockFrontend> {
        let mock = MockFrontend::start(&self.socket(name), config)?;
        self.vonicd.vonic(&["conns", "--json"])?;
        Ok(mock)
    }

    /// A server of checked streams on the host's loopback, which guests reach at 192.0.2.1.
    ///
    /// # Errors
    /// If it does not start.
    pub fn server(&self) -> Result<PeerServer> {
        PeerServer::start("server", self.directory.path(), "127.0.0.1:0", None)
    }

    /// The vhost-user socket of a VM.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.vonicd.socket(name)
    }
}

impl MockFrontend {
    /// Whether the gateway still answers VM `number` behind this frontend: its ARP request, and by that both rings, the worker, the port.
    ///
    /// # Errors
    /// If it does not answer within five seconds.
    pub fn gateway_answers(&mut self, number: u8) -> Result<frames::Mac> {
        let gateway = ip4(1);
        self.send_frame(&VnetHeader::default(), &frames::arp_request(number, gateway))?;
        let what = format!("answer to {:02x?}", mac(number));
        let is_answer = |frame: &[u8]| frames::arp_answer(frame, gateway).is_some();
        let (_, frame) = self.expect_frame(&what, Duration::from_secs(5), is_answer)?;
        frames::arp_answer(&frame, gateway).ok_or_else(|| anyhow::anyhow!("no answer"))
    }
}
