//! The established connections one by one (sock_diag(7)): how long their round trips are, and what they have sent again.
use crate::sys;
use std::io::{self, Read, Write};
use vonic_agent::message::Sockets;

/// The most connections that are looked at.
const COUNT_MAX: usize = 16_384;
/// What one read takes: the kernel never fills more (netlink's largest part of a dump).
const BUFFER: usize = 32 * 1024;
const HEADER: usize = 16;
/// struct inet_diag_msg.
const INET_DIAG_MSG: usize = 72;
/// struct inet_diag_req_v2.
const INET_DIAG_REQUEST: usize = 56;
const INET_DIAG_INFO: u16 = 2;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const TCP_ESTABLISHED: u32 = 1;
/// Places in struct tcp_info, which only grows at its end.
const TCPI_RETRANSMITS: usize = 2;
const TCPI_RETRANS: usize = 36;
const TCPI_RTT: usize = 68;
const TCPI_TOTAL_RETRANS: usize = 100;

/// All established connections of both families; `None` where the kernel has no sock_diag for TCP.
pub fn sockets() -> Option<Sockets> {
    let mut seen = Seen::default();
    let mut answered = false;
    for family in [libc::AF_INET, libc::AF_INET6] {
        // A kernel without IPv6 has IPv4 all the same.
        answered |= dump(family, &mut seen).is_ok();
    }
    answered.then(|| seen.sum())
}

fn dump(family: libc::c_int, seen: &mut Seen) -> io::Result<()> {
    let mut netlink = sys::sock_diag()?;
    netlink.write_all(&request(family as u8))?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = netlink.read(&mut buffer)?;
        if seen.read(&buffer[..length])? {
            return Ok(());
        }
    }
}

/// struct nlmsghdr and struct inet_diag_req_v2: established ones, with their tcp_info.
fn request(family: u8) -> Vec<u8> {
    let length = HEADER + INET_DIAG_REQUEST;
    let mut request = Vec::with_capacity(length);
    request.extend((length as u32).to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([family, libc::IPPROTO_TCP as u8, 1 << (INET_DIAG_INFO - 1), 0]);
    request.extend((1u32 << TCP_ESTABLISHED).to_ne_bytes());
    request.resize(length, 0);
    request
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    rtts: Vec<u32>,
    count: usize,
    more: bool,
    retransmitted: u64,
    retransmitting: u64,
}

impl Seen {
    /// Reads one part of a dump; true if it was the last, or if enough was seen.
    fn read(&mut self, mut part: &[u8]) -> io::Result<bool> {
        let garbage = || io::Error::from(io::ErrorKind::InvalidData);
        if part.is_empty() {
            return Err(garbage());
        }
        while let Some(length) = word(part, 0) {
            let length = length as usize;
            let message = part.get(HEADER..length).ok_or_else(garbage)?;
            match half(part, 4).map(i32::from) {
                Some(libc::NLMSG_DONE) => return Ok(true),
                // The kernel's answer where it has no such thing: a negative errno.
                Some(libc::NLMSG_ERROR) => {
                    let error = word(message, 0).unwrap_or(0) as i32;
                    return Err(io::Error::from_raw_os_error(error.saturating_neg()));
                }
                _ if self.count == COUNT_MAX => {
                    self.more = true;
                    return Ok(true);
                }
                _ => self.socket(message.get(INET_DIAG_MSG..).unwrap_or_default()),
            }
            part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(false)
    }

    /// One connection, by its attributes.
    fn socket(&mut self, mut attributes: &[u8]) {
        self.count += 1;
        while let (Some(length), Some(kind)) = (half(attributes, 0), half(attributes, 2)) {
            let length = usize::from(length);
            let Some(value) = attributes.get(4..length) else { return };
            if kind == INET_DIAG_INFO {
                // Zero: none was measured yet.
                self.rtts.extend(word(value, TCPI_RTT).filter(|rtt| *rtt > 0));
                self.retransmitted += u64::from(word(value, TCPI_TOTAL_RETRANS).unwrap_or(0));
                let waits = value.get(TCPI_RETRANSMITS).is_some_and(|tries| *tries > 0)
                    || word(value, TCPI_RETRANS).is_some_and(|segments| segments > 0);
                self.retransmitting += u64::from(waits);
            }
            attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }

    fn sum(mut self) -> Sockets {
        Sockets {
            count: Some(self.count as u64),
            more: Some(self.more),
            rtt_median_us: percentile(&mut self.rtts, 50),
            rtt_p99_us: percentile(&mut self.rtts, 99),
            retransmitted: Some(self.retransmitted),
            retransmitting: Some(self.retransmitting),
        }
    }
}

/// The smallest value that at least so many percent of all do not exceed.
fn percentile(values: &mut [u32], percent: usize) -> Option<u64> {
    let place = (values.len() * percent).div_ceil(100).checked_sub(1)?;
    let (_, value, _) = values.select_nth_unstable(place);
    Some(u64::from(*value))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = HEADER + body.len();
        let mut message = (length as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize(HEADER, 0);
        message.extend(body);
        message.resize(length.next_multiple_of(4), 0);
        message
    }

    fn socket(rtt: u32, total: u32, tries: u8) -> Vec<u8> {
        let mut info = vec![0; 104];
        info[TCPI_RETRANSMITS] = tries;
        info[TCPI_RTT..TCPI_RTT + 4].copy_from_slice(&rtt.to_ne_bytes());
        info[TCPI_TOTAL_RETRANS..].copy_from_slice(&total.to_ne_bytes());
        let mut body = vec![0; INET_DIAG_MSG];
        // An attribute that is of no interest and has an odd length.
        body.extend([5, 0, 8, 0, 1, 0, 0, 0]);
        body.extend((108u16).to_ne_bytes());
        body.extend(INET_DIAG_INFO.to_ne_bytes());
        body.extend(info);
        message(20, &body)
    }

    #[test]
    fn round_trips_and_retransmissions_are_summed_up() {
        let mut seen = Seen::default();
        let part: Vec<u8> = (1..=100).flat_map(|n| socket(n * 10, n % 2, u8::from(n == 7))).collect();
        assert!(!seen.read(&part).unwrap());
        assert!(!seen.read(&socket(0, 3, 0)).unwrap());
        assert!(seen.read(&message(libc::NLMSG_DONE as u16, &[0; 4])).unwrap());
        let expected = Sockets {
            count: Some(101),
            more: Some(false),
            rtt_median_us: Some(500),
            rtt_p99_us: Some(990),
            retransmitted: Some(53),
            retransmitting: Some(1),
        };
        assert_eq!(seen.sum(), expected);
    }

    #[test]
    fn errors_and_garbage_end_the_dump() {
        let refused = message(libc::NLMSG_ERROR as u16, &(-libc::ENOENT).to_ne_bytes());
        assert_eq!(Seen::default().read(&refused).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        let whole = socket(1, 1, 1);
        for end in 0..whole.len() {
            // What is cut off is an error, or too short for anything; it is never a panic, nor endless.
            drop(Seen::default().read(&whole[..end]));
        }
        assert!(Seen::default().read(&[0; 64]).is_err());
        let mut full = Seen { count: COUNT_MAX, ..Seen::default() };
        assert!(full.read(&whole).unwrap() && full.more);
    }

    #[test]
    fn this_machines_connections_have_round_trips() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
        // A kernel without tcp_diag says so.
        let Some(sockets) = sockets() else { return };
        assert!(sockets.count.unwrap() >= 2 && sockets.rtt_median_us.unwrap() > 0, "{sockets:?}");
        assert!(sockets.rtt_p99_us >= sockets.rtt_median_us);
    }
}
