//! Ports of every shape, each made of a few bytes.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use vonic_migration::{DatagramState, FlowState, Identity, PortState};
use vonic_record::Options;
use vonic_uplink::{Agreed, SocketState, Stage};

/// Values drawn from bytes; zeros behind them.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn word(&mut self) -> u32 {
        u32::from_be_bytes(std::array::from_fn(|_| self.byte()))
    }

    fn long(&mut self) -> u64 {
        u64::from(self.word()) << 32 | u64::from(self.word())
    }

    fn address(&mut self, v6: bool) -> SocketAddr {
        let ip = if v6 {
            IpAddr::from(Ipv6Addr::from(u128::from(self.long()) << 64 | 7))
        } else {
            Ipv4Addr::from(self.word()).into()
        };
        SocketAddr::new(ip, self.word() as u16)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = usize::from(self.byte()) * 7;
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    fn socket(&mut self) -> SocketState {
        const STAGES: [Stage; 5] = [Stage::Connecting, Stage::Open, Stage::PeerFinished, Stage::Over, Stage::Reset];
        let v6 = self.flag();
        let send = self.bytes();
        SocketState {
            local: self.address(v6),
            remote: self.address(v6),
            stage: STAGES[usize::from(self.byte()) % 5],
            shut: self.flag(),
            taken: self.word(),
            dropped: self.word(),
            send_from: self.word(),
            unsent: self.word() % (send.len() as u32 + 1),
            send,
            received_to: self.word(),
            received: self.bytes(),
            agreed: Agreed {
                mss: self.word(),
                scales: self.flag().then(|| (self.byte(), self.byte())),
                sack: self.flag(),
                timestamp: self.flag().then(|| self.word()),
            },
            window: std::array::from_fn(|_| self.word()),
            buffers: (self.word(), self.word()),
        }
    }

    fn flow(&mut self) -> FlowState {
        let v6 = self.flag();
        FlowState {
            guest_opens: self.flag(),
            bits: self.long(),
            guest: self.address(v6),
            remote: self.address(v6),
            host: self.address(false),
            iss: self.word(),
            irs: self.word(),
            options: Options {
                mss: self.word() as u16,
                send_scale: self.byte(),
                scaled: self.flag(),
                sack: self.flag(),
                timestamps: self.flag(),
            },
            timestamps: self.word(),
            opened: self.long(),
            socket: self.flag().then(|| self.socket()),
        }
    }

    fn datagrams(&mut self) -> DatagramState {
        let (v6, opened) = (self.flag(), self.long());
        DatagramState {
            echo: self.flag(),
            bits: self.long(),
            guest: self.address(v6),
            remote: self.address(v6),
            host: self.address(true),
            local: self.address(true),
            opened,
            used: opened.saturating_add(self.word().into()),
        }
    }
}

/// A port made of these bytes.
pub fn port(bytes: &[u8]) -> PortState {
    let source = &mut Source(bytes);
    let count = |source: &mut Source<'_>| source.byte() % 4;
    PortState {
        identity: Identity {
            name: format!("vm{}", source.byte()),
            mac: std::array::from_fn(|_| source.byte()),
            features: source.long(),
            mtu: source.word() as u16,
        },
        saved: source.long(),
        clock: source.long(),
        claims: (0..count(source)).map(|_| Ipv6Addr::from(u128::from(source.long()))).collect(),
        counters: (0..count(source)).map(|n| (format!("counter{n}"), source.long())).collect(),
        datagrams: (0..count(source)).map(|_| source.datagrams()).collect(),
        flows: (0..count(source)).map(|_| source.flow()).collect(),
    }
}
