//! VMMs that are broken or mean: their connection may end, no other, and the backend never ends a session that the front
//! could have kept.
use crate::support::{
    Bench, FEATURES, Manner, Seen, Vmm, event, memory_file, number, request, ring, table, with_master,
};
use std::os::fd::OwnedFd;
use vonic_front::Request::*;
use vonic_front::{Message, Request};

/// A second VM that must not notice anything.
fn with_bystander(test: impl FnOnce(&Bench, &mut Vmm)) {
    with_master(Manner::Serve, |bench| {
        bench.listen("bystander");
        bench.listen("vm");
        let mut bystander = bench.connect("bystander");
        bystander.lives();
        test(bench, &mut bystander);
        bystander.lives();
        bench.connect("vm").lives();
    });
}

fn bytes(message: &Message) -> Vec<u8> {
    let mut bytes = [message.code, message.flags, message.body.len() as u32].map(u32::to_ne_bytes).concat();
    bytes.extend(&message.body);
    bytes
}

#[test]
fn an_end_at_every_byte_of_a_handshake() {
    let handshake = [
        Message::new(GetFeatures, vec![]),
        Message::new(GetProtocolFeatures, vec![]),
        number(SetProtocolFeatures, 9),
        Message::new(SetOwner, vec![]),
        ring(SetVringEnable, 0, 1),
        number(SetFeatures, FEATURES),
        ring(SetVringNum, 0, 256),
    ];
    let all: Vec<u8> = handshake.iter().flat_map(bytes).collect();
    with_bystander(|bench, bystander| {
        for length in 0..=all.len() {
            let mut vmm = bench.connect("vm");
            vmm.write(&all[..length]);
            drop(vmm);
            bystander.lives();
        }
    });
}

#[test]
fn a_handshake_byte_by_byte() {
    with_bystander(|bench, _| {
        let mut vmm = bench.connect("vm");
        for message in [number(SetProtocolFeatures, 9), number(SetFeatures, FEATURES), ring(SetVringNum, 0, 256)] {
            for byte in bytes(&message) {
                vmm.write(&[byte]);
            }
        }
        vmm.lives();
        bench.until(&Seen::Features(FEATURES));
    });
}

#[test]
fn garbage() {
    let header = |code: u32, flags: u32, size: u32| [code, flags, size].map(u32::to_ne_bytes).concat();
    let cases = [
        b"GET / HTTP/1.1\r\nHost: vonic\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![0xff; 64],
        header(1, 2, 0),
        header(1, 1, 4097),
        header(1, 1, u32::MAX),
        header(1, 5, 0),
        header(1, 0x8000_0001, 0),
    ];
    with_bystander(|bench, bystander| {
        for case in &cases {
            let mut vmm = bench.connect("vm");
            vmm.write(case);
            vmm.ended();
            bystander.lives();
        }
    });
}

#[test]
fn too_many_descriptors_or_too_few() {
    with_bystander(|bench, _| {
        let mut vmm = bench.connect("vm");
        let fds: Vec<OwnedFd> = (0..33).map(|_| event()).collect();
        vmm.throw(&bytes(&number(SetMemTable, 33)), &fds);
        vmm.ended();
        let mut vmm = bench.connect("vm");
        vmm.throw(&bytes(&Message::new(GetFeatures, vec![])), &fds[..3]);
        vmm.ended();
        let mut vmm = bench.connect("vm");
        assert_eq!(vmm.number(number(SetVringKick, 0)), 1);
        assert_eq!(vmm.number(request(SetVringCall, vec![0; 8], vec![event(), event()])), 1);
        vmm.lives();
    });
}

#[test]
fn bad_memory_is_refused_and_the_session_goes_on() {
    let cases: [(&[[u64; 4]], u64); 6] = [
        (&[[0, 1 << 30, 0, 0]], 1 << 20),
        (&[[0, 1 << 20, 0, 4096]], 1 << 20),
        (&[[0, 0, 0, 0]], 1 << 20),
        (&[[u64::MAX - 4095, 1 << 20, 0, 0]], 1 << 20),
        (&[[0, 1 << 20, 0, 0], [4096, 1 << 20, 0, 0]], 1 << 20),
        (&[], 0),
    ];
    with_bystander(|bench, _| {
        let mut vmm = bench.connect("vm");
        for (regions, size) in cases {
            let files = regions.iter().map(|_| memory_file(size)).collect();
            assert_eq!(vmm.number(table(regions, files)), 1, "{regions:x?}");
        }
        let swapped = [[1 << 20, 1 << 20, 1 << 30, 0], [0, 1 << 20, 0, 0]];
        assert_eq!(vmm.number(table(&swapped, vec![memory_file(1 << 20), memory_file(1 << 20)])), 0);
        bench.until(&Seen::Memory);
        vmm.send(table(&[[0, 1 << 30, 0, 0]], vec![memory_file(4096)]), false);
        vmm.ended();
    });
}

#[test]
fn many_come_and_go() {
    with_bystander(|bench, bystander| {
        for _ in 0..200 {
            let vmm = bench.connect("vm");
            vmm.throw(&bytes(&Message::new(GetFeatures, vec![])), &[event()]);
        }
        bystander.lives();
    });
}

/// A generator of messages that are nearly right (xorshift64, seeded).
struct Nearly(u64);

impl Nearly {
    fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.number() as usize % choices.len()]
    }

    fn message(&mut self) -> Message {
        const USER: u64 = 0x10_0000;
        let index = self.of(&[0, 0, 0, 1, 1, 1, 2, 255, u32::MAX]);
        let value = self.of(&[0, 1, 1, 2, 3, 256, 1024, 4096, u32::MAX]);
        let wide = self.of(&[0, 1, 9, 0x209, 0xa209, 0xa209, 0x229, 0x100, FEATURES, FEATURES, 1 << 26, u64::MAX]);
        let code = self.of(&[
            1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 9, 10, 11, 12, 12, 13, 13, 14, 15, 16, 17, 18, 18, 18, 19, 20, 21, 22,
            24, 24, 25, 28, 31, 32, 33, 34, 35, 36, 37, 37, 37, 37, 38, 38, 38, 39, 40, 41, 42, 43, 44, 77,
        ]);
        let mut body = match code {
            1 | 3 | 4 | 15 | 17 | 34 | 36 | 40 => vec![],
            8 | 10 | 11 | 18 => [index, value].map(u32::to_ne_bytes).concat(),
            9 => {
                let at = |seed: u64| USER + seed % 0x11 * 0x1000 + [0, 0, 0, 1, 2, 8][seed as usize % 6];
                let addresses = [at(self.number()), at(self.number()), at(self.number()), u64::MAX];
                let mut body = [index, self.of(&[0, 0, 1, 2])].map(u32::to_ne_bytes).concat();
                body.extend(addresses.map(u64::to_ne_bytes).concat());
                body
            }
            24 | 25 => {
                let size = self.of(&[0, 1, 6, 12, 60, 256, 4000]);
                let mut body =
                    [self.of(&[0, 4, 100, u32::MAX]), size, self.of(&[0, 1, 4])].map(u32::to_ne_bytes).concat();
                body.resize(12 + size as usize, 0);
                body
            }
            37 | 38 => {
                let guest = self.of(&[0, 0x20_0000, 0x40_0000, 0x40_0000, 0x40_0800, u64::MAX - 4095]);
                let size = self.of(&[0x1000, 0x1000, 0x10_0000, 0, u64::MAX]);
                [0, guest, size, guest.wrapping_add(USER), self.of(&[0, 0, 0, 4096, 7])].map(u64::to_ne_bytes).concat()
            }
            12..=14 => u64::from(index & 0x3ff).to_ne_bytes().to_vec(),
            _ => wide.to_ne_bytes().to_vec(),
        };
        let mut fds = Vec::new();
        if code == 5 {
            let guest = self.of(&[0, 0x1000, 0x10_0000, u64::MAX - 4095]);
            let regions = [[guest, 0x10_0000, USER, self.of(&[0, 0, 0, 4096, 7])], [0x20_0000, 0x1000, 2 * USER, 0]];
            let count = self.of(&[1, 2, 2]);
            fds.extend((0..count).map(|_| memory_file(0x10_1000)));
            body = table(&regions[..count], vec![]).body;
        } else if code == 37 {
            let count = self.of(&[0, 1, 1, 1, 1, 2]);
            fds.extend((0..count).map(|_| memory_file(0x10_1000)));
        } else {
            let count = if (12..=14).contains(&code) || code == 21 {
                self.of(&[0, 1, 1, 1, 1, 2])
            } else {
                self.of(&[0, 0, 0, 0, 1])
            };
            fds.extend((0..count).map(|_| event()));
        }
        if self.number().is_multiple_of(16) {
            body.resize(self.of(&[0, 4, 7, 8, 40]), 0);
        }
        Message { code, flags: 9, body, fds }
    }
}

/// There is no way to say no to this one but to hang up.
fn cannot_be_refused(message: &Message) -> bool {
    let known_ring = message.u32_at(0).is_some_and(|ring| ring < 2);
    match message.request() {
        Some(GetVringBase) => !known_ring || message.body.len() != 8 || message.fds.len() > 1,
        Some(request) => request.has_reply() && message.fds.len() > 1,
        None => false,
    }
}

#[test]
fn nearly_right_messages_never_make_the_backend_hang_up() {
    let seed = 0x9e37_79b9_7f4a_7c15;
    with_bystander(|bench, bystander| {
        let mut nearly = Nearly(seed);
        for session in 0..20 {
            let mut vmm = bench.connect("vm");
            for i in 0..300 {
                let message = nearly.message();
                if cannot_be_refused(&message) {
                    continue;
                }
                let text = format!("session {session}, message {i}: {message:x?}");
                let (code, request) = (message.code, Request::from_code(message.code));
                message.send(&vmm.0).unwrap_or_else(|e| panic!("{text}: {e}"));
                let (answered, _) = vmm.receive().unwrap_or_else(|| panic!("hung up at {text}, {request:?}"));
                assert_eq!(answered, code, "{text}");
            }
            drop(vmm);
            bystander.lives();
        }
    });
}
