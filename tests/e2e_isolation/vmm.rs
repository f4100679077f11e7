//! What a VMM can do.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vonic_tests::crash::Random;
use vonic_tests::frames::{self, ip4, mac};
use vonic_tests::mock::{
    BUFFERS, Descriptor, GUEST_TO_HOST, HOST_TO_GUEST, MockConfig, MockFrontend, RawConnection, VnetHeader, code,
    handshake,
};
use vonic_tests::{Result, make_blocking, seconds};

use super::guest::greet;
use super::stage::{Attack, Field, MALLORY, NUMBER};

const fn attack(name: &'static str, act: fn(&Field<'_>) -> Result<()>) -> Attack {
    Attack { name, act, drops: "" }
}

pub const ATTACKS: &[Attack] = &[
    attack("buffers are truncated", |field| {
        while field.goes_on() {
            let mut mock = field.session(&MockConfig::default())?;
            let rings = mock.regions()[0].size;
            shared(&mock)?.set_len(rings)?;
            // It is told to read a frame that is no longer there; the test itself must not touch it.
            let memory = mock.memory().clone();
            let ring = mock.ring(GUEST_TO_HOST);
            let head = ring.reserve(1)?[0];
            ring.write_descriptor(&memory, head, Descriptor { address: BUFFERS, length: 72, flags: 0, next: 0 })?;
            ring.make_available(&memory, head)?;
            ring.kick.write(1)?;
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }),
    attack("all memory is truncated", |field| {
        while field.goes_on() {
            let mut mock = field.session(&MockConfig::default())?;
            shared(&mock)?.set_len(0)?;
            mock.ring(GUEST_TO_HOST).kick.write(1)?;
            mock.ring(HOST_TO_GUEST).kick.write(1)?;
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }),
    attack("the dirty log is truncated", |field| {
        while field.goes_on() {
            let mut mock = field.session(&MockConfig::default())?;
            let log = mock.new_log()?;
            mock.set_log(&log)?;
            mock.log_all(true)?;
            log.file.set_len(0)?;
            mock.queue_frame_on(0, &VnetHeader::default(), &frames::arp_request(NUMBER, ip4(1)))?;
            mock.notify_on(0)?;
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }),
    attack("memory is mapped anew all the time", |field| {
        let (mut mock, gateway) = greet(field)?;
        let question = frames::ping((mac(NUMBER), gateway), ip4(NUMBER), ip4(1), 1, &[0; 22]);
        while field.goes_on() {
            while mock.take_used(GUEST_TO_HOST)?.is_some() {}
            while mock.take_used(HOST_TO_GUEST)?.is_some() {}
            mock.post_buffers()?;
            let ring = mock.ring(GUEST_TO_HOST);
            for _ in ring.outstanding()..ring.size.min(64) {
                mock.queue_frame_on(0, &VnetHeader::default(), &question)?;
            }
            mock.notify_on(0)?;
            mock.share_memory()?;
        }
        Ok(())
    }),
    attack("call descriptors are full, and made to block", |field| {
        while field.goes_on() {
            let mut mock = field.session(&MockConfig::default())?;
            for ring in [HOST_TO_GUEST, GUEST_TO_HOST] {
                // It is the same open file that vonic has: its flag is everybody's. Nobody reads it any more.
                let call = &mock.ring(ring).call;
                drop(call.read());
                while call.write(u64::MAX - 1).is_err() {
                    // vonic was faster.
                    drop(call.read());
                }
                make_blocking(call.as_raw_fd())?;
            }
            for _ in 0..20 {
                mock.queue_frame_on(0, &VnetHeader::default(), &frames::arp_request(NUMBER, ip4(1)))?;
            }
            mock.notify_on(0)?;
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }),
    attack("messages that are refused", |field| {
        let mut mock = field.session(&MockConfig::default())?;
        let null = File::open("/dev/null")?;
        while field.goes_on() {
            for (request, body, files) in [
                (77, &[0; 16][..], &[][..]),
                (code::SET_VRING_NUM, &[0; 8], &[]),
                (code::SET_VRING_CALL, &[0; 8], &[null.as_raw_fd()]),
                // SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE, while the rings run.
                (42, &[0; 8], &[null.as_raw_fd()]),
                (43, &[], &[]),
            ] {
                if mock.raw().ask(request, body, files).is_err() {
                    mock = field.session(&MockConfig::default())?;
                }
            }
        }
        Ok(())
    }),
    attack("garbage instead of messages", |field| {
        let mut random = Random(11);
        while field.goes_on() {
            let mut raw = connect(field)?;
            let bytes: Vec<u8> = (0..1 + random.below(4096)).map(|_| random.below(256) as u8).collect();
            drop(raw.send_bytes(&bytes));
        }
        Ok(())
    }),
    attack("half messages", |field| {
        let whole: Vec<u8> = [code::GET_FEATURES, 1, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut held = std::collections::VecDeque::new();
        let mut random = Random(12);
        while field.goes_on() {
            let mut raw = connect(field)?;
            drop(raw.send_bytes(&whole[..1 + random.below(11) as usize]));
            held.push_back(raw);
            if held.len() > 20 {
                held.pop_front();
            }
        }
        Ok(())
    }),
    attack("more descriptors than a message has", |field| {
        let file = File::open("/dev/null")?;
        while field.goes_on() {
            let mut raw = connect(field)?;
            drop(raw.tell(code::SET_VRING_CALL, 8, &[0; 8], &[file.as_raw_fd(); 100]));
            drop(raw.tell(code::GET_FEATURES, 0, &[], &[file.as_raw_fd(); 30]));
        }
        Ok(())
    }),
    attack("it disconnects at each message of its handshake", |field| {
        let mut last = 0;
        while field.goes_on() {
            let mut mock = MockFrontend::connect(&field.bed.socket(MALLORY), MockConfig::default())?;
            let messages = handshake(&mut mock);
            last = (last + 1) % messages.len();
            for (request, body, files) in &messages[..last] {
                if mock.raw().ask(*request, body, files).is_err() {
                    break;
                }
            }
        }
        Ok(())
    }),
    attack("rings are stopped and started all the time", |field| {
        let mut mock = field.session(&MockConfig::default())?;
        while field.goes_on() {
            for index in [GUEST_TO_HOST, HOST_TO_GUEST] {
                mock.stop_ring(index)?;
                mock.start_ring(index)?;
            }
        }
        Ok(())
    }),
    attack("the device is reset in a loop", |field| {
        while field.goes_on() {
            let mut mock = field.session(&MockConfig::default())?;
            for _ in 0..10 {
                if !matches!(mock.raw().ask(code::RESET_DEVICE, &[], &[]), Ok(reply) if reply.acknowledged() == Some(true))
                {
                    break;
                }
            }
        }
        Ok(())
    }),
    attack("it connects and goes as fast as it can", |field| {
        while field.goes_on() {
            drop(connect(field)?);
        }
        Ok(())
    }),
];

/// Guest memory's file.
fn shared(mock: &MockFrontend) -> Result<File> {
    Ok(File::options().write(true).open(format!("/proc/self/fd/{}", mock.regions()[0].file))?)
}

/// A connection on which nothing has been said.
fn connect(field: &Field<'_>) -> Result<RawConnection> {
    let stream = UnixStream::connect(field.bed.socket(MALLORY))?;
    stream.set_read_timeout(Some(seconds(10)))?;
    stream.set_write_timeout(Some(seconds(10)))?;
    Ok(RawConnection::new(stream))
}
