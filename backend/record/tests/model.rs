//! A record is seen whole or not at all, in every order of the writer's and the reader's steps (loom). The source is the one that runs.
#![allow(clippy::unwrap_used, dead_code, reason = "a test may fail; and not all of the source is looked at")]

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
}

#[path = "../src/layout.rs"]
mod layout;
#[path = "../src/record.rs"]
mod record;
/// Of which the layout speaks.
pub const WORKERS_MAX: usize = 16;

use layout::RECORD;
use loom::sync::Arc;
use loom::thread;
use record::{Bits, Kind, Options, Record, Words};
use sync::AtomicU64;

fn record() -> Record {
    Record {
        iss: 0xffff_fff0,
        timestamps: 0x8000_0001,
        guest: ([192, 0, 2, 2], 4000).into(),
        remote: ([203, 0, 113, 7], 443).into(),
        opened: 1 << 50,
        base: (3, 4),
        ..Record::endless(Kind::GuestOpens, 5, (6, 7), Bits::default())
    }
}

#[test]
fn a_record_is_seen_whole_or_not_at_all() {
    let mut builder = loom::model::Builder::new();
    // Of each store that is missed there is a step to be seen without it.
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let words: Arc<[AtomicU64; RECORD]> = Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
        let writer = {
            let words = Arc::clone(&words);
            thread::spawn(move || Words(&*words).write(&record()))
        };
        let seen = Words(&*words).read();
        assert!(seen.is_none_or(|seen| seen == record()), "{seen:?}");
        writer.join().unwrap();
        assert_eq!(Words(&*words).read(), Some(record()));
    });
}

/// The bit that says so is seen with what was agreed to.
#[test]
fn what_was_agreed_to_is_there_with_its_bit() {
    let agreed = Options { mss: 1448, send_scale: 7, scaled: true, sack: true, timestamps: true };
    loom::model(move || {
        let words: Arc<[AtomicU64; RECORD]> = Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
        Words(&*words).write(&record());
        let writer = {
            let words = Arc::clone(&words);
            thread::spawn(move || Words(&*words).synchronize(77, agreed))
        };
        let seen = Words(&*words).read().unwrap();
        if seen.bits.has(Bits::SYNCHRONIZED) {
            assert_eq!((seen.irs, seen.options), (77, agreed));
        }
        writer.join().unwrap();
    });
}
