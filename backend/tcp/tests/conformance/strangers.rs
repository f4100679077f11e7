use vonic_tcp::{Event, Flags, Note};

use crate::each;

/// Case 22.
#[test]
fn a_reset_is_believed_if_exact_and_passed_on() {
    each(|bench| {
        bench.data(0, 100);
        bench.drain();
        for offset in [101, 5000, 60_000] {
            let effect = bench.segment(offset, 0, Flags::RST);
            assert_eq!((effect.event, effect.note), (None, Some(Note::Challenge)));
            assert_eq!(bench.one().acks, 100);
        }
        for offset in [0, 99, 50_000_000] {
            assert_eq!(bench.segment(offset, 0, Flags::RST), Default::default(), "outside the window");
            assert!(bench.drain().is_empty());
        }
        assert_eq!(bench.segment(100, 0, Flags::RST).event, Some(Event::Reset));
        assert!(bench.leg.is_closed() && bench.drain().is_empty());
    });
    each(|bench| {
        bench.host_sends(1000);
        bench.drain();
        bench.data(0, 70);
        bench.leg.abort();
        let out = bench.one();
        assert!(out.is(Flags::RST | Flags::ACK));
        assert_eq!((out.at, out.acks), (1000, 70), "where the guest expects it");
        assert!(bench.leg.is_closed());
    });
}
