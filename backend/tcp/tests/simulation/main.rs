//! A leg against a model of a guest's TCP over a bad link, with a model of a kernel socket as its far end; everything
//! follows from a seed. The oracle: both streams arrive byte for byte, both end with their FINs, in bounded time.
//!
//! `VONIC_SIMULATION_SEEDS=N` runs N seeds instead of [`SEEDS`]; `VONIC_SIMULATION_SEED=S` runs one.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

mod death;
mod extras;
mod guest;
mod host;
mod random;
mod tally;
mod wire;
mod world;

use random::Random;
use world::World;

const SEEDS: u64 = 400;

/// The byte at a place of a stream: a ramp of prime length, so that a lost or repeated block shows.
fn stream_byte(salt: u64, at: u64) -> u8 {
    ((at + salt) % 251) as u8
}

/// What one seed decides about the two ends.
#[derive(Clone, Debug)]
struct Plan {
    guest_opens: bool,
    guest_bytes: u64,
    host_bytes: u64,
    /// Who closes only after the other: not both.
    guest_waits: bool,
    host_waits: bool,
    /// Both close no sooner than this, in microseconds: often at once.
    close_at: u64,
    guest_mss: u16,
    guest_scale: Option<u8>,
    /// The guest's receive buffer, down to a single byte.
    guest_buffer: u64,
    /// The largest payload of a frame from the guest.
    guest_frame: u64,
    /// The guest keeps what is out of order.
    guest_keeps: bool,
    /// The guest has fast retransmit.
    guest_fast: bool,
    /// The guest's right edge follows its free room, to the left too.
    guest_shrinks: bool,
    /// The largest payload of a frame to the guest; 0: one MSS.
    host_frame: u32,
    /// The host socket's send buffer.
    host_buffer: u64,
    /// Our window scale.
    scale: u8,
    /// Which options the two ends want.
    guest_timestamps: bool,
    guest_sack: bool,
    leg_timestamps: bool,
    leg_sack: bool,
    /// The guest throws away now and then what it has selectively acknowledged.
    guest_reneges: bool,
    /// The guest's bytes are acknowledged only when they have left the host's buffer.
    by_peer: bool,
}

impl Plan {
    fn random(random: &mut Random) -> Plan {
        let guest_buffer = random.scaled(1, 1 << 18);
        let host_buffer = random.scaled(1, 1 << 18);
        let guest_scale = random.pick(&[None, Some(0), Some(2), Some(7)]);
        // A scaled window of nothing but a remainder would never open.
        let guest_buffer = guest_buffer.max(1 << guest_scale.unwrap_or(0));
        let scale = random.pick(&[0, 1, 7]);
        let host_buffer = host_buffer.max(2 << scale);
        let close = random.between(0, 3);
        Plan {
            guest_opens: random.chance(500),
            // Tiny windows take a round trip for each byte.
            guest_bytes: random.scaled(1, (host_buffer * 300).min(300_000)) - 1,
            host_bytes: random.scaled(1, (guest_buffer * 300).min(300_000)) - 1,
            guest_waits: close == 1,
            host_waits: close == 2,
            close_at: if close == 3 { random.between(0, 2_000_000) } else { 0 },
            guest_mss: random.pick(&[1, 100, 536, 1460, 65495]),
            guest_scale,
            guest_buffer,
            guest_frame: random.pick(&[1460, 65_000]),
            guest_keeps: random.chance(500),
            guest_fast: random.chance(500),
            guest_shrinks: random.chance(200),
            host_frame: random.pick(&[0, 1460, 65_000]),
            host_buffer,
            scale,
            guest_timestamps: random.chance(600),
            guest_sack: random.chance(600),
            leg_timestamps: random.chance(600),
            leg_sack: random.chance(600),
            guest_reneges: random.chance(100),
            by_peer: random.chance(300),
        }
    }
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    match number("VONIC_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("VONIC_SIMULATION_SEEDS").unwrap_or(SEEDS),
    }
}

#[test]
fn both_streams_arrive_and_end() {
    let mut total = tally::Tally::default();
    for seed in seeds() {
        let seen = World::new(seed).run();
        total.add(&seen);
    }
    // The bad link, the stalls and the small windows must really have happened for the result to mean anything.
    if seeds().count() as u64 >= SEEDS {
        total.assert_covered();
    }
}
