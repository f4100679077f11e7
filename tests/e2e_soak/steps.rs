//! What happens in a soak: one step after the other, at the service that the guests' connections go through.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use vonic_tests::churn::Scene;
use vonic_tests::corpus::corpus;
use vonic_tests::crash::Random;
use vonic_tests::frames::{self, ip4, mac};
use vonic_tests::mock::{
    BUFFERS, Descriptor, GUEST_TO_HOST, HOST_TO_GUEST, MockConfig, MockFrontend, VnetHeader, handshake,
};
use vonic_tests::*;

/// The VM of whoever does harm, and the one that comes and goes.
const MALLORY: (&str, u8) = ("mallory", 4);
const GUEST: (&str, u8) = ("guest", 5);

#[derive(Clone, Copy)]
pub struct Step {
    pub name: &'static str,
    pub act: fn(&mut Scene, &mut Random) -> Result<()>,
}

const fn step(name: &'static str, act: fn(&mut Scene, &mut Random) -> Result<()>) -> Step {
    Step { name, act }
}

pub const STEPS: &[Step] = &[
    step("reload", reload),
    step("kill", |scene, _| {
        settle(scene)?;
        scene.killer.kill().map(drop)
    }),
    step("session", |scene, _| session(scene).and_then(|mut mock| answered(&mut mock))),
    step("restart", |scene, _| {
        settle(scene)?;
        scene.bed.vonicd.vonic_text(&["engine", "restart"]).map(drop)
    }),
    step("crash", crash),
    step("flood", flood),
    step("upgrade", |scene, _| {
        settle(scene)?;
        let program = Vonicd::program(false)?;
        scene.bed.vonicd.upgrade(&program)
    }),
    step("truncation", truncate),
    step("corpus", malformed),
    step("guest", guest),
];

/// As released, with two VMs more.
pub fn config(config: TestConfig) -> TestConfig {
    let config = TestConfig { crash_points: false, ..config };
    config.vm(MALLORY.0, MALLORY.1, "").vm(GUEST.0, GUEST.1, "")
}

/// Engines that die in short succession wait for each other; that is another test's question.
fn settle(scene: &mut Scene) -> Result<()> {
    std::thread::sleep(Duration::from_millis(300));
    wait_for("an engine that answers", seconds(30), || Ok(scene.bed.vonicd.vonic(&["vm", "list", "--json"]).ok()))
        .map(drop)
}

/// A session of the harmful one's; the one before, or an engine, may be on its way out.
fn session(scene: &Scene) -> Result<MockFrontend> {
    let start =
        || MockFrontend::start(&scene.bed.socket(MALLORY.0), MockConfig { posted: 256, ..MockConfig::default() });
    wait_for("a session", seconds(30), || Ok(start().ok()))
}

/// What an engine had taken when it died may be lost, so it is asked again.
fn answered(mock: &mut MockFrontend) -> Result<()> {
    wait_for("the gateway", seconds(30), || Ok(mock.gateway_answers(MALLORY.1).ok())).map(drop)
}

fn reload(scene: &mut Scene, random: &mut Random) -> Result<()> {
    let (name, number) = GUEST;
    let limit = 100 + random.below(1000);
    let text = format!(
        "mac = \"52:54:00:00:00:{number:02x}\"\naddress4 = \"192.0.2.{number}\"\naddress6 = \"2001:db8::{number}\"\n\
         limits = {{ connections = {limit} }}\n"
    );
    scene.bed.directory.write(&format!("etc/vms.d/{name}.toml"), text)?;
    // An engine that takes over at this moment is asked again.
    wait_for("a reload", seconds(30), || Ok(scene.bed.vonicd.vonic(&["reload", "--json"]).ok())).map(drop)
}

/// A VMM that goes at any message of its handshake.
fn crash(scene: &mut Scene, random: &mut Random) -> Result<()> {
    for _ in 0..10 {
        let Ok(mut mock) = MockFrontend::connect(&scene.bed.socket(MALLORY.0), MockConfig::default()) else { continue };
        let messages = handshake(&mut mock);
        for (request, body, files) in &messages[..random.below(messages.len() as u64) as usize] {
            if mock.raw().ask(*request, body, files).is_err() {
                break;
            }
        }
    }
    Ok(())
}

/// Frames at line rate for a second: for nobody, or for the gateway.
fn flood(scene: &mut Scene, random: &mut Random) -> Result<()> {
    let mut mock = session(scene)?;
    let to = if random.below(2) == 0 { mac(200) } else { mock.gateway_answers(MALLORY.1).unwrap_or(mac(200)) };
    let frame = frames::ping((mac(MALLORY.1), to), ip4(MALLORY.1), ip4(1), 1, &[0; 22]);
    let end = Instant::now() + seconds(1);
    while Instant::now() < end {
        send(&mut mock, std::iter::repeat_n((VnetHeader::default(), &frame[..]), 256))?;
    }
    Ok(())
}

/// As many of them as the ring takes; what comes is thrown away.
fn send<'a>(mock: &mut MockFrontend, frames: impl Iterator<Item = (VnetHeader, &'a [u8])>) -> Result<usize> {
    while mock.take_used(GUEST_TO_HOST)?.is_some() {}
    while mock.take_used(HOST_TO_GUEST)?.is_some() {}
    mock.post_buffers()?;
    let ring = mock.ring(GUEST_TO_HOST);
    let (room, mut sent) = (usize::from(ring.size - ring.outstanding()), 0);
    for (vnet, frame) in frames.take(room) {
        mock.queue_frame_on(0, &vnet, frame)?;
        sent += 1;
    }
    mock.notify_on(0)?;
    if sent == 0 {
        wait_readable(mock.ring(GUEST_TO_HOST).call.as_raw_fd(), Duration::from_millis(5))?;
    }
    Ok(sent)
}

/// Memory goes, or the log of what is dirty.
fn truncate(scene: &mut Scene, random: &mut Random) -> Result<()> {
    let mut mock = session(scene)?;
    if random.below(2) == 0 {
        let log = mock.new_log()?;
        mock.set_log(&log)?;
        mock.log_all(true)?;
        log.file.set_len(0)?;
        mock.queue_frame_on(0, &VnetHeader::default(), &frames::arp_request(MALLORY.1, ip4(1)))?;
        mock.notify_on(0)?;
    } else {
        let file = format!("/proc/self/fd/{}", mock.regions()[0].file);
        let rings = mock.regions()[0].size;
        std::fs::File::options().write(true).open(file)?.set_len(rings)?;
        let memory = mock.memory().clone();
        let ring = mock.ring(GUEST_TO_HOST);
        let head = ring.reserve(1)?[0];
        ring.write_descriptor(&memory, head, Descriptor { address: BUFFERS, length: 72, flags: 0, next: 0 })?;
        ring.make_available(&memory, head)?;
        ring.kick.write(1)?;
    }
    std::thread::sleep(Duration::from_millis(50));
    Ok(())
}

/// Every malformed packet once.
fn malformed(scene: &mut Scene, _: &mut Random) -> Result<()> {
    let mut mock = session(scene)?;
    let gateway = wait_for("the gateway", seconds(30), || Ok(mock.gateway_answers(MALLORY.1).ok()))?;
    let corpus = corpus(MALLORY.1, gateway);
    let (mut next, end) = (0, Instant::now() + seconds(60));
    while next < corpus.len() {
        ensure!(Instant::now() < end, "{next} of {} packets were taken", corpus.len());
        next += send(&mut mock, corpus[next..].iter().map(|bad| (bad.vnet, &bad.frame[..])))?;
    }
    Ok(())
}

/// A guest boots, is answered, and is killed.
fn guest(scene: &mut Scene, _: &mut Random) -> Result<()> {
    let mut guest = scene.bed.guest(GUEST.0, GUEST.1, Vmm::Uml)?;
    guest.must("ping -c 1 -W 5 192.0.2.1 || ping -c 1 -W 5 192.0.2.1", seconds(20)).map(drop)
}
