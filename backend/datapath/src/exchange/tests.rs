//! The hand-over without frames: does every parcel come back, whatever becomes of whom it was for, and does nobody sleep over one?
use super::*;
use crate::worker::events::{Poller, Token};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::thread;
use vonic_frame::{Frame, VnetHeader};

const NOW: Instant = Instant(0);
const PORT: PortId = 7;

fn exchanges<const N: usize>() -> [Exchange; N] {
    let seats = seats(N).unwrap();
    seats.into_iter().map(Exchange::new).collect::<Vec<_>>().try_into().ok().unwrap()
}

/// Sends a burst with a frame for these workers, and one more for each on top.
fn send(from: &mut Exchange, workers: &[usize]) -> Sent {
    let head = [0xffu8; 60];
    let frame = Frame::parse(&head, 60).unwrap();
    let bursts = from.spare_bursts();
    let inbound = Inbound { burst: &bursts[0], chain: 0, start: 12, vnet: VnetHeader::default(), head: &head, frame };
    let all = workers.iter().fold(0, |all, worker| all | bit(*worker));
    from.post((Recipient::Members, all), 0, &inbound);
    workers.iter().for_each(|worker| from.post((Recipient::Port(PORT), bit(*worker)), 1, &inbound));
    assert!(from.has_letters());
    let sent = from.send((9, 3), bursts, NOW);
    assert!(!from.has_letters());
    sent
}

/// What came from a worker.
fn receive(by: &mut Exchange, from: usize) -> Option<Arc<Parcel>> {
    match by.peers[from].as_mut()?.pop()? {
        Message::Parcel(parcel) => Some(parcel),
        Message::News(_) => panic!("news"),
    }
}

#[test]
fn a_parcel_is_back_when_all_have_given_it_back_and_is_used_again() {
    let [mut a, mut b, mut c] = exchanges();
    for _ in 0..3 {
        let sent = send(&mut a, &[1, 2]);
        for (other, worker) in [(&mut b, 1), (&mut c, 2)] {
            assert!(!sent.is_settled());
            let parcel = receive(other, 0).unwrap();
            assert!(parcel.take(worker) && !parcel.take(worker));
            assert_eq!((parcel.vm(), parcel.network()), (9, 3));
            let letters: Vec<_> =
                parcel.letters(worker).map(|(letter, frame)| (letter.to(), frame.frame.len)).collect();
            assert_eq!(letters, [(Recipient::Members, 60), (Recipient::Port(PORT), 60)]);
            parcel.copied(worker).unwrap().add(100 * worker as u64);
            other.taken.push((0, parcel));
            assert!(!sent.is_settled());
            other.give_back();
        }
        assert!(sent.is_settled());
        assert_eq!((sent.parcel.copied_by_all(), sent.parcel.lost()), (300, 0));
        a.put_away(sent.parcel);
        assert_eq!((a.empty.len(), a.spare.len(), a.left.len()), (1, 1, 0));
    }
}

#[test]
fn what_is_not_taken_in_time_is_not_taken_any_more() {
    let [mut a, mut b, mut c] = exchanges();
    let sent = send(&mut a, &[1, 2]);
    let (of_b, of_c) = (receive(&mut b, 0).unwrap(), receive(&mut c, 0).unwrap());
    assert!(of_b.take(1));
    sent.revoke(3);
    assert!(!sent.is_settled(), "b has begun");
    of_b.give_back(1);
    assert!(sent.is_settled() && !of_c.take(2));
    // The frame for everybody, and c's own.
    assert_eq!((sent.parcel.lost(), sent.parcel.revoked()), (2, bit(2)));
    drop(of_b);
    a.put_away(sent.parcel);
    assert!(a.is_to_look_again(), "guest memory is held as long as c has it");
    // Until c has let go of it, nothing is for c.
    let next = send(&mut a, &[1, 2]);
    assert!(receive(&mut b, 0).unwrap().take(1) && receive(&mut c, 0).is_none());
    assert_eq!(next.parcel.revoked(), bit(2));
    drop(of_c);
    a.tidy();
    assert!(!a.is_to_look_again());
    send(&mut a, &[2]);
    assert!(receive(&mut c, 0).unwrap().take(2));
}

#[test]
fn a_full_ring_and_a_worker_that_is_gone_cost_the_frames_and_nothing_else() {
    let [mut a, mut b] = exchanges();
    let mut held = Vec::new();
    let full = loop {
        let sent = send(&mut a, &[1]);
        if sent.is_settled() {
            break sent;
        }
        held.push(sent);
    };
    assert!(held.len() >= 1024 && full.parcel.lost() == 2);
    let first = receive(&mut b, 0).unwrap();
    assert!(first.take(1), "what was sent before is there");
    drop(b);
    drop(first);
    held.iter().for_each(|sent| sent.revoke(2));
    assert!(held[1..].iter().all(Sent::is_settled) && !held[0].is_settled());
    assert_eq!(held[1].parcel.lost(), 2);
}

#[test]
fn news_waits_for_room_and_goes_before_what_follows_from_it() {
    let [mut a, mut b] = exchanges();
    let mut claims = Claims::default();
    let news = |claims: Claims| move |port| News { port, live: true, claims };
    for _ in 0..1024 {
        a.note(PORT);
        a.tell(news(claims));
        assert!(!a.has_news());
    }
    a.note(PORT);
    a.tell(news(claims));
    assert!(a.has_news() && send(&mut a, &[1]).is_settled(), "nothing overtakes it");
    claims.add("fe80::7".parse().unwrap());
    b.peers[0].as_mut().unwrap().pop().unwrap();
    a.tell(news(claims));
    assert!(!a.has_news());
    let all = std::iter::from_fn(|| b.peers[0].as_mut().unwrap().pop());
    let Some(Message::News(last)) = all.last() else { panic!("no news") };
    assert!(last.port == PORT && last.claims.has("fe80::7".parse().unwrap()));
}

#[test]
fn of_a_port_elsewhere_it_is_known_where_and_whether_it_is() {
    let [mut a, _b] = exchanges();
    let at: SocketAddr = "127.0.0.1:80".parse().unwrap();
    let member = |worker, listens| Member {
        port: PORT,
        worker,
        network: 3,
        mac: vonic_frame::MacAddr::default(),
        addresses: [None; 2],
        listens,
        places: Vec::new(),
    };
    assert!(a.learn(member(1, vec![])) && !a.learn(member(1, vec![(6, at)])));
    assert_eq!((a.worker_of(PORT), a.is_live(PORT), a.ports_elsewhere()), (bit(1), false, 1));
    assert_eq!(a.listens().collect::<Vec<_>>(), [(6, at)]);
    assert_eq!((a.forget(PORT), a.forget(PORT), a.worker_of(PORT)), (Some(3), None, 0));
}

/// One thread sends and gives up at any time, the other takes and gives back: whoever knows a parcel settled finds nobody reading it.
#[test]
fn nobody_reads_what_is_settled() {
    const PARCELS: u64 = 20_000;
    let [mut a, mut b] = exchanges();
    let (reading, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
    let (reads, ends) = (Arc::clone(&reading), Arc::clone(&done));
    let reader = thread::spawn(move || {
        let mut taken = 0u64;
        while ends.load(Ordering::Acquire) == 0 {
            let Some(parcel) = receive(&mut b, 0) else {
                thread::yield_now();
                continue;
            };
            if parcel.take(1) {
                reads.store(1, Ordering::Relaxed);
                assert_eq!(parcel.letters(1).count(), 2);
                taken += 1;
                reads.store(0, Ordering::Relaxed);
                b.taken.push((0, parcel));
                b.give_back();
            }
        }
        taken
    });
    let (mut lost, mut given_up) = (0u64, 0);
    for n in 0..PARCELS {
        let sent = send(&mut a, &[1]);
        for spin in 0.. {
            if sent.is_settled() {
                break;
            }
            if n % 3 == 0 && spin >= n % 4 {
                sent.revoke(2);
                given_up += 1;
            }
            thread::yield_now();
        }
        assert_eq!(reading.load(Ordering::Relaxed), 0);
        lost += u64::from(sent.parcel.lost() > 0);
        a.put_away(sent.parcel);
        a.tidy();
    }
    done.store(1, Ordering::Release);
    let taken = reader.join().unwrap();
    assert_eq!(taken + lost, PARCELS);
    assert!(taken > 0 && given_up > 0);
}

/// Two workers that sleep whenever they may, and have nothing but each other to wake them.
#[test]
fn nobody_sleeps_over_what_was_sent_or_has_come_back() {
    const ROUNDS: usize = 5_000;
    /// Far beyond every stall: a wake-up that is missed is seen as this.
    const MISSED: i32 = 20_000;
    let poller = |exchange: &Exchange| {
        let poller = Poller::new().unwrap();
        poller.watch_input(exchange.line.event.as_raw_fd(), Token::Wake).unwrap();
        poller
    };
    let [mut a, mut b] = exchanges();
    let (mut of_a, mut of_b) = (poller(&a), poller(&b));
    let taker = thread::spawn(move || {
        let mut taken = 0;
        while taken < ROUNDS {
            while let Some(parcel) = receive(&mut b, 0) {
                assert!(parcel.take(1));
                b.taken.push((0, parcel));
                taken += 1;
            }
            b.give_back();
            if taken < ROUNDS && b.may_sleep(|_| false) {
                assert!(of_b.wait(MISSED) > 0, "{taken}: a parcel was slept over");
                let _ = b.line.event.read();
            }
            b.is_awake();
        }
    });
    a.sent.push(PORT);
    for round in 0..ROUNDS {
        let sent = send(&mut a, &[1]);
        while !sent.is_settled() {
            if a.may_sleep(|_| sent.is_settled()) {
                assert!(of_a.wait(MISSED) > 0, "{round}: a return was slept over");
                let _ = a.line.event.read();
            }
            a.is_awake();
        }
        a.put_away(sent.parcel);
        a.tidy();
    }
    taker.join().unwrap();
}
